"""The connection to MLflow: how its store is opened, and what to say when it fails.

MLflow is imported where it is asked: it takes a second and a half, and the commands that start pipelines import the
registry and ask it nothing themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from tripcast.errors import InvalidRequest, TrackingError
from tripcast.registry.local_store import make_local_store
from tripcast.settings import Settings
from tripcast.storage import s3

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def tracking_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn MLflow's exceptions, whatever they are made of, into one sentence.

    Raises:
        TrackingError: Naming the store, what was being done, and what to do.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    expected: tuple[type[Exception], ...] = (MlflowException, BotoCoreError, ClientError, OSError)
    with suppress(ImportError):  # it is there where a store can be a file
        from sqlalchemy.exc import SQLAlchemyError

        expected += (SQLAlchemyError,)
    try:
        yield
    except expected as error:
        raise TrackingError(
            f"MLflow at {uri} failed while {doing}: {_first_line(error)} {_remedy(uri, error)}"
        ) from error


@contextmanager
def passing_over(error_code: str) -> Iterator[None]:
    """Pass over MLflow's refusal of what somebody else has done already, for example ``RESOURCE_ALREADY_EXISTS``."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != error_code:
            raise


def _remedy(uri: str, error: Exception) -> str:
    said = str(error)
    if "Invalid Host header" in said:
        host = urlsplit(uri).netloc
        return f"The server does not answer to that name: start it with --allowed-hosts naming {host}, too."
    if " 401 " in said or " 403 " in said:
        return "Check MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    if "out-of-date database schema" in said:
        return f"Another version of MLflow made that store: mlflow db upgrade {uri}."
    if uri.startswith("sqlite:"):
        return "Check that file, and the disk; then run again."
    return "Check MLFLOW_TRACKING_URI, that the server runs, and its log; then run again."


def check_reachable(uri: str) -> None:
    """Ask a tracking server whether it is there, before any work is done that would be lost without it.

    Args:
        uri: MLflow tracking URI; only servers (http, https) are asked.

    Raises:
        InvalidRequest: If it is neither an address nor a store.
        TrackingError: If the server does not answer, or not as a healthy MLflow server does.
    """
    if "://" not in uri and uri != "databricks":
        raise InvalidRequest(
            f"'{uri}' in MLFLOW_TRACKING_URI is no address: write http:// or https:// before it, sqlite:/// before a "
            "file, or unset that to track in the home."
        )
    if not uri.startswith(("http://", "https://")):
        return
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=10)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise TrackingError(
            f"No MLflow server answers at {uri}: {_first_line(error)} "
            "Start it, correct MLFLOW_TRACKING_URI, or unset that to track in a file."
        ) from error


def open_client(settings: Settings) -> MlflowClient:
    """A client of the store, which is made if it is a file that is not there.

    Raises:
        TrackingError: If the store cannot be opened.
    """
    import mlflow

    s3.use_region()  # MLflow keeps files in S3 by a client of its own
    mlflow.set_tracking_uri(settings.tracking_uri)
    with tracking_errors(settings.tracking_uri, "opening the store"):
        make_local_store(settings.tracking_uri, settings.home / "artifacts")
        return mlflow.MlflowClient()


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, ended as a sentence."""
    text = (str(error).splitlines() or [type(error).__name__])[0].strip()
    return text if text.endswith(".") else f"{text}."
