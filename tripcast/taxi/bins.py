"""The cells into which trips are counted, to see whether later trips are like those that a model learned from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tripcast.monitoring.reference import PREDICTED, VALUES, Batch, Bins, Cells, Profile, value_cells
from tripcast.taxi.features import has_plausible_distance
from tripcast.taxi.trips import Trips
from tripcast.taxi.zones import LAST_ZONE, UNKNOWN_ZONE

#: A cell for each zone, hour and weekday; cell 0 of a zone is what has none.
_ZONES = Bins(LAST_ZONE + 1, missing=(0, UNKNOWN_ZONE), places=True)
BINS = {
    "pickup_zone": _ZONES,
    "dropoff_zone": _ZONES,
    "trip_distance_miles": VALUES,
    "hour_of_day": Bins(24),
    "weekday": Bins(7),
    PREDICTED: VALUES,
}


def profile_trips(trips: Iterable[Trips], predicted: Iterable[npt.NDArray[np.float64]]) -> Profile:
    """Profile trips and predictions, see ``Profile.of``.

    Args:
        trips: Any number of trips at a time.
        predicted: Predicted minutes, (n,) any number at a time; of these trips or of others.

    Raises:
        ContractError: If there are no trips, or no predictions at all.
    """
    return Profile.of(BINS, map(_batch, trips), predicted)


def _batch(trips: Trips) -> Batch:
    hour = trips.pickup_datetime.astype("datetime64[h]").astype(np.int64)
    cells = {
        "pickup_zone": _zone_cells(trips.pickup_zone),
        "dropoff_zone": _zone_cells(trips.dropoff_zone),
        "trip_distance_miles": value_cells(trips.trip_distance_miles, has_plausible_distance(trips)),
        "hour_of_day": hour % 24,
        "weekday": (hour // 24 + 3) % 7,  # Monday is 0; 1970-01-01, from which numpy counts, was a Thursday
    }
    return Batch(cells, trips.pickup_datetime)


def _zone_cells(zones: npt.NDArray[np.int16]) -> Cells:
    return np.where((zones >= 1) & (zones <= LAST_ZONE), zones, 0).astype(np.intp)
