"""What should serve, and the local copy of it on disk.

The copy is what the service starts from, so it comes up when the registry does not answer. It holds the model folders,
each under its digest, and ``deployment.json``, which names those that served last.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec

from tripcast.errors import StorageError
from tripcast.storage.files import atomic_write, storage_errors

Record = TypeVar("Record")

#: Folders of downloads that are under way begin like this.
_SCRATCH = ".download-"


@dataclass(frozen=True)
class ServedVersion:
    """A version that should serve.

    Attributes:
        version: Its number in the registry.
        folder: Its model folder in the local copy, named by the model's digest.
        tags: What the registry says of it.
    """

    version: int
    folder: Path
    tags: Mapping[str, str]


@dataclass(frozen=True)
class DesiredState:
    """What should serve.

    Attributes:
        champion: Answers.
        challenger: Answers a share of the riders in its place.
        share: That share, 0 to 1.
    """

    champion: ServedVersion
    challenger: ServedVersion | None
    share: float

    @property
    def folders(self) -> set[Path]:
        """The model folders that it needs."""
        return {served.folder for served in (self.champion, self.challenger) if served}


def encode(record: Any) -> bytes:
    """A record with paths in it as JSON."""
    return msgspec.json.encode(record, enc_hook=str)


def decode(text: bytes, kind: type[Record]) -> Record:
    """The inverse of ``encode``.

    Raises:
        msgspec.DecodeError: If it is no JSON, or an entry is missing or of another kind.
    """
    return msgspec.json.decode(text, type=kind, dec_hook=lambda path, value: path(value))


class ModelCache:
    """The local copy of what should serve, for one registered model.

    Args:
        home: The home folder (``Settings.home``).
        model: The registered model's name, for example ``tripcast-green``.
    """

    def __init__(self, home: Path, model: str) -> None:
        self.folder = home / "serving" / model
        self._file = self.folder / "deployment.json"
        self._models = self.folder / "models"

    def model(self, digest: str) -> Path:
        """The folder of a model, whether it is there or not."""
        return self._models / digest

    def read(self) -> DesiredState | None:
        """What served last; None if nothing ever did.

        Raises:
            StorageError: If that cannot be read.
        """
        try:
            return decode(self._file.read_bytes(), DesiredState)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.DecodeError) as trouble:
            raise StorageError(
                f"{self._file} does not say what served last ({trouble}). Remove it: it is written again as soon as "
                "the registry answers."
            ) from trouble

    def write(self, state: DesiredState) -> None:
        """Remember what serves, whole or not at all.

        Raises:
            StorageError: If it cannot be written.
        """
        with atomic_write(self._file) as part:
            part.write_bytes(msgspec.json.format(encode(state), indent=1) + b"\n")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder to download into, on the same disk; removed afterwards.

        Raises:
            StorageError: If it cannot be made.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            folder = TemporaryDirectory(dir=self.folder, prefix=_SCRATCH, ignore_cleanup_errors=True)
        with folder as path:
            yield Path(path)

    def keep(self, folder: Path, digest: str) -> Path:
        """Take a model folder into the copy, whole or not at all.

        Args:
            folder: The model folder, on the same disk; it is moved.
            digest: The model's digest.

        Returns:
            Where it is now.

        Raises:
            StorageError: If it cannot be written.
        """
        place = self.model(digest)
        with storage_errors(place):
            self._models.mkdir(parents=True, exist_ok=True)
            if place.exists():
                shutil.rmtree(place)
            folder.replace(place)
        return place

    def remove_all_but(self, folders: set[Path]) -> None:
        """Remove the model folders that are neither among these nor of what served last, and unfinished downloads.

        Nothing is removed while what served last cannot be read; the service writes that anew when it serves.
        """
        try:
            last = self.read()
        except StorageError:
            return
        needed = folders | (last.folders if last else set())
        for folder in [*self._models.glob("*"), *self.folder.glob(f"{_SCRATCH}*")]:
            if folder not in needed:
                shutil.rmtree(folder, ignore_errors=True)
