"""Months from a folder of files, named as the publisher names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from tripcast.errors import SourceError
from tripcast.months import Month
from tripcast.taxi.sources.files import open_month_files
from tripcast.taxi.sources.names import missing_month, month_file, parts_of
from tripcast.taxi.sources.raw import RawMonth, reading

#: How many files are looked at in the folders inside, for what a month is there as.
_MOST_LOOKED_AT = 2000


class Folder:
    """A folder that holds files such as ``green_tripdata_2021-01.parquet``; folders inside it are not searched.

    A folder of that name, as Spark writes it, is a month in parts.
    """

    def __init__(self, path: str) -> None:
        """Take the folder's path; ``~`` is the home folder.

        Raises:
            SourceError: If it is not a folder.
        """
        self._folder = Path(path).expanduser().absolute()
        with reading(str(self._folder)):
            if not self._folder.is_dir():
                what = "is a file, not a folder" if self._folder.exists() else "does not exist"
                raise SourceError(
                    f"The source '{path}' {what} ({self._folder}). Give the folder that holds the months, "
                    "or write tlc, s3://bucket/prefix or simulated."
                )

    def revision(self, taxi: str, month: Month) -> str:
        """The month's files with their sizes and the times of their last changes.

        Raises:
            SourceError: If the month is not in the folder, or is a link to nowhere.
        """
        files, location = self._files(taxi, month)
        with reading(location):
            # Of a link to nowhere, that it is one: the month is here, and opening it says what is wrong.
            found = [(file.name, file.stat() if file.exists() else file.lstat()) for file in files]
        return ", ".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in found)

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi.

        Raises:
            SourceError: If the month is not in the folder, or its file is no table.
        """
        return open_month_files(*self._files(taxi, month))

    def _files(self, taxi: str, month: Month) -> tuple[list[Path], str]:
        """The files of a month, and their location."""
        with reading(str(self._folder)):
            names = sorted(path.name for path in self._folder.iterdir())
            name = month_file(names, taxi, month)
            if name is None:
                found = list(islice(chain(names, self._inside()), _MOST_LOOKED_AT))
                raise missing_month(found, taxi, month, str(self._folder))
            place = self._folder / name
            if not place.is_dir():
                return [place], str(place)
            inside = (str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir())
            return [place / part for part in parts_of(inside, str(place))], str(place)

    def _inside(self) -> Iterator[str]:
        """The files in the folders inside, three deep."""
        for root, folders, files in os.walk(self._folder):
            place = Path(root).relative_to(self._folder)
            if len(place.parts) == 3:
                folders.clear()
            yield from (str(place / file) for file in files)
