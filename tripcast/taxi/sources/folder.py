"""Months from a folder of files, named as the publisher names them."""

from __future__ import annotations

from pathlib import Path

from tripcast.errors import SourceError
from tripcast.months import Month
from tripcast.taxi.sources.files import RawMonth, missing_month, month_file, open_month_file


class Folder:
    """A folder that holds files such as ``green_tripdata_2021-01.parquet``; folders inside it are not searched."""

    def __init__(self, path: str) -> None:
        """Take the folder's path; ``~`` is the home folder.

        Raises:
            SourceError: If it is not a folder.
        """
        self._folder = Path(path).expanduser().resolve()
        if not self._folder.is_dir():
            what = "is a file, not a folder" if self._folder.exists() else "does not exist"
            raise SourceError(
                f"The source '{path}' {what} ({self._folder}). Give the folder that holds the months, "
                "or write tlc, s3://bucket/prefix or simulated."
            )

    def revision(self, taxi: str, month: Month) -> str:
        """The month's file with its size and the time of its last change.

        Raises:
            SourceError: If the month is not in the folder.
        """
        file = self._file(taxi, month)
        return f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}"

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi.

        Raises:
            SourceError: If the month is not in the folder, or its file is no table.
        """
        file = self._file(taxi, month)
        return open_month_file(file, str(file))

    def _file(self, taxi: str, month: Month) -> Path:
        names = [path.name for path in self._folder.iterdir()]
        name = month_file(names, taxi, month)
        if name is None:
            raise missing_month(names, taxi, month, str(self._folder))
        return self._folder / name
