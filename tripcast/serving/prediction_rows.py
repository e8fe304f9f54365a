"""A row of the prediction log: what an answer is in memory, until it is a row of a table (``prediction_table``).

What is known of a trip is packed as the tuple that it is: another problem changes the record.
"""

from __future__ import annotations

import struct
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import count
from time import time_ns
from typing import Literal, NamedTuple

import numpy as np

#: A row in memory. ``struct`` packs one row and numpy reads many, so the two are the same in order and width.
RECORD = np.dtype(
    [
        ("number", "<i8"),
        ("predicted_at", "<i8"),  # nanoseconds since 1970, UTC
        ("answerer", "<u2"),
        ("has_rider", "?"),
        ("pickup_zone", "<i2"),
        ("dropoff_zone", "<i2"),
        ("trip_distance_miles", "<f8"),
        ("pickup", "<i8"),  # seconds since 1970, New York local time
        ("duration_minutes", "<f8"),
        ("lower_minutes", "<f8"),
        ("upper_minutes", "<f8"),
    ]
)
_pack = struct.Struct("<qqH?hhdqddd").pack

#: Rows converted at a time: the service's thread has to wait for the interpreter meanwhile.
_CHUNK = 2_000

#: What is known of a trip: pickup zone, dropoff zone, miles (NaN where unknown), and the pickup in seconds since
#: 1970-01-01, New York local time.
KnownOfTrip = tuple[int, int, float, int]

ArmName = Literal["champion", "challenger"]


class Answerer(NamedTuple):
    """Who gave an answer.

    Attributes:
        model: Name of the registered model.
        version: Its version.
        arm: ``champion`` or ``challenger``.
    """

    model: str
    version: int
    arm: ArmName


class Rows:
    """The rows in memory, packed, oldest first: the event loop adds to them, the writer takes away.

    Args:
        prefix: Of the prediction ids.
        rider_secret: What makes riders' pseudonyms; None keeps their ids as they are.
    """

    def __init__(self, prefix: str, rider_secret: bytes | None) -> None:
        self.prefix = prefix
        self.rider_secret = rider_secret
        self._packed: deque[bytes] = deque()
        # Who answered whom in which way: numbered as they come.
        self.answerers: defaultdict[tuple[Answerer, str], int] = defaultdict(count().__next__)

    def __bool__(self) -> bool:
        return bool(self._packed)

    def add(
        self,
        number: int,
        answerer: Answerer,
        rider_id: str | None,
        trip: KnownOfTrip,
        way: str,
        prediction: tuple[float, float, float],
    ) -> None:
        """Pack a row.

        Raises:
            Exception: If a value is not of its type.
        """
        row = _pack(number, time_ns(), self.answerers[answerer, way], rider_id is not None, *trip, *prediction)
        self._packed.append(row if rider_id is None else row + rider_id.encode(errors="replace"))

    def take(self, rows: int) -> Iterator[list[bytes]]:
        """Take rows, in chunks, as far as there are any."""
        while rows > 0 and self._packed:
            yield [self._packed.popleft() for _ in range(min(rows, _CHUNK, len(self._packed)))]
            rows -= _CHUNK
