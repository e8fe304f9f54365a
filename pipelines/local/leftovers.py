"""What a run leaves behind that was killed, so that it could not clean up, and how the next run ends that.

Nobody is told that a process was killed. But a lock on a file is gone with the last process that holds it: a run holds
one for as long as it lives, and each of its steps holds one of its own.

Source:
    flock(2): locks belong to the open file, which a child inherits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

#: The folder of the locks, beside those of the runs.
LOCKS = ".running"


@contextlib.contextmanager
def alive(root: Path, name: str, scratch: Path) -> Iterator[None]:
    """Be seen to live while the body runs.

    Args:
        root: The folder that the runs' own folders are in.
        name: The run's.
        scratch: Its temporary folder, to be removed if it cannot do that itself.
    """
    file = root / LOCKS / f"{name}.run"
    file.parent.mkdir(exist_ok=True)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(str(scratch))
        held.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def step_lock(root: Path, name: str) -> Iterator[IO[str]]:
    """A lock for a step to inherit; write the number of its process group into it.

    Args:
        root: The folder that the runs' own folders are in.
        name: The run's.
    """
    file = root / LOCKS / f"{name}.{os.urandom(4).hex()}.step"
    file.parent.mkdir(exist_ok=True)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield held
        finally:
            file.unlink(missing_ok=True)


def clean_up(root: Path, end: Callable[[str], None]) -> None:
    """End the steps of runs that were killed, and remove their temporary folders.

    Args:
        root: The folder that the runs' own folders are in.
        end: Ends what is left of a run, given its name.
    """
    for file in (root / LOCKS).glob("*.run"):
        if not _is_held(file):
            end(file.stem)
            scratch = file.read_text()
            if scratch:  # it was killed before it wrote that down
                shutil.rmtree(scratch, ignore_errors=True)
            file.unlink(missing_ok=True)


def running_since(root: Path) -> datetime | None:
    """When the oldest of the runs began that live; None if none does.

    Args:
        root: The folder that the runs' own folders are in.
    """
    began = [file.stat().st_mtime for file in (root / LOCKS).glob("*.run") if _is_held(file)]
    return datetime.fromtimestamp(min(began), UTC) if began else None


def end_processes(root: Path, name: str) -> None:
    """End the steps of a run that are processes."""
    for file in (root / LOCKS).glob(f"{name}.*.step"):
        if _is_held(file) and (group := file.read_text()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(group), signal.SIGKILL)
        file.unlink(missing_ok=True)


def _is_held(file: Path) -> bool:
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
