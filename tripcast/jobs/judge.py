"""What a version makes of trips that have ended, beside the truth."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tripcast.models import Model
from tripcast.monitoring.quality import judged, judged_schema
from tripcast.taxi.trips import Trips
from tripcast.taxi.ways import METERED, ways_of

#: Trips predicted at a time: bounds the memory of their features.
_BATCH_TRIPS = 1 << 17


def score(model: Model, trips: Trips, *, version: int, arm: str = "champion", metered: bool = True) -> pa.Table:
    """Predict trips whose durations are known, where nothing was logged.

    Args:
        model: The served model.
        trips: The window's trips, with durations.
        version: The model's number in the registry.
        arm: As what it served.
        metered: Whether the distances are the meter's, as published, and not those that riders asked with.

    Returns:
        A row for each trip, in ``judged_schema``.

    Raises:
        ValueError: If the trips have no durations.
    """
    answered = []
    for start in range(0, len(trips), _BATCH_TRIPS):
        part = trips[start : start + _BATCH_TRIPS]
        # As evaluation has them: the few without a plausible distance count among the metered.
        ways = np.full(len(part), METERED) if metered else ways_of(part, metered=False)
        answered.append(judged(part, ways, model.predict(part, metered), version=version, arm=arm))
    return pa.concat_tables([judged_schema().empty_table(), *answered])
