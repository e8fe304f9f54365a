"""The artifact store: where snapshots of data and the files of runs are kept, a folder or an S3 bucket.

A file appears under its key whole or not at all, and with the hash of its content; what is there already with the same
content is not written again.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from tripcast.errors import InvalidRequest, StorageError
from tripcast.storage import s3
from tripcast.storage.files import atomic_write, storage_errors

#: How often a request to S3 is tried: through a restart of the store; and before there is anything to lose.
_ATTEMPTS = 10
_ATTEMPTS_BEFOREHAND = 3

#: What is kept again is taken for new, but not more often than this.
_FRESH = timedelta(days=1)


class Stored(NamedTuple):
    """What a store says of what is kept under a key: its bytes, and when it was last kept, to a day."""

    size: int
    kept: datetime


class Store(Protocol):
    """A place for files under keys, which are relative paths such as ``snapshots/4f2a.parquet``."""

    uri: str

    def check(self) -> None:
        """Find out whether the store can be used, before any work is done that would be lost without it.

        Raises:
            StorageError: If it does not answer or refuses, or the folder cannot be made.
        """

    def put(self, file: Path, key: str, content_type: str | None = None) -> str:
        """Keep a file under a key, in place of what was there.

        What is there with the same content is not written again. It counts as kept today all the same, so that what is
        old is what nobody has asked to keep for long.

        Args:
            file: The file.
            key: Its key.
            content_type: What a browser shall take it for; folders do not know such a thing.

        Returns:
            The URI of what is kept.

        Raises:
            StorageError: If it cannot be kept, or the store does not answer.
        """

    def get(self, key: str, file: Path) -> None:
        """Fetch what is kept under a key into a file.

        Raises:
            StorageError: If there is none, it is damaged, the store does not answer, or the file cannot be written.
        """

    def write(self, key: str, content: bytes, content_type: str | None = None) -> str:
        """Keep bytes under a key; arguments, result and errors as ``put``."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "content"
            with storage_errors(file):
                file.write_bytes(content)
            return self.put(file, key, content_type)

    def read(self, key: str) -> bytes:
        """The bytes that are kept under a key; errors as ``get``."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "content"
            self.get(key, file)
            return file.read_bytes()

    def list(self, prefix: str) -> list[str]:
        """The keys that begin with a prefix, in order; errors as ``find``."""
        return sorted(self.find(prefix))

    def find(self, prefix: str) -> dict[str, Stored]:
        """What is kept under the keys that begin with a prefix.

        Raises:
            StorageError: If the store does not answer.
        """

    def delete(self, key: str) -> None:
        """Remove what is kept under a key; where there is nothing, nothing happens.

        Raises:
            StorageError: If it cannot be removed, or the store does not answer.
        """


def open_store(uri: str) -> Store:
    """Open a store.

    Args:
        uri: ``s3://bucket/prefix``, or a folder's path.

    Raises:
        InvalidRequest: As ``place``.
    """
    uri = place(uri)
    return S3Store(uri) if uri.startswith("s3://") else FolderStore(Path(uri))


def place(text: str) -> str:
    """Where a store is, from what a person writes: ``s3://bucket/prefix``, or a folder's absolute path.

    Raises:
        InvalidRequest: If it is an address of another kind, or an S3 address that names no bucket.
    """
    text = text.strip()  # a variable read from a file ends in a newline
    # One slash is a slip: a folder named 's3:' is not what anybody means.
    if kind := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", text):
        if kind[1].lower() == "s3" and "://" in text:
            uri = f"s3://{text.partition('://')[2]}"
            s3.split(uri)
            return uri
        raise InvalidRequest(
            f"'{text}' is no place for files: {kind[0]} is not supported. Write s3://bucket/prefix, or a folder."
        )
    return str(Path(text).expanduser().absolute())


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


class FolderStore(Store):
    """A folder as a store.

    Args:
        folder: Made when something is put there.
    """

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder)
        self._folder = folder

    def check(self) -> None:
        """See ``Store``."""
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, file: Path, key: str, content_type: str | None = None) -> str:
        """See ``Store``: links the file where the file system can, and copies it otherwise."""
        kept = self._folder / key
        with storage_errors(kept):
            if there := kept.exists() and filecmp.cmp(file, kept, shallow=False):
                with suppress(PermissionError):  # another user's
                    os.utime(kept)
        if not there:
            with atomic_write(kept) as part:
                _link_or_copy(file, part)
        return str(kept)

    def get(self, key: str, file: Path) -> None:
        """See ``Store``."""
        kept = self._folder / key
        if not kept.is_file():
            raise StorageError(f"There is no {kept}. Check TRIPCAST_ARTIFACTS.")
        with atomic_write(file) as part:
            shutil.copyfile(kept, part)

    def find(self, prefix: str) -> dict[str, Stored]:
        """See ``Store``."""
        found = {}
        for path in (self._folder / prefix.rpartition("/")[0]).rglob("*"):
            key = path.relative_to(self._folder).as_posix()
            if key.startswith(prefix) and path.is_file() and not path.name.endswith(".part"):
                with suppress(FileNotFoundError):  # by now
                    said = path.stat()
                    found[key] = Stored(said.st_size, datetime.fromtimestamp(said.st_mtime, UTC))
        return found

    def delete(self, key: str) -> None:
        """See ``Store``: with it go the folders that nothing is in any more, but for the first of the key."""
        kept = self._folder / key
        with storage_errors(kept):
            kept.unlink(missing_ok=True)
        for folder in list(kept.relative_to(self._folder).parents)[:-2]:
            with suppress(OSError):  # something is in it
                (self._folder / folder).rmdir()


class S3Store(Store):
    """A prefix in an S3 bucket as a store.

    Large files go up in parts; the store checks the SHA-256 of each, and shows the object when all are there. Every
    object that was put by this class carries the hash of the whole as its metadata ``sha256``; what other tools put
    there has none, and is taken as it is.

    Args:
        uri: ``s3://bucket/prefix``.

    Raises:
        InvalidRequest: If it names no bucket.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._bucket = s3.Bucket(uri, _ATTEMPTS, StorageError)

    def check(self) -> None:
        """See ``Store``."""
        # Fewer attempts: nothing is lost yet. And a listing, because S3 tells the reason of a refusal in a body.
        beforehand = s3.Bucket(self.uri, _ATTEMPTS_BEFOREHAND, StorageError)
        with beforehand.errors(f"{self.uri} cannot be used"):
            beforehand.list(most=1)

    def put(self, file: Path, key: str, content_type: str | None = None) -> str:
        """See ``Store``."""
        place = f"{self.uri}/{key}"
        digest = sha256_of(file)
        with self._bucket.errors(f"{place} cannot be stored"):
            if self._digest(key, since=datetime.now(UTC) - _FRESH) != digest:
                arguments: dict[str, Any] = {"Metadata": {"sha256": digest}}
                # Some stores know no checksums that trail a body; whoever has one says so by this setting.
                if self._bucket.client.meta.config.request_checksum_calculation != "when_required":
                    arguments["ChecksumAlgorithm"] = "SHA256"
                if content_type:
                    arguments["ContentType"] = content_type
                self._bucket.client.upload_file(
                    str(file), self._bucket.name, self._bucket.prefix + key, ExtraArgs=arguments
                )
        return place

    def get(self, key: str, file: Path) -> None:
        """See ``Store``."""
        place = f"{self.uri}/{key}"
        with atomic_write(file) as part:
            with self._bucket.errors(f"{place} cannot be fetched"):
                digest = self._digest(key)
                if digest is not None:
                    self._bucket.download(key, part)
            if digest is None:
                raise StorageError(f"There is no {place}. Check TRIPCAST_ARTIFACTS.")
            if digest and sha256_of(part) != digest:
                raise StorageError(f"{place} is not what was stored there: its SHA-256 is another. Store it again.")

    def find(self, prefix: str) -> dict[str, Stored]:
        """See ``Store``."""
        with self._bucket.errors(f"{self.uri} cannot be listed"):
            return {key: Stored(item["Size"], item["LastModified"]) for key, item in self._bucket.list(prefix).items()}

    def delete(self, key: str) -> None:
        """See ``Store``."""
        with self._bucket.errors(f"{self.uri}/{key} cannot be removed"):
            self._bucket.client.delete_object(Bucket=self._bucket.name, Key=self._bucket.prefix + key)

    def _digest(self, key: str, since: datetime | None = None) -> str | None:
        """The hash that an object says it has, empty if it says none; None if there is none, or none since a moment."""
        client = self._bucket.client
        try:
            head = client.head_object(Bucket=self._bucket.name, Key=self._bucket.prefix + key)
        except client.exceptions.ClientError as trouble:
            # A missing bucket looks the same here. What follows meets it, too, and names it.
            if trouble.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return None
            raise
        if since and head["LastModified"] < since:
            return None
        return str(head["Metadata"].get("sha256", ""))


def _link_or_copy(file: Path, to: Path) -> None:
    try:
        to.hardlink_to(file)
        os.utime(to)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, to)
        # The original may be removed as soon as this has returned, and a copy is on the disk only when it says so.
        with to.open("rb") as copy:
            os.fsync(copy.fileno())
