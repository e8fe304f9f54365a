"""What a registered version makes of trips, beside the truth of those that have ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tripcast.models import Model, Prediction
from tripcast.monitoring.quality import judged_schema
from tripcast.monitoring.reference import PROFILE, Profile
from tripcast.registry.registry import Registry
from tripcast.registry.versions import Version
from tripcast.taxi.bins import BINS
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


@dataclass(frozen=True)
class Served:
    """A version with what it takes to judge it.

    Attributes:
        version: The registered version.
        model: Its model.
        profile: Of what it learned from; None for a version that was registered without.
    """

    version: Version
    model: Model
    profile: Profile | None

    @property
    def number(self) -> int:
        """The registry's number."""
        return self.version.number

    def answer(self, trips: Trips, arm: str = "champion", metered: bool = True) -> pa.Table:
        """What the version makes of ended trips, in ``judged_schema``, as ``score``."""
        return score(self.model, trips, version=self.number, arm=arm, metered=metered)


def open_version(registry: Registry, version: Version) -> Served:
    """A version, its model and its reference, from the artifact store."""
    with TemporaryDirectory() as scratch:
        folder = registry.download(version, Path(scratch))
        profile = folder / PROFILE
        return Served(version, Model.load(folder), Profile.load(profile, BINS) if profile.exists() else None)


def asked_trips(log: pa.Table) -> Trips:
    """The trips that were asked for, without durations."""
    return Trips(
        log["pickup_datetime"].to_numpy(),
        log["pickup_zone"].to_numpy(),
        log["dropoff_zone"].to_numpy(),
        pc.fill_null(log["trip_distance_miles"], np.nan).to_numpy(),
    )
