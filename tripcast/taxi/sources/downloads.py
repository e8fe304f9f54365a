"""Files on their way down: in part until they are whole, and kept until the server has another revision."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tripcast.storage.files import storage_errors

#: How often a download's progress is shown: each time is a line of a step's log.
_SECONDS_BETWEEN_LINES = 1.0


class Download:
    """A file that is being downloaded, or has been.

    Beside ``file`` there may be ``file.part``, the bytes that have arrived so far. Each of them has a note of the
    revision that it belongs to (``file.revision``, ``file.part.revision``): the ETag or date that the server gave.
    A reader sees either no file, the old one or the whole new one.
    """

    def __init__(self, file: Path) -> None:
        """Take the place where the whole file shall be."""
        self.file = file
        self.part = file.with_name(f"{file.name}.part")

    def revision(self) -> str | None:
        """The revision of the whole file; None if there is no whole file."""
        return _revision_of(self.file)

    def begun(self) -> tuple[int, str] | None:
        """How many bytes have arrived of which revision; None if the download has to begin at the beginning."""
        revision = _revision_of(self.part)
        arrived = self.part.stat().st_size if revision else 0
        return (arrived, revision) if revision and arrived else None

    def restart(self, revision: str | None) -> None:
        """Throw away what has arrived, and begin a revision (None: the server names none, so never resume it).

        Raises:
            StorageError: If the folder cannot be written.
        """
        with storage_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.part.unlink(missing_ok=True)
            # Empty is no revision: a file without one is neither resumed nor taken for current.
            _note_of(self.part).write_text(revision or "", encoding="utf-8")

    def finish(self) -> None:
        """Make the part the whole file.

        Raises:
            StorageError: If the folder cannot be written.
        """
        with storage_errors(self.file):
            # A stop between the two leaves the new file with the old note, which costs one more download.
            self.part.replace(self.file)
            _note_of(self.part).replace(_note_of(self.file))


def _note_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.revision")


def _revision_of(file: Path) -> str | None:
    note = _note_of(file)
    return (note.read_text(encoding="utf-8") or None) if file.exists() and note.exists() else None


@contextmanager
def progress(url: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Show how far a download is, on standard error.

    Args:
        url: What is being downloaded.
        total: Its size in bytes, None if it is not known.
        done: How many bytes are here already.

    Yields:
        A function to call with the number of bytes that have just arrived.
    """
    name, here, shown = url.rpartition("/")[2], done, 0.0

    def arrived(count: int) -> None:
        nonlocal here, shown
        here += count
        if here == total or time.monotonic() - shown >= _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            share = f"{here / total:4.0%}| of {total / 1e6:,.1f} MB" if total else f"{here / 1e6:,.1f} MB"
            print(f"{name}: {share}", file=sys.stderr, flush=True)

    yield arrived
