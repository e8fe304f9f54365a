"""Parcels as columns. Where the general half says minutes, these are hours: the unit is a word."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np

SHORTEST_MINUTES, LONGEST_MINUTES = 1, 60
DEPOTS = ("north", "east", "south")


class Trip(NamedTuple):
    """One parcel that is not delivered yet."""

    depot: int
    kilometres: float
    kilograms: float
    pickup: int


@dataclass(frozen=True)
class Trips:
    """Parcels, as columns of equal length n; ``duration_minutes`` is None while they are on their way."""

    pickup_datetime: np.ndarray
    depot: np.ndarray
    kilometres: np.ndarray
    kilograms: np.ndarray
    duration_minutes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.depot)

    def batches(self):
        return [self]

    @classmethod
    def joined(cls, parts) -> Trips:
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))

    def __getitem__(self, rows) -> Trips:
        columns = (getattr(self, column.name) for column in fields(self))
        return Trips(*(None if column is None else column[rows] for column in columns))


class TripBatches(Protocol):
    """Parcels in memory, or in files."""

    def batches(self): ...


def sample(trips, most) -> Trips:
    return Trips.joined(list(trips.batches()))[:most]
