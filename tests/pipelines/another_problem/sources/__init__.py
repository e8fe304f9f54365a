"""Months of parcels come from a folder of CSV files, ``2021-01.csv``."""

from pathlib import Path

from tripcast.taxi.sources.folder import Folder as Source


def open_source(text: str, downloads: Path) -> Source:
    return Source(Path(text))


def is_simulated(text: str) -> bool:
    return False
