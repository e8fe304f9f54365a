"""Why a prediction is what it is: by how many minutes distance, hour and the two zones move it from an average trip's.

LightGBM says what each feature adds to a prediction (``Booster.contributions``). A feature belongs to one of four
groups, which people know by name, or to several: ``estimate`` multiplies the usual minutes for the miles with the pace
at that hour, from there and to there, and its contribution is shared out as its logarithm is, which is a sum. So is
that of ``usual_estimate``, which is the same without what was said of the distance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from tripcast.models import Model
from tripcast.taxi.candidates.boosted import Boosted
from tripcast.taxi.features import FEATURES
from tripcast.taxi.trips import Trip, Trips

Floats = npt.NDArray[np.float64]

#: How much of a feature belongs to distance, hour, pickup zone and dropoff zone. ``estimate``: see ``_share_out``.
SHARES = {
    "pickup_pace": (0, 0, 1, 0),
    "dropoff_pace": (0, 0, 0, 1),
    "pair_pace": (0, 0, 0.5, 0.5),
    "usual_miles": (1, 0, 0, 0),
    "pickup_x": (0, 0, 1, 0),
    "pickup_y": (0, 0, 1, 0),
    "dropoff_x": (0, 0, 0, 1),
    "dropoff_y": (0, 0, 0, 1),
    "east": (1, 0, 0, 0),
    "north": (1, 0, 0, 0),
    "crow_flight": (1, 0, 0, 0),
    "taxicab": (1, 0, 0, 0),
    "recent": (0, 1, 0, 0),
    "usual_minutes": (1, 0, 0, 0),
    "miles": (1, 0, 0, 0),
    "miles_to_usual": (1, 0, 0, 0),
    "miles_to_crow_flight": (1, 0, 0, 0),
    "hour_of_day": (0, 1, 0, 0),
    "weekday": (0, 1, 0, 0),
    "hour_pace": (0, 1, 0, 0),
    "minutes_for_miles": (1, 0, 0, 0),
}
_ESTIMATE, _USUAL_ESTIMATE = FEATURES.index("estimate"), FEATURES.index("usual_estimate")
_OTHERS = [FEATURES.index(name) for name in SHARES]


class Explanation(Struct, frozen=True, gc=False):
    """Why a prediction is what it is, in minutes: an average trip's, and what the others add; the sum is the duration.

    Attributes:
        average: The mean prediction over the trips that the model learned from.
        distance: What the miles between the zones, or those that were given, add.
        hour: What the hour and the weekday add.
        pickup_zone: What starting there adds.
        dropoff_zone: What going there adds.
    """

    average: float
    distance: float
    hour: float
    pickup_zone: float
    dropoff_zone: float


def explain(model: Model, trip: Trip, minutes: float) -> Explanation | None:
    """Say why a prediction is what it is.

    Args:
        model: The model that made it.
        trip: The trip.
        minutes: The predicted duration.

    Returns:
        None for a model that is not made of boosted trees.
    """
    predictor = model.predictor
    if not isinstance(predictor, Boosted):
        return None
    contributions = predictor.contributions(trip)
    average = float(contributions[-1])
    groups = contributions[_OTHERS] @ np.array(list(SHARES.values()))
    for place, miles in ((_ESTIMATE, trip.trip_distance_miles), (_USUAL_ESTIMATE, np.nan)):
        asked = Trips.of([trip._replace(trip_distance_miles=miles)])
        effects = predictor.tables.effects(asked)[0] - [np.log(average), 0, 0, 0]
        groups += _share_out(contributions[place], effects, most=average)
    # The contract's bounds, between which predictions are kept, are nobody's contribution.
    moved = groups.sum()
    if moved:
        groups *= (minutes - average) / moved
    return Explanation(average, *groups.tolist())


def _share_out(contribution: float, effects: Floats, most: float) -> Floats:
    """What each effect has in the contribution of the feature that is the exponential of their sum.

    A function of a sum owes each term its part in proportion (Aumann & Shapley 1974, Values of Non-Atomic Games). Where
    the effects nearly cancel out the factor is not known: it is kept between 0 and what the exponential itself would
    do, and what is left goes to the effects by their size.

    Args:
        contribution: Of the feature, minutes.
        effects: By group, log minutes, as differences from an average trip's.
        most: The most that the factor may be, minutes.
    """
    total = effects.sum()
    factor = np.clip(contribution / total, 0.0, most) if total else 0.0
    size = np.abs(effects)
    left = contribution - factor * total
    shares: Floats = factor * effects + left * size / max(size.sum(), 1e-9)
    return shares
