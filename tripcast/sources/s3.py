"""Months from an S3 bucket: Amazon's, or any endpoint that the standard AWS environment names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tripcast.errors import InvalidRequest, SourceError, SourceUnreachable
from tripcast.months import Month
from tripcast.sources.downloads import Download, progress
from tripcast.sources.files import RawMonth, missing_month, month_file, open_month_file
from tripcast.storage import writing


class S3:
    """The files under ``s3://bucket/prefix``, named as the publisher names them.

    Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL_S3``, ``AWS_PROFILE``, ...) as for
    every program that uses AWS's libraries. A month is downloaded once, and again when the object has changed.
    """

    def __init__(self, url: str, downloads: Path) -> None:
        """Take the bucket and prefix, and the folder that keeps the months.

        Raises:
            InvalidRequest: If the address names no bucket.
        """
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise InvalidRequest(f"'{url}' names no bucket: write s3://bucket/prefix.")
        self._url, self._downloads = url, downloads
        self._folder = f"{prefix.strip('/')}/".lstrip("/")

    def edition(self, taxi: str, month: Month) -> str:
        """The month's object with its ETag.

        Raises:
            SourceError: As ``month``, but for what is wrong with the file.
        """
        name, item = self._find(self._client(), taxi, month)
        return f"{name} {item['ETag']}"

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi, downloading it if need be.

        Raises:
            SourceError: If there is no such bucket or month, the credentials are missing or refused, the endpoint
                cannot be reached, or the file is no table.
            StorageError: If the download cannot be written.
        """
        client = self._client()
        name, item = self._find(client, taxi, month)
        location = f"s3://{self._bucket}/{self._folder}{name}"
        download = Download(self._downloads / "s3" / self._bucket / f"{self._folder}{name}")
        if download.edition() != item["ETag"]:
            self._fetch(client, item, download, location)
        return open_month_file(download.file, location)

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        # Bounded waiting: about half a minute until an endpoint that does not answer is given up.
        patience = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": 4})
        with self._trouble():
            return boto3.client("s3", config=patience)

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
        with progress(location, item["Size"]) as advance, writing(download.file), self._trouble():
            client.download_file(self._bucket, item["Key"], str(download.part), Callback=advance)
        download.finish()

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Say what S3's errors mean."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except NoCredentialsError as trouble:
            raise SourceUnreachable(
                f"{self._url} needs credentials, and there are none: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            ) from trouble
        except ClientError as trouble:
            code = trouble.response["Error"]["Code"]
            step = {
                "NoSuchBucket": f"Create the bucket {self._bucket}, or correct the source",
                "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL_S3",
                "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY",
                "AccessDenied": "Permit these credentials to list and read the bucket",
            }.get(code, "Check the bucket, the credentials and AWS_ENDPOINT_URL_S3")
            raise SourceError(f"{self._url} cannot be read, S3 answers {code}: {trouble}. {step}.") from trouble
        except (BotoCoreError, Boto3Error) as trouble:
            raise SourceUnreachable(
                f"{self._url} cannot be read: {trouble}. Check the network and AWS_ENDPOINT_URL_S3, then run again."
            ) from trouble
