"""Months from an S3 bucket: Amazon's, or any endpoint that the standard AWS environment names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tripcast.errors import SourceError, SourceUnreachable
from tripcast.months import Month
from tripcast.storage import s3
from tripcast.storage.files import storage_errors
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.sources.downloads import Download, progress
from tripcast.taxi.sources.files import open_month_files
from tripcast.taxi.sources.names import missing_month, month_file, parts_of
from tripcast.taxi.sources.raw import RawMonth

#: How often a request is tried: a source that does not answer is given up within half a minute.
_ATTEMPTS = 4

#: How many objects are looked at for what a month is there as.
_MOST_LOOKED_AT = 1000


class S3:
    """The files under ``s3://bucket/prefix``, named as the publisher names them.

    A month is downloaded once, and again when the object has changed.
    """

    def __init__(self, url: str, downloads: Path) -> None:
        """Take the bucket and prefix, and the folder that keeps the months.

        Raises:
            InvalidRequest: If the address names no bucket.
        """
        self._bucket = s3.Bucket(url, _ATTEMPTS, SourceError, SourceUnreachable)
        self._url, self._downloads = url, downloads

    def revision(self, taxi: str, month: Month) -> str:
        """The month's objects with their ETags.

        Raises:
            SourceError: As ``month``, but for what is wrong with the file.
        """
        _, items = self._find(taxi, month)
        return ", ".join(f"{item['Key'].rpartition('/')[2]} {item['ETag']}" for item in items)

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi, downloading it if need be.

        Raises:
            SourceError: If there is no such bucket or month, the credentials are missing or refused, the endpoint
                cannot be reached, or the file is no table.
            StorageError: If the download cannot be written.
        """
        name, items = self._find(taxi, month)
        files = []
        for item in items:
            download = Download(self._downloads / "s3" / self._bucket.name / item["Key"])
            if download.revision() != item["ETag"]:
                self._fetch(item, download)
            files.append(download.file)
        return open_month_files(files, f"s3://{self._bucket.name}/{self._bucket.prefix}{name}")

    def _find(self, taxi: str, month: Month) -> tuple[str, list[dict[str, Any]]]:
        """A month's name, and what S3 says of its object, or of its parts' objects."""
        objects = self._list(FEEDS[taxi].file(""))
        name = month_file({key.partition("/")[0] for key in objects}, taxi, month)
        if name is None:
            raise missing_month([*objects, *self._list("", _MOST_LOOKED_AT)], taxi, month, self._url)
        if name in objects:
            return name, [objects[name]]
        inside = [key.removeprefix(f"{name}/") for key in objects if key.startswith(f"{name}/")]
        return name, [objects[f"{name}/{part}"] for part in parts_of(filter(None, inside), f"{self._url}/{name}")]

    def _list(self, prefix: str, most: int | None = None) -> dict[str, dict[str, Any]]:
        with self._errors():
            return self._bucket.list(prefix, most)

    def _fetch(self, item: dict[str, Any], download: Download) -> None:
        bucket, key = self._bucket, item["Key"]
        download.restart(item["ETag"])
        # The trouble with S3 inside: its errors are no errors of the file system, save for those that truly are.
        with (
            progress(f"s3://{bucket.name}/{key}", item["Size"]) as advance,
            storage_errors(download.file),
            self._errors(),
        ):
            bucket.download(key.removeprefix(bucket.prefix), download.part, advance)
        download.finish()

    def _errors(self) -> AbstractContextManager[None]:
        return self._bucket.errors(f"{self._url} cannot be read")
