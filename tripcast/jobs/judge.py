"""What a version makes of trips that have ended, beside the truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tripcast.models import Model, Prediction
from tripcast.monitoring.quality import judged_schema
from tripcast.taxi.trips import Trips
from tripcast.taxi.ways import METERED, recorded_way, ways_of

#: Trips predicted at a time: bounds the memory of their features.
_BATCH_TRIPS = 1 << 17


def score(model: Model, trips: Trips, *, version: int, arm: str = "champion", metered: bool = True) -> pa.Table:
    """Predict trips whose durations are known, where nothing was logged.

    Args:
        model: The served model.
        trips: The window's trips, with durations.
        version: The model's number in the registry.
        arm: As what it served.
        metered: Whether what is said of distances is what was recorded, and not what riders asked with.

    Returns:
        A row for each trip, in ``judged_schema``.

    Raises:
        ValueError: If the trips have no durations.
    """
    answered = []
    for start in range(0, len(trips), _BATCH_TRIPS):
        part = trips[start : start + _BATCH_TRIPS]
        # As evaluation has them: the few without a plausible distance count among the metered.
        measured = metered and recorded_way(part) == METERED
        ways = np.full(len(part), METERED) if measured else ways_of(part, metered=False)
        answered.append(judged(part, ways, model.predict(part, measured), version=version, arm=arm))
    return pa.concat_tables([judged_schema().empty_table(), *answered])


def judged(
    trips: Trips, ways: npt.NDArray[np.str_], prediction: Prediction, *, version: int, arm: str = "champion"
) -> pa.Table:
    """Predictions beside the true durations of their trips.

    Args:
        trips: The trips, with durations.
        ways: In which way each was asked for, (n,).
        prediction: What was predicted for them.
        version: By which version.
        arm: As what it served.

    Returns:
        A row for each trip, in ``judged_schema``.

    Raises:
        ValueError: If the trips have no durations.
    """
    if trips.duration_minutes is None:
        raise ValueError("The trips to judge on have no durations.")
    n = len(trips)
    columns = [
        pa.nulls(n, pa.string()),
        pa.repeat(pa.scalar(version, pa.int32()), n),
        pa.repeat(pa.scalar(arm), n),
        pa.array(ways, pa.string()),
        trips.pickup_datetime,
        prediction.minutes,
        prediction.lower,
        prediction.upper,
        trips.duration_minutes,
    ]
    return pa.table(columns, schema=judged_schema())
