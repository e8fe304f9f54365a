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

A kill loses at most the rows of the last seconds, and none that ``flush`` has waited for. A store that is out of reach
loses none: the spool keeps the files, and they are sent again, oldest first, by this process or by the next one on this
spool. A file has the same key whoever sends it and however often, so nothing is ever there twice.

What does not fit is dropped and counted. In memory that is the newest row, for the waiting ones are older and on their
way. In the spool it is the oldest file: monitoring judges the present, and after a long outage it wants the latest
hours.

In the store the log is ``predictions/date=2021-02-10/{host}-{pid}-{start}-{random}-{number}.parquet``, by the UTC date
of the answer. Start and random are those of the process's prediction ids, and rows are as ``prediction_schema`` says.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import TYPE_CHECKING

from tripcast.errors import StorageError
from tripcast.serving.prediction_rows import Answerer, KnownOfTrip, Rows
from tripcast.serving.spool import Spool

# pyarrow is imported by the writer, in its thread: the service would wait for it, a fifth of a second, before it is up.
if TYPE_CHECKING:
    import pyarrow as pa

    from tripcast.models.model import Prediction
    from tripcast.storage.store import Store

logger = logging.getLogger(__name__)

#: Rows are numbered from here, so that all numbers have twelve digits and ids sort as text in the order of the answers.
_NUMBERED_FROM = 10**11


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

    ``append``, ``extend`` and ``flush`` are for one thread, the service's event loop. The first two take no lock, touch
    no disk and do not raise.
    """

    def __init__(
        self,
        store: Store,
        spool: Path,
        *,
        rider_secret: bytes | None = None,
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
            rider_secret: What makes riders' pseudonyms before anything is written; None logs their ids as they are.
            seconds: How long a row waits in memory at most, if the disk keeps up. A kill loses no more than that.
            rows: As many waiting rows are written out at once; a file holds no more.
            file_seconds: How long a file grows.
            max_waiting: Rows in memory, about 120 bytes each, beyond which new ones are dropped.
            max_spool_bytes: Size of the files it has to send beyond which the oldest are dropped.

        Raises:
            StorageError: If the spool cannot be written.
        """
        process = f"{time_ns() // 1_000_000:011x}-{secrets.token_hex(5)}"
        self._prefix = f"{process}-"
        self._spool = Spool(spool, process, max_rows=rows, max_age=file_seconds, max_bytes=max_spool_bytes)
        self._file_rows, self._room = rows, max_waiting
        self._rows = Rows(self._prefix, rider_secret)
        self._appended = self._refused = 0
        self._complained = False
        self._sender = _Sender(self._spool, store, seconds)
        self._writer = _Writer(self._rows, self._spool, rows, seconds, self._sender.wake)
        self._sender.start()
        self._writer.start()

    def append(
        self,
        answerer: Answerer,
        rider_id: str | None,
        trip: KnownOfTrip,
        way: str,
        prediction: tuple[float, float, float],
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
                self._rows.add(number, answerer, rider_id, trip, way, prediction)
            except Exception:  # whatever is wrong with a row, its answer is none the worse
                self._refuse()
            if waiting == self._file_rows:
                self._writer.wake.set()
        return self._prefix + str(number)

    def extend(
        self,
        answerer: Answerer,
        rider_ids: Iterable[str | None],
        trips: Iterable[KnownOfTrip],
        ways: Iterable[str],
        prediction: Prediction,
    ) -> list[str]:
        """Log the answers of one arm to n trips; as ``append``, with what ``Model.predict`` returned.

        Returns:
            The predictions' ids, n.
        """
        numbers = zip(prediction.minutes.tolist(), prediction.lower.tolist(), prediction.upper.tolist(), strict=True)
        return [
            self.append(answerer, rider_id, trip, way, minutes)
            for rider_id, trip, way, minutes in zip(rider_ids, trips, ways, numbers, strict=True)
        ]

    async def flush(self) -> None:
        """Wait until every answer that was logged before is in the spool, where no kill loses it.

        Raises:
            StorageError: If the spool cannot be written, or there was no room for an answer.
        """
        if self._waiting() > self._room:
            raise StorageError("The prediction log takes no more answers: it is full, or it is being closed.")
        await asyncio.wrap_future(self._writer.when_spooled(self._appended - self._refused))

    @property
    def problems(self) -> list[str]:
        """What is wrong with it at the moment, a sentence each."""
        return [problem for problem in (self._spool.remade, self._writer.problem, self._sender.problem) if problem]

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
        self._writer.finish(timeout)
        self._sender.finish(max(0.0, end - monotonic()))
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

    def _refuse(self) -> None:
        if not self._complained:
            logger.exception("A prediction cannot be logged and is dropped; further ones are only counted.")
            self._complained = True
        self._refused += 1


class _Writer(threading.Thread):
    """Brings the rows in memory to the spool.

    Attributes:
        wake: Set to have it write at once.
        problem: Why it cannot, at the moment.

    Args:
        rows: The rows in memory.
        spool: Where they go.
        file_rows: How many go there at a time.
        seconds: How long it sleeps if nobody wakes it.
        spooled: Set when there is something to send.
    """

    def __init__(self, rows: Rows, spool: Spool, file_rows: int, seconds: float, spooled: threading.Event) -> None:
        super().__init__(name="prediction log writer", daemon=True)
        self.wake = threading.Event()
        self.problem: str | None = None
        self._rows, self._spool, self._file_rows, self._seconds, self._spooled = (
            rows,
            spool,
            file_rows,
            seconds,
            spooled,
        )
        # Rows that could not be put in the spool yet, by date.
        self._converted: dict[str, list[pa.RecordBatch]] = {}
        # How many rows the spool is to have received, and who waits for that; only the event loop adds.
        self._awaited: deque[tuple[int, Future[None]]] = deque()
        self._closing = False

    def when_spooled(self, rows: int) -> Future[None]:
        """What is done when the spool has received so many rows of this process, and fails if it cannot be written."""
        future: Future[None] = Future()
        self._awaited.append((rows, future))
        self.wake.set()
        return future

    def finish(self, timeout: float) -> None:
        """Have it write all that is left, and end; wait for that."""
        self._closing = True
        self.wake.set()
        self.join(timeout)

    def run(self) -> None:
        """Write until told to finish."""
        # Now rather than with the first file, when the service has requests to answer.
        import_module("tripcast.serving.prediction_table")
        closing = False
        while not closing:
            self.wake.wait(self._seconds)
            self.wake.clear()
            closing = self._closing
            try:
                while self._converted or self._rows:
                    written = self._write_file()
                    # New rows come in all the time; they are for the next file.
                    if not closing and not self._awaited and written < self._file_rows:
                        break
                self.problem = None
            except StorageError as trouble:
                self._fail(trouble)
                logger.error("%s", self.problem)
            except Exception as trouble:  # a defect; rows wait, and are dropped and counted when there are too many
                self._fail(trouble)
                logger.exception("Predictions wait in memory.")
            self._settle(None)

    def _fail(self, trouble: Exception) -> None:
        self.problem = f"Predictions wait in memory: {trouble}"
        self._settle(StorageError(self.problem))

    def _settle(self, error: StorageError | None) -> None:
        """Tell those who wait for rows that the spool has, or all if it cannot be written."""
        for _ in range(len(self._awaited)):  # and not those who come meanwhile: they wait for the next try
            if not error and self._awaited[0][0] > self._spool.received:
                break
            _, future = self._awaited.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(None)

    def _write_file(self) -> int:
        """Put up to a file's worth of waiting rows in the spool, in one file or in two at midnight; how many it were.

        Raises:
            StorageError: If the spool cannot be written; the rows are kept.
        """
        import pyarrow as pa

        from tripcast.serving.prediction_table import by_date

        if not self._converted:
            for packed in self._rows.take(self._file_rows):
                try:
                    batches = by_date(self._rows, packed)
                except Exception:  # a defect, or no memory: these rows are taken already, the others are not lost by it
                    logger.exception("%d predictions cannot be made a file and are dropped.", len(packed))
                    self._spool.refuse(len(packed))
                    continue
                for date, batch in batches.items():
                    self._converted.setdefault(date, []).append(batch)
                sleep(0.001)  # lets the event loop have the interpreter
        written = 0
        for date in list(self._converted):
            rows = pa.Table.from_batches(self._converted[date])
            self._spool.add(date, rows)
            del self._converted[date]
            written += len(rows)
            self._settle(None)
            self._spooled.set()
        return written


class _Sender(threading.Thread):
    """Brings the files in the spool to the store.

    Attributes:
        wake: Set to have it send at once.
        problem: Why it cannot, at the moment.

    Args:
        spool: The files.
        store: Where they go.
        seconds: How long it sleeps if nobody wakes it.
    """

    def __init__(self, spool: Spool, store: Store, seconds: float) -> None:
        super().__init__(name="prediction log sender", daemon=True)
        self.wake = threading.Event()
        self.problem: str | None = None
        self._spool, self._store, self._seconds = spool, store, seconds
        self._closing = False

    def finish(self, timeout: float) -> None:
        """Have it send all that is left, and end; wait for that."""
        self._closing = True
        self.wake.set()
        self.join(timeout)

    def run(self) -> None:
        """Send until told to finish."""
        closing = False
        while not closing:
            self.wake.wait(self._seconds)
            self.wake.clear()
            closing = self._closing
            try:
                self._spool.adopt()
                while file := self._spool.take():
                    try:
                        self._store.put(file.path, file.key)
                    except Exception:
                        self._spool.put_back(file)
                        raise
                    self._spool.remove(file)
                    if self.problem:
                        logger.warning("Predictions are sent again.")
                        self.problem = None
                self._spool.leave_empty_folders()
            except StorageError as trouble:
                problem = f"Predictions are kept in {self._spool.folder}: {trouble}"
                if not self.problem:
                    logger.warning("%s", problem)
                self.problem = problem
            except Exception as trouble:  # a defect; the files stay in the spool
                self.problem = f"Predictions are kept in {self._spool.folder}: {trouble!r}"
                logger.exception("Predictions are kept in %s.", self._spool.folder)
        self._spool.close()
