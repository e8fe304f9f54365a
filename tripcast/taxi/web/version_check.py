"""Tries a model before it serves, in a process of its own (``serving/version_trial.py``).

    python -m tripcast.taxi.web.version_check FOLDER

Ends with 0 if it predicts every trip that is asked of it here, and otherwise prints why not and ends with 1.
"""

from __future__ import annotations

import signal
import sys
from itertools import product
from math import isfinite, nan
from pathlib import Path

import numpy as np

from tripcast.errors import TripcastError
from tripcast.models import Model
from tripcast.taxi.trips import Trip, Trips
from tripcast.taxi.zones import LAST_ZONE

#: East Harlem to the Upper East Side at 2021-02-10T08:15:00, which is the input example of every registered version.
KNOWN_TRIP = Trip(74, 236, 2.3, 1_612_944_900)

_WEEK = 7 * 86_400

#: Seconds after which the system ends this process, should nobody wait for it any more.
_LONGEST_SECONDS = 120


def check(folder: Path) -> str | None:
    """Load a model, and have it predict the known trip and one between any two zones, at all times of a week.

    Args:
        folder: The model folder.

    Returns:
        Why it cannot serve; None if it can.
    """
    try:
        model = Model.load(folder)
        one = model.predict_one(KNOWN_TRIP)
        zones = range(LAST_ZONE + 1)
        many = model.predict(
            Trips.of(
                [
                    Trip(pickup, dropoff, nan if row % 2 else 0.5 + row % 40 / 2, KNOWN_TRIP.pickup + row * 997 % _WEEK)
                    for row, (pickup, dropoff) in enumerate(product(zones, zones))
                ]
            )
        )
    except TripcastError as error:
        return str(error)
    except Exception as trouble:  # of whatever damage: it is what is being found out
        return f"it fails on known trips ({trouble!r})"
    minutes, lower, upper = one
    if not (isfinite(minutes + lower + upper) and 0 < lower <= minutes <= upper):
        return f"it predicts {minutes} minutes, {lower} to {upper}, for a known trip"
    right = np.isfinite(many.upper) & (many.lower > 0) & (many.lower <= many.minutes) & (many.minutes <= many.upper)
    if not right.all():
        row = int(np.argmin(right))
        minutes, lower, upper = many.minutes[row], many.lower[row], many.upper[row]
        return f"it predicts {minutes} minutes, {lower} to {upper}, from zone {row // len(zones)} to {row % len(zones)}"
    return None


if __name__ == "__main__":
    signal.alarm(_LONGEST_SECONDS)
    if reason := check(Path(sys.argv[1])):
        print(reason)
        sys.exit(1)
