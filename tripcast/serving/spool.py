"""The spool: files of the prediction log on their way to the store, on a disk that outlives the process.

The latest file is *open*: rows that come later join it, until it is full, old, or of another day than they are. Then it
is written anew, with all its rows, under its old name and so under its old key, and takes the place of its smaller self
here and in the store. So rows are in the store as soon as if each few of them were a file, and the files are large.

A file in the store has left the spool; if it is open, its rows are in memory, too. A file that is being sent does not
change, and is open no more: rows that come meanwhile begin the next one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from tripcast.storage.files import atomic_write, storage_errors

# pyarrow is imported where rows become a file, see ``tripcast.serving.prediction_log``: the service starts without it.
if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class SpooledFile:
    """A file in the spool.

    Attributes:
        path: Where it is.
        size: Bytes.
        unsent: How many of its rows the store does not have, as far as this process knows.
    """

    path: Path
    size: int
    unsent: int

    @property
    def key(self) -> str:
        """Its place in the store: its name begins with the date."""
        date, name = self.path.name.split("_", 1)
        return f"predictions/date={date}/{name}"


@dataclass
class _OpenFile:
    """The file that grows: its present form, its date, all its rows, and when it was begun, by the monotonic clock."""

    file: SpooledFile
    date: str
    content: pa.Table
    begun: float


class Spool:
    """The files on their way to the store, oldest first.

    Each process has a folder in the spool and holds a lock on it. The system frees the lock when the process ends,
    however it ends, and a folder that is not locked is another's to send.

    Attributes:
        lock: For the queue and the counts of rows; never held while the disk works.
        folder: This process's own.
        received: Rows that this process has put in.
        inherited: Rows of the files that were found in the folders of ended processes.
        holds: Rows that are here and not in the store.
        sent: Rows that have gone to the store.
        evicted: Rows that were dropped.
        remade: A sentence, if the folder was removed and made again.

    Args:
        root: The spool; processes may share it.
        process: Names this process, unlike any other.
        max_rows: Rows beyond which a file does not grow.
        max_age: Seconds after which a file does not grow.
        max_bytes: Size of all files beyond which the oldest are dropped.

    Raises:
        StorageError: If the spool cannot be written.
    """

    def __init__(self, root: Path, process: str, *, max_rows: int, max_age: float, max_bytes: int) -> None:
        self.lock = threading.Lock()
        self.received = self.inherited = self.holds = self.sent = self.evicted = 0
        self.folder = root / process
        self._root, self._max_rows, self._max_age, self._max_bytes = root, max_rows, max_age, max_bytes
        self._name = f"{socket.gethostname()}-{os.getpid()}-{process}"
        self._files: deque[SpooledFile] = deque()
        self._bytes = self._number = 0
        self._open: _OpenFile | None = None
        self.remade: str | None = None
        self._locks = {self.folder: self._make_folder()}

    def add(self, date: str, rows: pa.Table) -> None:
        """Write rows, flush them to the disk, and drop the oldest files if there is too much now.

        They join the open file, if they may, or else begin the next one.

        Args:
            date: Their date.
            rows: The rows, one at least.

        Raises:
            StorageError: If they cannot be written; the open file is then as it was.
        """
        import pyarrow as pa

        if not self.folder.exists():
            removed = self._locks[self.folder]
            self._locks[self.folder] = self._make_folder()
            os.close(removed)
            self.remade = (
                f"The folder {self.folder} was removed while the service ran; it has been made again. Predictions in "
                "it that the store did not have are lost, and counted as dropped."
            )
            logger.error("%s", self.remade)
        growing = self._take_open(date, rows)
        before = growing.file
        try:
            content = pa.concat_tables([growing.content, rows])
            file = SpooledFile(before.path, _write(content, before.path), before.unsent + len(rows))
        except Exception:
            if before.unsent:
                with self.lock:
                    self._files.append(before)
            raise
        growing.file, growing.content = file, content
        with self.lock:
            self.received += len(rows)
            self.holds += len(rows)
            self._bytes += file.size - (before.size if before.unsent else 0)
            self._files.append(file)
        self._make_room()

    def refuse(self, rows: int) -> None:
        """Count rows that could not be made a file as received and dropped."""
        with self.lock:
            self.received += rows
            self.evicted += rows

    def adopt(self) -> None:
        """Take over the files of processes that have ended."""
        for folder in sorted(self._root.glob("*")):
            if folder.name.startswith(".") or folder in self._locks:
                continue
            try:
                self._locks[folder] = _lock(folder)
            except (BlockingIOError, FileNotFoundError, NotADirectoryError):  # alive, or gone to another
                continue
            for part in folder.glob("*.part"):  # never finished, so never spooled
                part.unlink()
            files = [file for path in folder.glob("*.parquet") if (file := _examine(path))]
            with self.lock:
                self.inherited += sum(file.unsent for file in files)
                self.holds += sum(file.unsent for file in files)
                self._bytes += sum(file.size for file in files)
                self._files = deque(sorted([*self._files, *files], key=lambda file: file.path))
            if not files:
                self._leave(folder)
        self._make_room()

    def take(self) -> SpooledFile | None:
        """The oldest file, which nobody drops until it is removed or put back; None if there is none."""
        with self.lock:
            return self._files.popleft() if self._files else None

    def put_back(self, file: SpooledFile) -> None:
        """Keep a file that could not be sent, or count it as dropped if somebody has removed it."""
        if not file.path.exists():
            logger.error("%s has been removed: %d predictions are dropped.", file.path, file.unsent)
            self._drop(file)
        else:
            with self.lock:
                self._files.appendleft(file)

    def remove(self, file: SpooledFile) -> None:
        """Remove a file that is in the store."""
        file.path.unlink(missing_ok=True)
        with self.lock:
            self.holds -= file.unsent
            self.sent += file.unsent
            self._bytes -= file.size
            file.unsent = 0  # from now on it may grow again

    def leave_empty_folders(self) -> None:
        """Give up the folders of processes that have ended, once all their files are sent."""
        for folder in self._locks.keys() - {self.folder}:
            if not any(folder.glob("*.parquet")):
                self._leave(folder)

    def close(self) -> None:
        """Leave what is left to the next process."""
        for folder in list(self._locks):
            self._leave(folder)

    def _make_folder(self) -> int:
        """Make this process's folder; returns the lock on it.

        Raises:
            StorageError: If it cannot be made.
        """
        hidden = self._root / f".{self.folder.name}"
        with storage_errors(self.folder):
            hidden.mkdir(parents=True, exist_ok=True)
            lock = _lock(hidden)
            # Under its name only when it is locked, so that nobody takes it for a dead process's.
            hidden.rename(self.folder)
            _flush(self._root)
        return lock

    def _take_open(self, date: str, rows: pa.Table) -> _OpenFile:
        """The file that these rows join, which nobody sends or drops until it is put back."""
        growing = self._open
        if (
            growing
            and growing.date == date
            and len(growing.content) + len(rows) <= self._max_rows
            and monotonic() - growing.begun < self._max_age
        ):
            with self.lock:
                if growing.file in self._files:
                    self._files.remove(growing.file)
                    return growing
                if not growing.file.unsent:  # it is in the store; else it is being sent, or was dropped
                    return growing
        path = self.folder / f"{date}_{self._name}-{self._number:06d}.parquet"
        self._number += 1
        self._open = _OpenFile(SpooledFile(path, size=0, unsent=0), date, rows.slice(0, 0), monotonic())
        return self._open

    def _make_room(self) -> None:
        while self._bytes > self._max_bytes and (oldest := self.take()):
            logger.error("The spool is full: %d predictions of %s are dropped.", oldest.unsent, oldest.key)
            oldest.path.unlink(missing_ok=True)
            self._drop(oldest)

    def _drop(self, file: SpooledFile) -> None:
        with self.lock:
            self.holds -= file.unsent
            self.evicted += file.unsent
            self._bytes -= file.size

    def _leave(self, folder: Path) -> None:
        """Remove a folder if it is empty, and free it."""
        with suppress(OSError):
            folder.rmdir()
        os.close(self._locks.pop(folder))


def _write(table: pa.Table, path: Path) -> int:
    """Write a file, whole or not at all, in place of what was there, and flush it; returns its size in bytes.

    Raises:
        StorageError: If it cannot be written.
    """
    import pyarrow.parquet as pq

    with atomic_write(path) as part:
        pq.write_table(table, part, compression="zstd", use_dictionary=["model", "version", "arm"])
        _flush(part)
    with storage_errors(path):
        _flush(path.parent)
        return path.stat().st_size


def _examine(path: Path) -> SpooledFile | None:
    """A file that another process left; None, and out of the way, if the disk has damaged it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as trouble:
        logger.error("%s is damaged and is not sent (%s); look at it, then remove it.", path, trouble)
        path.rename(path.with_suffix(".damaged"))
        return None
    return SpooledFile(path, path.stat().st_size, rows)


def _lock(folder: Path) -> int:
    """Lock a folder for this process; returns the descriptor that holds the lock.

    Raises:
        BlockingIOError: If another process holds it.
        FileNotFoundError: If it is gone.
        NotADirectoryError: If it is a file.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _flush(path: Path) -> None:
    """Have the disk keep a file's contents, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
