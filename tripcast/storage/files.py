"""Files that appear whole or not at all, and what to say when the disk refuses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES
from os import strerror
from pathlib import Path

from tripcast.errors import StorageError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write a path into a sentence.

    Raises:
        StorageError: Naming the path, the reason and the free space.
    """
    try:
        yield
    except OSError as trouble:
        # Of a folder that may not be entered, pathlib does not know whether it exists.
        there = next(folder for folder in path.absolute().parents if os.access(folder, os.F_OK))
        free = shutil.disk_usage(there).free / 1e6
        raise StorageError(
            f"{path} cannot be written: {trouble.strerror or trouble} ({free:,.0f} MB free there). "
            "Free some space or permit writing, then run again."
        ) from trouble


def make_home(home: Path) -> None:
    """Make the folder that everything is kept in, which is its owner's alone: it holds what riders asked.

    One that everybody may read, as versions up to 0.1.0 made it, is closed to all but its owner. One that is shared
    with a group alone was made so on purpose.

    Raises:
        StorageError: If it cannot be made, entered or written, or is a file.
    """
    with storage_errors(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.stat()
        if found.st_uid == os.geteuid() and found.st_mode & 0o007:
            home.chmod(0o700)
        if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(EACCES, strerror(EACCES))


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A name beside a file's, whose content takes the file's name when the body has succeeded.

    Other processes may be writing the same file: each under a name of its own, the last one stays.

    Args:
        file: What appears whole, or not at all; its folder is made if missing.

    Raises:
        StorageError: If it cannot be written.
    """
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            yield part
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
