"""Months from an S3 bucket: Amazon's, or any endpoint that the standard AWS environment names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tripcast.errors import SourceError, SourceUnreachable
from tripcast.months import Month
from tripcast.storage import s3
from tripcast.storage.files import storage_errors
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
        self._bucket, self._folder = s3.split(url)
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
            download = Download(self._downloads / "s3" / self._bucket / item["Key"])
            if download.revision() != item["ETag"]:
                self._fetch(item, download)
            files.append(download.file)
        return open_month_files(files, f"s3://{self._bucket}/{self._folder}{name}")

    def _find(self, taxi: str, month: Month) -> tuple[str, list[dict[str, Any]]]:
        """A month's name, and what S3 says of its object, or of its parts' objects."""
        objects = self._list(f"{self._folder}{taxi}_tripdata_")
        name = month_file({key.partition("/")[0] for key in objects}, taxi, month)
        if name is None:
            raise missing_month([*objects, *self._list(self._folder, _MOST_LOOKED_AT)], taxi, month, self._url)
        if name in objects:
            return name, [objects[name]]
        inside = [key.removeprefix(f"{name}/") for key in objects if key.startswith(f"{name}/")]
        return name, [objects[f"{name}/{part}"] for part in parts_of(filter(None, inside), f"{self._url}/{name}")]

    def _list(self, prefix: str, most: int | None = None) -> dict[str, dict[str, Any]]:
        """The objects whose keys begin with a prefix, by their keys below the folder; so many at most."""
        with self._trouble():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, PaginationConfig={"MaxItems": most}
            )
            return {item["Key"].removeprefix(self._folder): item for page in pages for item in page.get("Contents", ())}

    def _fetch(self, item: dict[str, Any], download: Download) -> None:
        location = f"s3://{self._bucket}/{item['Key']}"
        download.restart(item["ETag"])
        # The trouble with S3 inside: its errors are no errors of the file system, save for those that truly are.
        with progress(location, item["Size"]) as advance, storage_errors(download.file), self._trouble():
            self._client.download_file(self._bucket, item["Key"], str(download.part), Callback=advance)
        download.finish()

    @cached_property
    def _client(self) -> Any:
        with self._trouble():
            return s3.client(_ATTEMPTS)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        with s3.s3_errors(f"{self._url} cannot be read", self._url, SourceError, SourceUnreachable):
            yield
