"""A folder of CSV files."""

from dataclasses import dataclass
from pathlib import Path

from tripcast.errors import SourceError
from tripcast.months import Month


@dataclass(frozen=True)
class Folder:
    path: Path

    def revision(self, taxi: str, month: Month) -> str:
        file = self.month(taxi, month)
        if not file.exists():
            raise SourceError(f"There is no {file}: choose another month.")
        return f"{file.stat().st_size}-{file.stat().st_mtime_ns}"

    def month(self, taxi: str, month: Month) -> Path:
        return self.path / f"{month}.csv"
