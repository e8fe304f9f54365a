"""What a parcel has to keep: it took between one and sixty hours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tripcast.errors import ContractError
from tripcast.months import MonthUsed
from tripcast.taxi.ingestion import Ingested
from tripcast.taxi.trips import LONGEST_MINUTES, SHORTEST_MINUTES


@dataclass(frozen=True)
class MonthCheck:
    ingested: Ingested
    kept_file: Path
    kept: int

    def used(self, role: str) -> MonthUsed:
        found = self.ingested
        return MonthUsed(found.month, role, found.location, found.rows, self.kept, found.sha256)


def describe(taxi: str) -> str:
    return f"Between {SHORTEST_MINUTES} and {LONGEST_MINUTES} hours.\n"


def validate(months, *, kept: Path, rejected: Path) -> list[MonthCheck]:
    checks = []
    for month in months:
        table = pq.read_table(month.file)
        hours = table["duration_minutes"]
        good = pc.and_(pc.greater_equal(hours, SHORTEST_MINUTES), pc.less_equal(hours, LONGEST_MINUTES))
        for folder, rows in ((kept, table.filter(good)), (rejected, table.filter(pc.invert(good)))):
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows, folder / f"{month.month}.parquet")
        checks.append(MonthCheck(month, kept / f"{month.month}.parquet", pc.sum(good).as_py() or 0))
        if not checks[-1].kept:
            raise ContractError(f"{month.location} has no parcel that was delivered in time: look at the file.")
    return checks


def move_test_month(check: MonthCheck, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    check.kept_file.rename(folder / check.kept_file.name)


def metrics(checks) -> dict[str, float]:
    return {"rows": sum(check.ingested.rows for check in checks), "kept": sum(check.kept for check in checks)}


def summary(checks) -> str:
    return "".join(f"- {check.ingested.month}: {check.kept} of {check.ingested.rows}\n" for check in checks)
