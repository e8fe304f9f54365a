"""A row of the prediction log: what an answer is in memory, and the columns that it becomes.

What is known of a trip is packed as the tuple that it is: another problem changes the record, the schema and
``Rows._convert`` alike.
"""

from __future__ import annotations

import struct
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import count
from time import time_ns
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tripcast.serving.riders import pseudonym

# pyarrow is imported where rows become a file, see ``tripcast.serving.prediction_log``: the service starts without it.
if TYPE_CHECKING:
    import pyarrow as pa

#: A row in memory. ``struct`` packs one row and numpy reads many, so the two are the same in order and width.
_RECORD = np.dtype(
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

#: Nanoseconds.
_DAY = 86_400 * 10**9


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


def prediction_schema() -> pa.Schema:
    """A row of the prediction log.

    - ``prediction_id``: what the client was told, see ``PredictionLog``.
    - ``predicted_at``: when, UTC.
    - ``model``, ``version``, ``arm``: which registered model answered, and whether as champion or challenger.
    - ``rider_id``: who asked, as ``tripcast.serving.riders.pseudonym`` has it unless the service was told to log ids as
      they are; null where the client did not say.
    - ``pickup_datetime``: New York local time, to the second.
    - ``trip_distance_miles``: null where the client did not know.
    - ``way``: in which way it was asked, by what was known of the trip; null in files of before there were ways.
    - ``duration_minutes``, ``lower_minutes``, ``upper_minutes``: the answer.
    """
    import pyarrow as pa

    return pa.schema(
        {
            "prediction_id": pa.string(),
            "predicted_at": pa.timestamp("us", tz="UTC"),
            "model": pa.string(),
            "version": pa.int32(),
            "arm": pa.string(),
            "rider_id": pa.string(),
            "pickup_datetime": pa.timestamp("us"),
            "pickup_zone": pa.int16(),
            "dropoff_zone": pa.int16(),
            "trip_distance_miles": pa.float64(),
            "way": pa.string(),
            "duration_minutes": pa.float64(),
            "lower_minutes": pa.float64(),
            "upper_minutes": pa.float64(),
        }
    )


class Rows:
    """The rows in memory, packed, oldest first: the event loop adds to them, the writer takes away.

    Args:
        prefix: Of the prediction ids.
        rider_secret: What makes riders' pseudonyms; None keeps their ids as they are.
    """

    def __init__(self, prefix: str, rider_secret: bytes | None) -> None:
        self._prefix = prefix
        self._rider_secret = rider_secret
        self._packed: deque[bytes] = deque()
        # Who answered whom in which way: numbered as they come.
        self._answerers: defaultdict[tuple[Answerer, str], int] = defaultdict(count().__next__)

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
        row = _pack(number, time_ns(), self._answerers[answerer, way], rider_id is not None, *trip, *prediction)
        self._packed.append(row if rider_id is None else row + rider_id.encode(errors="replace"))

    def take(self, rows: int) -> Iterator[list[bytes]]:
        """Take rows, in chunks, as far as there are any."""
        while rows > 0 and self._packed:
            yield [self._packed.popleft() for _ in range(min(rows, _CHUNK, len(self._packed)))]
            rows -= _CHUNK

    def by_date(self, packed: list[bytes]) -> dict[str, pa.RecordBatch]:
        """Make Arrow columns of rows, by the UTC date of the answer."""
        import pyarrow as pa

        width = _RECORD.itemsize
        records = np.frombuffer(b"".join([row[:width] for row in packed]), _RECORD)
        riders = [row[width:] for row in packed]
        if (secret := self._rider_secret) is not None:
            known = records["has_rider"].tolist()
            riders = [pseudonym(rider, secret) if has else b"" for rider, has in zip(riders, known, strict=True)]
        batch = self._convert(records, riders)
        days = records["predicted_at"] // _DAY
        return {
            str(np.datetime64(int(day), "D")): batch.filter(
                pa.Array.from_buffers(pa.bool_(), len(days), [None, _bits(days == day)])
            )
            for day in np.unique(days)
        }

    def _convert(self, records: npt.NDArray[np.void], riders: list[bytes]) -> pa.RecordBatch:
        """Make Arrow columns, by way of buffers: ``pyarrow.array`` would import pandas where it is installed."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from tripcast.storage.arrow import arrow_scalar

        def column(values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
            kind = pa.from_numpy_dtype(values.dtype)
            validity = None if valid is None else _bits(valid)
            return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(np.ascontiguousarray(values))])

        def text(values: Sequence[bytes], valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
            offsets = np.zeros(len(values) + 1, np.int32)
            np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=offsets[1:])
            validity = None if valid is None else _bits(valid)
            return pa.StringArray.from_buffers(
                len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)), validity
            )

        answerers, ways = zip(*self._answerers, strict=True)
        models, versions, arms = zip(*answerers, strict=True)
        answerer = column(records["answerer"])
        numbers = column(records["number"]).cast(pa.string())
        miles = records["trip_distance_miles"]
        columns = {
            "prediction_id": pc.binary_join_element_wise(
                arrow_scalar(self._prefix, pa.string()), numbers, arrow_scalar("", pa.string())
            ),
            "predicted_at": column(records["predicted_at"] // 1000),
            "model": text([model.encode() for model in models]).take(answerer),
            "version": column(np.array(versions, np.int32)).take(answerer),
            "arm": text([arm.encode() for arm in arms]).take(answerer),
            "way": text([way.encode() for way in ways]).take(answerer),
            "rider_id": text(riders, records["has_rider"]),
            "pickup_datetime": column(records["pickup"] * 1_000_000),
            "pickup_zone": column(records["pickup_zone"]),
            "dropoff_zone": column(records["dropoff_zone"]),
            "trip_distance_miles": column(miles, ~np.isnan(miles)),
            "duration_minutes": column(records["duration_minutes"]),
            "lower_minutes": column(records["lower_minutes"]),
            "upper_minutes": column(records["upper_minutes"]),
        }
        schema = prediction_schema()
        return pa.RecordBatch.from_arrays([columns[field.name].cast(field.type) for field in schema], schema=schema)


def _bits(values: npt.NDArray[np.bool_]) -> pa.Buffer:
    """Arrow's form of truth values: a bit each, the lowest first."""
    import pyarrow as pa

    return pa.py_buffer(np.packbits(values, bitorder="little"))
