"""What a step tells the next ones of an artifact: typed records, as the artifact's metadata.

Kubeflow Pipelines keeps metadata in ML Metadata, which knows strings and numbers. A list comes back from it as
``{"list": [...]}``, a dictionary as ``{"struct": {...}}``, a boolean as 1 or 0, a whole number with a point or without,
and None is refused. So a record's strings and numbers are entries as they are, and everything else is JSON text.
What is larger than a few lines is a file of the artifact.

Source:
    backend/src/v2/metadata/converter.go of Kubeflow Pipelines 2.17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from tripcast.errors import StorageError
from tripcast.months import MonthUsed
from tripcast.storage.files import storage_errors

#: The file in a folder of trips that says which months they are of.
MONTHS = "months.json"

Record = TypeVar("Record")


@dataclass(frozen=True)
class Trained:
    """A model that was trained.

    Attributes:
        candidate: Which candidate.
        seconds: How long its training took.
    """

    candidate: str
    seconds: float


@dataclass(frozen=True)
class Winner:
    """The best candidate of a selection.

    Attributes:
        candidate: Which one; empty if none could be judged, and then all else is empty, too.
        run_id: Its MLflow run.
        mlflow_run: Where people see that; empty if MLflow has no pages.
        reason: The reason of the decision.
        tags: What the registry is to say of its version.
    """

    candidate: str = ""
    run_id: str = ""
    mlflow_run: str = ""
    reason: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def to_metadata(record: object) -> dict[str, str | int | float]:
    """A record, which is a dataclass, as metadata. Fields that are None are left out."""
    entries = {name: value for name, value in msgspec.to_builtins(record).items() if value is not None}
    return {
        name: value if _is_scalar(value) else msgspec.json.encode(value).decode() for name, value in entries.items()
    }


def from_metadata(kind: type[Record], metadata: Mapping[str, Any]) -> Record:
    """Read a record back. Kubeflow Pipelines adds entries of its own, which are passed over.

    Raises:
        StorageError: If the metadata is not that of such a record: another version of this project wrote it.
    """
    hints = get_type_hints(kind)
    try:
        entries = {
            name: msgspec.json.decode(value) if isinstance(value, str) and not _takes_text(hints[name]) else value
            for name, value in metadata.items()
            if name in hints
        }
        return msgspec.convert(entries, kind, strict=False)
    except msgspec.MsgspecError as trouble:
        raise StorageError(
            f"The metadata of an artifact is not that of a {kind.__name__} ({trouble}). Another version of tripcast "
            "made it: run the pipeline again, without the cache."
        ) from trouble


def write_months(folder: Path, months: Sequence[MonthUsed]) -> None:
    """Write beside trips which months they are of.

    Raises:
        StorageError: If the folder cannot be written.
    """
    with storage_errors(folder):
        (folder / MONTHS).write_bytes(msgspec.json.format(msgspec.json.encode(months)) + b"\n")


def read_months(folder: Path) -> list[MonthUsed]:
    """The months that a folder's trips are of.

    Raises:
        StorageError: If the folder does not say.
    """
    try:
        return msgspec.json.decode((folder / MONTHS).read_bytes(), type=list[MonthUsed])
    except (OSError, msgspec.MsgspecError) as trouble:
        raise StorageError(
            f"{folder / MONTHS} does not describe months ({trouble}). Run the pipeline again."
        ) from trouble


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _takes_text(hint: object) -> bool:
    return hint is str or hint == str | None
