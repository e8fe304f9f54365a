"""The prediction log: every answer of the service, kept as parquet, so that the truth can be joined when it is known.

A row takes three steps, each in a thread of its own, and no request waits for the latter two:

1. ``append`` packs it into memory. The row is *waiting*.
2. Every few seconds the writer adds the waiting rows to a parquet file in the *spool*, a local folder: it writes the
   file anew, with all the rows that it has had. Once that is flushed to the disk, neither a crash nor a kill loses the
   rows. They are *spooled*.
3. The sender puts the file in the store, in place of its smaller self, and removes it from the spool. Its rows are
   *written*.

After some minutes, or when it is large, the file grows no more and the next one is begun. So the store has the rows
after seconds, and a month has thousands of files rather than hundreds of thousands.

A kill loses at most the rows of the last seconds, and a store that is out of reach loses none: the spool keeps the
files, and they are sent again, oldest first, by this process or by the next one on this spool. A file has the same key
whoever sends it and however often, so nothing is ever there twice.

What does not fit is dropped and counted. In memory that is the newest row, for the waiting ones are older and on their
way. In the spool it is the oldest file: monitoring judges the present, and after a long outage it wants the latest
hours.

In the store the log is ``predictions/date=2021-02-10/{host}-{pid}-{start}-{random}-{number}.parquet``, by the UTC date
of the answer. Start and random are those of the process's prediction ids, and rows are as ``prediction_schema`` says.
"""

from __future__ import annotations

import logging
import secrets
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep, time_ns
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tripcast.errors import InvalidRequest, StorageError
from tripcast.serving.spool import Spool

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from tripcast.models.model import Prediction
    from tripcast.storage.store import Store
    from tripcast.taxi.trips import Trip, Trips

logger = logging.getLogger(__name__)

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

#: Rows are numbered from here, so that all numbers have twelve digits and ids sort as text in the order of the answers.
_NUMBERED_FROM = 10**11

#: Rows converted at a time: the service's thread has to wait for the interpreter meanwhile.
_CHUNK = 2_000

#: Nanoseconds.
_DAY = 86_400 * 10**9

#: A span of more days than this is found in a listing of all days: one of each would take longer.
_DAYS_LISTED_ONE_BY_ONE = 40

#: Files fetched at a time: they are many and small, so the store's answers are what takes long.
_READERS = 8


def prediction_schema() -> pa.Schema:
    """A row of the prediction log.

    - ``prediction_id``: what the client was told, see ``PredictionLog``.
    - ``predicted_at``: when, UTC.
    - ``model``, ``version``, ``arm``: which registered model answered, and whether as champion or challenger.
    - ``rider_id``: who asked; null where the client did not say.
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


def read_log(
    store: Store,
    since: datetime,
    until: datetime,
    where: pc.Expression | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read the answers given in a span of time; the partitions of other days are not looked at.

    Args:
        store: Where the log is.
        since: The first moment, with a time zone.
        until: The moment after the last, with a time zone.
        where: Which rows, by the columns of ``prediction_schema``; None for all.
        columns: Which of those columns; None for all.

    Returns:
        The rows, those of each process in the order of its answers.

    Raises:
        InvalidRequest: If a moment has no time zone.
        StorageError: If the store cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for moment in (since, until):
        if moment.tzinfo is None:
            raise InvalidRequest(f"{moment.isoformat()} has no time zone: write {moment.isoformat()}+00:00 for UTC.")
    schema = prediction_schema()
    names = list(columns or schema.names)
    first = since.astimezone(UTC).date()
    last = until.astimezone(UTC).date()
    asked_for = (pc.field("predicted_at") >= since) & (pc.field("predicted_at") < until)
    if where is not None:
        asked_for &= where
    days = {str(first + timedelta(days=day)) for day in range((last - first).days + 1)}
    if len(days) > _DAYS_LISTED_ONE_BY_ONE:
        keys = [key for key in store.list("predictions/") if key.split("/")[1].removeprefix("date=") in days]
    else:
        keys = [key for day in sorted(days) for key in store.list(f"predictions/date={day}/")]

    with TemporaryDirectory() as folder, ThreadPoolExecutor(_READERS) as readers:

        def read(key: str) -> pa.Table:
            file = Path(folder) / Path(key).name
            try:
                store.get(key, file)
            except StorageError:  # it has grown between two of the store's answers, perhaps
                store.get(key, file)
            with pq.ParquetFile(file) as log:
                rows = log.read().filter(asked_for)
            file.unlink()
            return rows.select([name for name in names if name in rows.column_names])

        empty = schema.empty_table().select(names)
        # Files of before a column came to be have nulls there.
        return pa.concat_tables([empty, *readers.map(read, keys)], promote_options="default")


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


@dataclass(frozen=True)
class Counts:
    """How many rows are where; at any time ``appended + inherited == written + pending + dropped``.

    Attributes:
        appended: Rows of this process's answers.
        inherited: Rows of the files that earlier processes left in the spool. This process cannot tell how many of them
            the store has had from a smaller form of the file. So they all count as inherited, and later as written or
            dropped.
        written: Rows that this process has put in the store.
        spooled: Rows in the spool and not in the store: a kill does not lose them.
        waiting: Rows in memory only.
        dropped: Rows given up, because memory or spool was full, or a value was not of its type.
    """

    appended: int
    inherited: int
    written: int
    spooled: int
    waiting: int
    dropped: int

    @property
    def pending(self) -> int:
        """Rows that are not in the store yet."""
        return self.waiting + self.spooled


class PredictionLog:
    """Takes the answers of the service, and brings them to the store in the background.

    A prediction id reads ``{start}-{random}-{number}``: when the process began to log, in milliseconds since 1970 as
    eleven hexadecimal digits; forty random bits, which tell apart the processes of one millisecond; and the row's
    number in the process, twelve digits. It is unique among all hosts and restarts, and ids sort as text by process in
    the order of their start, then in the order of the answers.

    ``append`` and ``extend`` are for one thread, the service's event loop. They take no lock, touch no disk and do not
    raise.
    """

    def __init__(
        self,
        store: Store,
        spool: Path,
        *,
        seconds: float = 5.0,
        rows: int = 50_000,
        file_seconds: float = 900.0,
        max_waiting: int = 1_000_000,
        max_spool_bytes: int = 1_000_000_000,
    ) -> None:
        """Start logging.

        Args:
            store: Where the files go.
            spool: Local folder for the files on their way, on a disk that outlives the process. Services may share it:
                one that finds the files of a process that has ended sends them to its own store.
            seconds: How long a row waits in memory at most, if the disk keeps up. A kill loses no more than that.
            rows: As many waiting rows are written out at once; a file holds no more, but for the last batch's rest.
            file_seconds: How long a file grows.
            max_waiting: Rows in memory, about 120 bytes each, beyond which new ones are dropped.
            max_spool_bytes: Size of the files it has to send beyond which the oldest are dropped.

        Raises:
            StorageError: If the spool cannot be written.
        """
        self._store, self._seconds, self._file_rows, self._room = store, seconds, rows, max_waiting
        process = f"{time_ns() // 1_000_000:011x}-{secrets.token_hex(5)}"
        self._prefix = f"{process}-"
        self._spool = Spool(spool, process, max_rows=rows, max_age=file_seconds, max_bytes=max_spool_bytes)
        # One thread's work is never another's: the event loop adds to these, the writer takes away.
        self._packed: deque[bytes] = deque()
        self._batches: deque[tuple[npt.NDArray[np.void], list[bytes]]] = deque()
        # Who answered whom in which way: numbered as they come.
        self._answerers: defaultdict[tuple[Answerer, str], int] = defaultdict(count().__next__)
        self._appended = self._refused = 0
        # Rows that the writer could not put in the spool yet, by date.
        self._converted: dict[str, list[pa.RecordBatch]] = {}
        self._due, self._to_send = threading.Event(), threading.Event()
        self._closing = self._last_file_spooled = self._complained = False
        self._writer = threading.Thread(target=self._write, name="prediction log writer", daemon=True)
        self._sender = threading.Thread(target=self._send, name="prediction log sender", daemon=True)
        self._writer.start()
        self._sender.start()

    def append(
        self, answerer: Answerer, rider_id: str | None, trip: Trip, way: str, prediction: tuple[float, float, float]
    ) -> str:
        """Log one answer.

        Args:
            answerer: Who gave it.
            rider_id: Who asked, or None.
            trip: As given to ``Model.predict_one``.
            way: In which way it was asked for, by what was known of it; a few names.
            prediction: What ``Model.predict_one`` returned: duration, lower and upper end, minutes.

        Returns:
            The prediction's id.
        """
        self._appended = appended = self._appended + 1
        number = _NUMBERED_FROM + appended
        waiting = appended - self._refused - self._spool.received
        if waiting > self._room:
            self._refused += 1
        else:
            try:
                row = _pack(number, time_ns(), self._answerers[answerer, way], rider_id is not None, *trip, *prediction)
                if rider_id is not None:
                    row += rider_id.encode(errors="replace")
                self._packed.append(row)
            except Exception:  # whatever is wrong with a row, its answer is none the worse
                self._refuse(1)
            if waiting == self._file_rows:
                self._due.set()
        return self._prefix + str(number)

    def extend(
        self,
        answerer: Answerer,
        rider_ids: Sequence[str | None],
        trips: Trips,
        ways: Sequence[str],
        prediction: Prediction,
    ) -> list[str]:
        """Log the answers of one arm to a batch of n trips.

        Args:
            answerer: Who gave them.
            rider_ids: Who asked, n.
            trips: As given to ``Model.predict``, n.
            ways: In which way each was asked for, n; as in ``append``.
            prediction: What ``Model.predict`` gave.

        Returns:
            The predictions' ids, n. A batch is logged as a whole or dropped as a whole.
        """
        size = len(trips)
        first = _NUMBERED_FROM + self._appended + 1
        self._appended += size
        waiting = self._waiting()
        if waiting > self._room:
            self._refused += size
        else:
            try:
                records = np.empty(size, _RECORD)
                records["number"] = np.arange(first, first + size)
                records["predicted_at"] = time_ns()
                records["answerer"] = [self._answerers[answerer, way] for way in ways]
                records["has_rider"] = [rider_id is not None for rider_id in rider_ids]
                records["pickup_zone"] = trips.pickup_zone
                records["dropoff_zone"] = trips.dropoff_zone
                records["trip_distance_miles"] = trips.trip_distance_miles
                records["pickup"] = trips.pickup_datetime.astype("datetime64[s]").astype(np.int64)
                records["duration_minutes"] = prediction.minutes
                records["lower_minutes"] = prediction.lower
                records["upper_minutes"] = prediction.upper
                self._batches.append(
                    (records, [b"" if rider is None else rider.encode(errors="replace") for rider in rider_ids])
                )
            except Exception:  # as in append
                self._refuse(size)
            if waiting >= self._file_rows:
                self._due.set()
        return [self._prefix + str(number) for number in range(first, first + size)]

    def counts(self) -> Counts:
        """How many rows are where, now."""
        with self._spool.lock:
            refused = self._refused
            return Counts(
                appended=(appended := self._appended),
                inherited=self._spool.inherited,
                written=self._spool.sent,
                spooled=self._spool.holds,
                waiting=appended - refused - self._spool.received,
                dropped=refused + self._spool.evicted,
            )

    def close(self, timeout: float) -> Counts:
        """Write out what is waiting and send what is in the spool, as far as that can be done in time.

        Blocks meanwhile. What cannot be sent stays in the spool for the next process. Rows appended from now on are
        dropped.

        Args:
            timeout: Seconds.
        """
        end = monotonic() + timeout
        self._room = -1
        self._closing = True
        self._due.set()
        self._writer.join(timeout)
        self._last_file_spooled = True
        self._to_send.set()
        self._sender.join(max(0.0, end - monotonic()))
        counts = self.counts()
        if counts.pending:
            logger.warning(
                "%d predictions were not sent in %g s: %d of them are kept in %s for the next process, %d are lost.",
                counts.pending,
                timeout,
                counts.spooled,
                self._spool.folder,
                counts.waiting,
            )
        return counts

    def _waiting(self) -> int:
        return self._appended - self._refused - self._spool.received

    def _refuse(self, rows: int) -> None:
        if not self._complained:
            logger.exception("A prediction cannot be logged and is dropped; further ones are only counted.")
            self._complained = True
        self._refused += rows

    # The writer.

    def _write(self) -> None:
        # Now rather than with the first file, when the service has requests to answer.
        for module in ("pyarrow.compute", "pyarrow.parquet", "tripcast.storage.arrow"):
            import_module(module)
        closing = False
        while not closing:
            self._due.wait(self._seconds)
            self._due.clear()
            closing = self._closing
            try:
                while self._converted or self._packed or self._batches:
                    self._spool_file()
                    if not closing and self._waiting() < self._file_rows:
                        break  # new rows come in all the time; they are for the next file
            except StorageError as trouble:
                logger.error("Predictions wait in memory: %s", trouble)
            except Exception:  # a defect; rows wait, and are dropped and counted when there are too many
                logger.exception("Predictions wait in memory.")

    def _spool_file(self) -> None:
        """Put up to a file's worth of waiting rows in the spool: in one file, or in two at midnight.

        Raises:
            StorageError: If the spool cannot be written; the rows are kept.
        """
        import pyarrow as pa

        if not self._converted:
            for records, riders in self._take(self._file_rows):
                try:
                    batch = self._convert(records, riders)
                except Exception:  # a defect, or no memory: these rows are taken already, the others are not lost by it
                    logger.exception("%d predictions cannot be made a file and are dropped.", len(records))
                    self._spool.refuse(len(records))
                    continue
                days = records["predicted_at"] // _DAY
                for day in np.unique(days):
                    of_day = _bits(days == day)
                    self._converted.setdefault(str(np.datetime64(int(day), "D")), []).append(
                        batch.filter(pa.Array.from_buffers(pa.bool_(), len(days), [None, of_day]))
                    )
                sleep(0.001)  # lets the event loop have the interpreter
        for date in list(self._converted):
            self._spool.add(date, pa.Table.from_batches(self._converted[date]))
            del self._converted[date]
            self._to_send.set()

    def _take(self, rows: int) -> Iterator[tuple[npt.NDArray[np.void], list[bytes]]]:
        """Take waiting rows, in chunks: the records, and each row's rider."""
        while rows > 0 and self._packed:
            packed = [self._packed.popleft() for _ in range(min(rows, _CHUNK, len(self._packed)))]
            width = _RECORD.itemsize
            yield (
                np.frombuffer(b"".join([row[:width] for row in packed]), _RECORD),
                [row[width:] for row in packed],
            )
            rows -= len(packed)
        while rows > 0 and self._batches:
            records, riders = self._batches.popleft()
            for start in range(0, len(records), _CHUNK):
                yield records[start : start + _CHUNK], riders[start : start + _CHUNK]
            rows -= len(records)

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

    # The sender.

    def _send(self) -> None:
        finish = False
        reachable = True
        while not finish:
            self._to_send.wait(self._seconds)
            self._to_send.clear()
            finish = self._last_file_spooled
            try:
                self._spool.adopt()
                while file := self._spool.take():
                    try:
                        self._store.put(file.path, file.key)
                    except Exception:
                        self._spool.put_back(file)
                        raise
                    self._spool.remove(file)
                    if not reachable:
                        logger.warning("Predictions are sent again.")
                        reachable = True
                self._spool.leave_empty_folders()
            except StorageError as trouble:
                if reachable:
                    logger.warning("Predictions are kept in %s: %s", self._spool.folder, trouble)
                reachable = False
            except Exception:  # a defect; the files stay in the spool
                logger.exception("Predictions are kept in %s.", self._spool.folder)
        self._spool.close()


def _bits(values: npt.NDArray[np.bool_]) -> pa.Buffer:
    """Arrow's form of truth values: a bit each, the lowest first."""
    import pyarrow as pa

    return pa.py_buffer(np.packbits(values, bitorder="little"))
