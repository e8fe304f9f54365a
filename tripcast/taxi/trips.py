"""The trip record: the columns that tripcast keeps of it, and the trips that models are trained and judged on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

#: The column that not every feed has.
MILES = "trip_distance_miles"

#: What is known when a trip begins: all that a model may look at.
PICKUP_COLUMNS = ("pickup_datetime", "pickup_zone", "dropoff_zone", MILES)

#: What a model predicts, in minutes.
TARGET = "duration_minutes"

#: The trips that are kept last this long, both inclusive: the rule of the notebook whose figures tripcast reproduces.
SHORTEST_MINUTES, LONGEST_MINUTES = 1, 60

#: How many trips of those in memory are looked at together.
_BATCH_TRIPS = 1 << 17

#: A trip of more miles than this is kept, for its duration is good, but flagged: no taxi drives that far in an hour.
FARTHEST_MILES = 100


class Trip(NamedTuple):
    """One trip that has not ended yet: all that a model may look at.

    Attributes:
        pickup_zone: Taxi zone number; one that does not exist counts as never seen.
        dropoff_zone: Taxi zone number, likewise.
        trip_distance_miles: Miles; NaN where unknown, and an implausible distance counts as that.
        pickup: Seconds since 1970-01-01, New York local time.
    """

    pickup_zone: int
    dropoff_zone: int
    trip_distance_miles: float
    pickup: int


@dataclass(frozen=True)
class Trips:
    """Trips as columns of equal length n.

    Attributes:
        pickup_datetime: datetime64[us] (n,), New York local time.
        pickup_zone: int16 (n,), taxi zone number 1 to 265.
        dropoff_zone: int16 (n,), taxi zone number 1 to 265.
        trip_distance_miles: float64 (n,), as the meter recorded it; dirty: zeros and absurd values occur. NaN, all of
            them, where the feed has no distance.
        duration_minutes: float64 (n,), the truth; None where the trip has not ended yet.
    """

    pickup_datetime: npt.NDArray[np.datetime64]
    pickup_zone: npt.NDArray[np.int16]
    dropoff_zone: npt.NDArray[np.int16]
    trip_distance_miles: npt.NDArray[np.float64]
    duration_minutes: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, trips: Sequence[Trip]) -> Trips:
        """Single trips as columns."""
        pickup_zone, dropoff_zone, miles, pickup = zip(*trips, strict=True) if trips else ((), (), (), ())
        return cls(
            np.array(pickup, "datetime64[s]").astype("datetime64[us]"),
            np.array(pickup_zone, np.int16),
            np.array(dropoff_zone, np.int16),
            np.array(miles, np.float64),
        )

    def __len__(self) -> int:
        return len(self.pickup_zone)

    def __iter__(self) -> Iterator[Trip]:
        """The trips one by one."""
        seconds = self.pickup_datetime.astype("datetime64[s]").astype(np.int64)
        columns = (self.pickup_zone, self.dropoff_zone, self.trip_distance_miles, seconds)
        return map(Trip, *(column.tolist() for column in columns))

    def __getitem__(self, rows: slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Trips:
        """The trips at some rows: a slice, a mask or indices."""
        return Trips(
            self.pickup_datetime[rows],
            self.pickup_zone[rows],
            self.dropoff_zone[rows],
            self.trip_distance_miles[rows],
            None if self.duration_minutes is None else self.duration_minutes[rows],
        )

    def batches(self) -> Iterator[Trips]:
        """The trips a batch at a time, as ``TripBatches`` has them."""
        for start in range(0, len(self), _BATCH_TRIPS):
            yield self[start : start + _BATCH_TRIPS]

    @classmethod
    def joined(cls, parts: Sequence[Trips]) -> Trips:
        """Ended trips, one part after the other; there is at least one."""
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))


class TripBatches(Protocol):
    """Ended trips that are read a batch at a time, as often as asked: ``Trips``, or files of more than memory holds."""

    def __len__(self) -> int:
        """How many trips."""

    def batches(self) -> Iterator[Trips]:
        """The trips, in order; no batch is empty."""


def sample(trips: TripBatches, most: int) -> Trips:
    """All trips, or so many of them, at even distances, where there are more.

    Args:
        trips: Ended trips, at least one.
        most: How many at most.
    """
    total, start, parts = len(trips), 0, []
    wanted = np.linspace(0, total - 1, min(total, most)).astype(np.int64)
    for batch in trips.batches():
        first, end = np.searchsorted(wanted, (start, start + len(batch)))
        parts.append(batch[wanted[first:end] - start])
        start += len(batch)
    return Trips.joined(parts)
