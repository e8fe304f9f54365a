"""MLflow's store in an SQLite file: it appears whole or not at all, however many processes want it first.

MLflow makes its tables where they are to be, by dozens of migrations. Two processes that do that at once, or one that
is killed, leave a store that never opens again.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

# SQLAlchemy and MLflow are imported where a store is made: every command imports this, and would wait two seconds.
from tripcast.errors import InvalidRequest
from tripcast.storage.files import storage_errors


def make_local_store(uri: str, artifacts: Path) -> None:
    """Make an SQLite store unless it is there.

    Args:
        uri: MLflow tracking URI; nothing is done for any that names no SQLite file.
        artifacts: Where files of runs go whose experiment names no other place.

    Raises:
        InvalidRequest: If it names a folder.
        StorageError: If it cannot be written.
    """
    if not uri.startswith("sqlite:"):
        return
    from sqlalchemy import make_url

    database = make_url(uri).database
    if not database or database == ":memory:":
        return
    file = Path(database)
    if file.is_dir():  # MLflow would try for minutes to open it
        raise InvalidRequest(f"'{uri}' names a folder as MLflow's store: name a file, such as {uri}/mlflow.db.")
    if _is_there(file):
        return
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f".{file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
            if not _is_there(file):
                _make(file, artifacts)


def _is_there(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _make(file: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = file.with_name(f".{file.name}.part")
    for remains in (part, part.with_name(f"{part.name}-journal")):
        remains.unlink(missing_ok=True)
    store: Any = SqlAlchemyStore(f"sqlite:///{part}", artifacts.as_uri())  # type: ignore[no-untyped-call, unused-ignore]
    store.engine.dispose()
    with part.open("rb") as made:
        os.fsync(made.fileno())
    part.replace(file)
