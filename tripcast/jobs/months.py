"""Months as jobs want them: found at their source, looked into, or brought in and held to the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tripcast.errors import ContractError, SourceError, SourceUnreachable
from tripcast.months import Month
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi import contract
from tripcast.taxi.ingestion import Ingested, ingest, look
from tripcast.taxi.sources import Source
from tripcast.taxi.sources.folder import Folder
from tripcast.taxi.trip_files import read_trips
from tripcast.taxi.trips import Trips

#: Of more months than this that are missing, one sentence tells.
_NAMED_ONE_BY_ONE = 3


def find_months(source: Source, taxi: str, months: Sequence[Month]) -> dict[Month, str]:
    """Find months at their source.

    Args:
        source: Where they come from.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        months: Which.

    Returns:
        The revision of each that the source has.

    Raises:
        SourceError: If months are missing: one sentence for each of them, or one for many.
        SourceUnreachable: If the source does not answer.
    """
    revisions: dict[Month, str] = {}
    missing: dict[Month, str] = {}
    for month in months:
        try:
            revisions[month] = source.revision(taxi, month)
        except SourceUnreachable:
            raise  # it would not answer for the other months either
        except SourceError as error:
            missing[month] = str(error)
    if len(missing) > _NAMED_ONE_BY_ONE:
        first, *_ = missing.values()
        raise SourceError(f"{len(missing)} months are missing: {', '.join(map(str, missing))}. Of the first: {first}")
    if missing:
        raise SourceError("\n".join(missing.values()))
    return revisions


def look_into(source: Source, taxi: str, months: Sequence[Month]) -> list[str]:
    """Open the months of a folder, which costs nothing, to find out now what would end the run later.

    Args:
        source: Where they come from.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        months: Which.

    Returns:
        What people should know of them, a sentence each.

    Raises:
        SourceError: If months are no tables: one sentence for each of them.
        ContractError: If the columns are not those of the taxi: one sentence for each.
    """
    remarks: list[str] = []
    wrong: list[SourceError | ContractError] = []
    for month in months if isinstance(source, Folder) else ():
        try:
            remarks += look(source.month(taxi, month), taxi)
        except (SourceError, ContractError) as error:
            wrong.append(error)
    if wrong:
        raise type(wrong[0])("\n".join(map(str, wrong)))
    return remarks


def load_valid_trips(source: str, taxi: str, month: Month, settings: Settings) -> tuple[Ingested, Trips]:
    """Bring a month in and hold it to the contract.

    Args:
        source: Where months come from, see ``tripcast.taxi.sources.open_source``.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        month: The month.
        settings: Where downloads and snapshots are kept.

    Returns:
        What was ingested (its file is gone), and the good trips.

    Raises:
        SourceError: If the month is missing or damaged.
        ContractError: If it breaks the contract.
        StorageError: If it cannot be kept.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = open_store(settings.artifacts)
        ingested = ingest(
            source, taxi, month, output=folder / "month.parquet", downloads=settings.downloads, store=store
        )
        (check,) = contract.validate([ingested], kept=folder / "kept", rejected=folder / "rejected")
        return ingested, read_trips([check.kept_file])
