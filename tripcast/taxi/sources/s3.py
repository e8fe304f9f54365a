"""Months from an S3 bucket: Amazon's, or any endpoint that the standard AWS environment names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tripcast.errors import SourceError, SourceUnreachable
from tripcast.months import Month
from tripcast.storage import s3
from tripcast.storage.files import storage_errors
from tripcast.taxi.sources.downloads import Download, progress
from tripcast.taxi.sources.files import RawMonth, missing_month, month_file, open_month_file

#: How often a request is tried: a source that does not answer is given up within half a minute.
_ATTEMPTS = 4


class S3:
    """The files under ``s3://bucket/prefix``, named as the publisher names them.

    A month is downloaded once, and again when the object has changed.
    """

    def __init__(self, url: str, downloads: Path) -> None:
        """Take the bucket and prefix, and the folder that keeps the months.

        Raises:
            InvalidRequest: If the address names no bucket.
        """
        self._bucket, self._folder = s3.split(url)
        self._url, self._downloads = url, downloads

    def revision(self, taxi: str, month: Month) -> str:
        """The month's object with its ETag.

        Raises:
            SourceError: As ``month``, but for what is wrong with the file.
        """
        name, item = self._find(s3.client(_ATTEMPTS), taxi, month)
        return f"{name} {item['ETag']}"

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi, downloading it if need be.

        Raises:
            SourceError: If there is no such bucket or month, the credentials are missing or refused, the endpoint
                cannot be reached, or the file is no table.
            StorageError: If the download cannot be written.
        """
        client = s3.client(_ATTEMPTS)
        name, item = self._find(client, taxi, month)
        location = f"s3://{self._bucket}/{self._folder}{name}"
        download = Download(self._downloads / "s3" / self._bucket / f"{self._folder}{name}")
        if download.revision() != item["ETag"]:
            self._fetch(client, item, download, location)
        return open_month_file(download.file, location)

    def _find(self, client: Any, taxi: str, month: Month) -> tuple[str, dict[str, Any]]:
        """A month's file name, and what S3 says of the object."""
        with self._trouble():
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._folder}{taxi}_tripdata_"
            )
            objects = {
                item["Key"].removeprefix(self._folder): item for page in pages for item in page.get("Contents", ())
            }
        name = month_file(objects, taxi, month)
        if name is None:
            raise missing_month(objects, taxi, month, self._url)
        return name, objects[name]

    def _fetch(self, client: Any, item: dict[str, Any], download: Download, location: str) -> None:
        download.restart(item["ETag"])
        # The trouble with S3 inside: its errors are no errors of the file system, save for those that truly are.
        with progress(location, item["Size"]) as advance, storage_errors(download.file), self._trouble():
            client.download_file(self._bucket, item["Key"], str(download.part), Callback=advance)
        download.finish()

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        with s3.s3_errors(f"{self._url} cannot be read", self._url, SourceError, SourceUnreachable):
            yield
