"""S3 as tripcast uses it: Amazon's or any endpoint that the standard AWS environment names, and what its errors mean.

Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL_S3``, ``AWS_PROFILE``, ...) as for every
program that uses AWS's libraries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

# boto3 and botocore are imported where S3 is asked: every command imports this, and would wait a fifth of a second.
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
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"),
        "The session has expired: get new credentials (aws sso login, or another AWS_SESSION_TOKEN)",
    ),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException"),
        "Set AWS_REGION to the region of the bucket {bucket}",
    ),
}

#: Error codes of a store that cannot answer at the moment.
_NOT_NOW = ("SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "InternalError", "503", "500", "429")


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


class Bucket:
    """The objects under ``s3://bucket/prefix``, by their keys below that prefix.

    Args:
        url: ``s3://bucket/prefix``.
        attempts: How often a request is tried while the endpoint does not answer: 4 take about five seconds, 10 a
            minute, in which a store can be restarted.
        refused: Raised when the store answers with an error.
        unreachable: Raised when it does not answer, or not now, or no credentials are there to ask it with.

    Raises:
        InvalidRequest: If it names no bucket.
    """

    def __init__(
        self, url: str, attempts: int, refused: type[TripcastError], unreachable: type[TripcastError] | None = None
    ) -> None:
        self.name, self.prefix = split(url)
        self._attempts, self._refused, self._unreachable = attempts, refused, unreachable or refused

    @cached_property
    def client(self) -> Any:
        """A client that waits within bounds.

        Raises:
            InvalidRequest: If the settings in the environment or in AWS's files are no such settings.
        """
        import boto3
        from botocore.config import Config

        use_region()
        _check_variables()
        retries = {"mode": "standard", "max_attempts": self._attempts}
        with _settings_errors():
            return boto3.client("s3", config=Config(connect_timeout=5, read_timeout=30, retries=retries))

    def list(self, prefix: str = "", most: int | None = None) -> dict[str, dict[str, Any]]:
        """What S3 says of the objects whose keys begin with a prefix, in order of their keys; so many at most."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=self.prefix + prefix, PaginationConfig={"MaxItems": most}
        )
        found = (item for page in pages for item in page.get("Contents", ()))
        return {item["Key"].removeprefix(self.prefix): item for item in found}

    def download(self, key: str, file: Path, advance: Callable[[int], object] | None = None) -> None:
        """Fetch an object into a file; ``advance`` is called with the bytes that have come since."""
        self.client.download_file(self.name, self.prefix + key, str(file), Callback=advance)

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn boto3's exceptions into one sentence.

        Args:
            doing: What cannot be done, as ``s3://trips/green cannot be read``.

        Raises:
            TripcastError: The one for a refusal, or for a store that does not answer.
        """
        from boto3.exceptions import Boto3Error
        from botocore import exceptions

        try:
            yield
        except exceptions.NoCredentialsError as trouble:
            raise self._unreachable(
                f"{doing}: it needs credentials, and there are none. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or AWS_PROFILE."
            ) from trouble
        except exceptions.ParamValidationError as trouble:
            said = " ".join(str(trouble).split())
            raise InvalidRequest(f"{doing}: {said}. Write s3://bucket/prefix with the name of a bucket.") from trouble
        except exceptions.SSLError as trouble:
            if "CERTIFICATE" not in str(trouble):
                raise self._unreachable(
                    f"{doing}: the endpoint does not speak TLS as it is asked to ({trouble}). If it speaks none, write "
                    "http:// in AWS_ENDPOINT_URL_S3."
                ) from trouble
            raise self._unreachable(
                f"{doing}: the certificate of the endpoint is not trusted ({trouble}). Name the file of the authority "
                "that signed it in AWS_CA_BUNDLE."
            ) from trouble
        except exceptions.EndpointProviderError as trouble:
            raise InvalidRequest(
                f"{doing}: {trouble}. Write http:// or https:// and a host in AWS_ENDPOINT_URL_S3 (or "
                "AWS_ENDPOINT_URL)."
            ) from trouble
        except (exceptions.SSOError, exceptions.SSOTokenLoadError, exceptions.TokenRetrievalError) as trouble:
            raise self._unreachable(f"{doing}: {trouble}. Sign in again: aws sso login.") from trouble
        except (exceptions.ClientError, exceptions.BotoCoreError, Boto3Error) as trouble:
            error = _client_error(trouble)
            if error is None:
                raise self._unreachable(
                    f"{doing}: {trouble}. Check the network and AWS_ENDPOINT_URL_S3, then run again."
                ) from trouble
            code = error.response["Error"]["Code"]
            if code in _NOT_NOW:
                raise self._unreachable(
                    f"{doing}, S3 answers {code}: {error}. The store is busy or down: wait, then run again."
                ) from trouble
            remedy = _REMEDIES.get(code, "Check the bucket, the credentials and AWS_ENDPOINT_URL_S3")
            raise self._refused(f"{doing}, S3 answers {code}: {error}. {remedy.format(bucket=self.name)}.") from trouble


def use_region() -> None:
    """Have boto3 use the region that ``AWS_REGION`` names, as AWS's other libraries do; it reads another variable."""
    if (region := os.environ.get("AWS_REGION")) and not os.environ.get("AWS_DEFAULT_REGION"):
        os.environ["AWS_DEFAULT_REGION"] = region


def _check_variables() -> None:
    """Refuse what botocore would meet in the middle of a request, and quote.

    Raises:
        InvalidRequest: Naming the variable.
    """
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        value = os.environ.get(name, "")
        if not value.isprintable() or value != value.strip():
            raise InvalidRequest(f"{name} holds a line break, a blank or the like: set it without.")
    for name in ("AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        if (file := os.environ.get(name)) and not Path(file).exists():
            raise InvalidRequest(f"{name} names {file}, which is not there. Correct or unset it.")


@contextmanager
def _settings_errors() -> Iterator[None]:
    """Turn botocore's exceptions about its settings into one sentence.

    Raises:
        InvalidRequest: Naming the variable that is wrong.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ProfileNotFound as trouble:
        raise InvalidRequest(f"{trouble}. Correct or unset AWS_PROFILE.") from trouble
    except exceptions.PartialCredentialsError as trouble:
        raise InvalidRequest(
            f"Half of the S3 credentials is missing ({trouble.kwargs['cred_var']}): set both AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or neither."
        ) from trouble
    except (exceptions.ConfigParseError, exceptions.ConfigNotFound) as trouble:
        raise InvalidRequest(f"{trouble}. Mend that file, or name another one in AWS_CONFIG_FILE.") from trouble
    except exceptions.InvalidRegionError as trouble:
        raise InvalidRequest(f"{str(trouble).rstrip('.')}. Correct AWS_REGION.") from trouble
    except (exceptions.BotoCoreError, ValueError, OSError) as trouble:
        said = str(trouble).rstrip(".")
        raise InvalidRequest(
            f"{said}. Write http:// or https:// and a host in AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL)."
            if "nvalid endpoint" in said
            else f"The settings for S3 cannot be used: {said}. Check the AWS_* variables."
        ) from trouble


def _client_error(trouble: BaseException | None) -> Any:
    """The store's own answer in an exception or in what caused it: transfers wrap it; None if there was no answer."""
    from botocore.exceptions import ClientError

    while trouble is not None and not isinstance(trouble, ClientError):
        trouble = trouble.__cause__ or trouble.__context__
    return trouble
