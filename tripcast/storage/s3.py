"""S3 as tripcast uses it: Amazon's or any endpoint that the standard AWS environment names, and what its errors mean.

Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL_S3``, ``AWS_PROFILE``, ...) as for every
program that uses AWS's libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tripcast.errors import InvalidRequest, TripcastError

#: What to do about S3's error codes.
_REMEDIES = {
    "NoSuchBucket": "Create the bucket {bucket}, or correct its name",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL_S3",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY",
    "403": "Check the credentials, and that they permit to read and write the bucket {bucket}",
    "AccessDenied": "Permit these credentials to list, read and write the bucket {bucket}",
    "RequestTimeTooSkewed": "Set this machine's clock, or the store's: they differ by more than a quarter of an hour",
    "XMinioStorageFull": "Free some space in the store",
}


def split(url: str) -> tuple[str, str]:
    """Take ``s3://bucket/prefix`` apart.

    Returns:
        The bucket, and the prefix with a slash at its end, or empty.

    Raises:
        InvalidRequest: If it names no bucket.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise InvalidRequest(f"'{url}' names no bucket: write s3://bucket/prefix.")
    return bucket, f"{prefix.strip('/')}/".lstrip("/")


def client(attempts: int) -> Any:
    """A client that waits within bounds.

    Args:
        attempts: How often a request is tried while the endpoint does not answer: 4 take about five seconds, 10 a
            minute, in which a store can be restarted.
    """
    import boto3
    from botocore.config import Config

    patience = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": attempts})
    return boto3.client("s3", config=patience)


@contextmanager
def s3_errors(doing: str, url: str, refused: type[TripcastError], unreachable: type[TripcastError]) -> Iterator[None]:
    """Turn boto3's exceptions into one sentence.

    Args:
        doing: What cannot be done, as ``s3://trips/green cannot be read``.
        url: Where, to name the bucket.
        refused: Raised when the store answers with an error.
        unreachable: Raised when it does not answer, or no credentials are there to ask it with.

    Raises:
        TripcastError: One of these.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as trouble:
        raise unreachable(
            f"{doing}: it needs credentials, and there are none. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE."
        ) from trouble
    except (ClientError, BotoCoreError, Boto3Error) as trouble:
        error = _client_error(trouble)
        if error is None:
            raise unreachable(
                f"{doing}: {trouble}. Check the network and AWS_ENDPOINT_URL_S3, then run again."
            ) from trouble
        code = error.response["Error"]["Code"]
        remedy = _REMEDIES.get(code, "Check the bucket, the credentials and AWS_ENDPOINT_URL_S3")
        raise refused(f"{doing}, S3 answers {code}: {error}. {remedy.format(bucket=split(url)[0])}.") from trouble


def _client_error(trouble: BaseException | None) -> Any:
    """The store's own answer in an exception or in what caused it: transfers wrap it; None if there was no answer."""
    from botocore.exceptions import ClientError

    while trouble is not None and not isinstance(trouble, ClientError):
        trouble = trouble.__cause__ or trouble.__context__
    return trouble
