"""Good rows, bad rows, and months that are refused."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tripcast.errors import ContractError, InvalidRequest, SourceError
from tripcast.months import Month, parse_months
from tripcast.storage.store import FolderStore
from tripcast.taxi.contract import MonthCheck, MonthRules, describe, metrics, summary, validate
from tripcast.taxi.ingestion import Ingested, ingest
from tripcast.taxi.trip_files import read_trips, recorded_schema, trips_schema

JANUARY = Month(2021, 1)
PICKUP = datetime(2021, 1, 15, 8, 30)


def row(minutes: float | None = 10.0, **values: Any) -> dict[str, Any]:
    """A good row, but for what is asked otherwise."""
    pickup = values.get("pickup_datetime", PICKUP)
    dropoff = None if minutes is None or pickup is None else pickup + timedelta(minutes=minutes)
    good = {"pickup_datetime": pickup, "dropoff_datetime": dropoff, "pickup_zone": 74, "dropoff_zone": 75}
    return {**good, "trip_distance_miles": 2.5, **values}


def trips(count: int, **values: Any) -> list[dict[str, Any]]:
    """Good rows, one a second."""
    return [row(pickup_datetime=PICKUP + timedelta(seconds=second), **values) for second in range(count)]


def month_of(folder: Path, rows: list[dict[str, Any]], month: Month = JANUARY) -> Ingested:
    file = folder / f"ingested-{month}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=recorded_schema("green")), file)
    return Ingested(file, "green", month, f"folder/green_tripdata_{month}.parquet", len(rows), "0" * 64)


def check(folder: Path, rows: list[dict[str, Any]]) -> MonthCheck:
    """Validate rows as a month, whatever its size and shares."""
    rules = MonthRules(max_rejected_share=1, max_outside_share=1, max_repeated_share=1, min_kept=0)
    (found,) = validate([month_of(folder, rows)], kept=folder / "kept", rejected=folder / "rejected", rules=rules)
    return found


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (dict.fromkeys(row()), "unreadable_row"),
        (row(pickup_datetime=None), "missing_value"),
        (row(minutes=None), "missing_value"),
        (row(pickup_zone=None), "missing_zone"),
        (row(dropoff_zone=None), "missing_zone"),
        (row(trip_distance_miles=None), "missing_value"),
        (row(pickup_zone=0), "unknown_zone"),
        (row(dropoff_zone=266), "unknown_zone"),
        (row(dropoff_zone=-(2**31)), "unknown_zone"),
        (row(trip_distance_miles=-0.01), "bad_distance"),
        (row(trip_distance_miles=float("inf")), "bad_distance"),
        (row(trip_distance_miles=float("nan")), "bad_distance"),
        (row(minutes=59 / 60), "bad_duration"),
        (row(minutes=60 + 1 / 60), "bad_duration"),
        (row(minutes=-10), "bad_duration"),
        (row(minutes=0, pickup_zone=0, trip_distance_miles=-1.0), "unknown_zone"),
        (row(minutes=0, pickup_zone=0, trip_distance_miles=None), "missing_value"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    found = check(tmp_path, [row(), bad, *trips(2)[1:]])
    aside = pq.read_table(found.rejected_file)
    assert aside["reason"].to_pylist() == [reason]
    # Compared as text, because NaN is not equal to itself.
    assert str(aside.drop_columns("reason").to_pylist()) == str([bad])
    assert found.rejected == {**dict.fromkeys(found.rejected, 0), reason: 1}
    assert (found.rows, found.kept, found.bad_share) == (3, 2, pytest.approx(1 / 3))
    assert len(pq.read_table(found.kept_file)) == 2


def test_a_good_row_becomes_a_trip(tmp_path: Path) -> None:
    found = check(tmp_path, [row(minutes=12.5, pickup_zone=1, dropoff_zone=265)])
    table = pq.read_table(found.kept_file)
    assert table.schema.equals(trips_schema())
    assert table.to_pylist() == [
        {
            "pickup_datetime": PICKUP,
            "pickup_zone": 1,
            "dropoff_zone": 265,
            "trip_distance_miles": 2.5,
            "duration_minutes": 12.5,
        }
    ]
    assert found.rejected.total() == 0
    assert len(pq.read_table(found.rejected_file)) == 0


def test_durations_of_one_minute_and_of_sixty_are_kept(tmp_path: Path) -> None:
    found = check(tmp_path, [row(minutes=1), row(minutes=60)])
    assert read_trips([found.kept_file]).duration_minutes.tolist() == [1.0, 60.0]


@pytest.mark.parametrize(
    ("odd", "flags"),
    [
        (row(pickup_datetime=datetime(2020, 12, 31, 23, 59, 59)), {"outside_month": 1}),
        (row(pickup_datetime=datetime(2021, 1, 1)), {}),
        (row(pickup_datetime=datetime(2021, 1, 31, 23, 59, 59)), {}),
        (row(pickup_datetime=datetime(2021, 2, 1)), {"outside_month": 1}),
        (row(pickup_datetime=datetime(2009, 1, 1), trip_distance_miles=0.0), {"outside_month": 1, "zero_distance": 1}),
        (row(trip_distance_miles=100.0), {}),
        (row(trip_distance_miles=244152.01), {"far": 1}),
    ],
)
def test_an_odd_row_is_kept_and_counted(tmp_path: Path, odd: dict[str, Any], flags: dict[str, int]) -> None:
    found = check(tmp_path, [row(), odd])
    assert found.kept == 2
    assert {flag: count for flag, count in found.flagged.items() if count} == flags


def refuse(folder: Path, *months: Ingested) -> list[str]:
    with pytest.raises(ContractError) as error:
        validate(months, kept=folder / "kept", rejected=folder / "rejected")
    return str(error.value).splitlines()


def test_an_empty_month_is_refused(tmp_path: Path) -> None:
    assert refuse(tmp_path, month_of(tmp_path, [])) == [
        "2021-01 from folder/green_tripdata_2021-01.parquet is empty: it has the right columns but no rows. "
        "Fetch it again, or leave the month out."
    ]


def test_a_month_with_too_many_bad_rows_is_refused_and_shows_them(tmp_path: Path) -> None:
    month = month_of(tmp_path, trips(790) + [row(pickup_zone=0)] * 200 + [row(minutes=99)] * 10)
    (sentence,) = refuse(tmp_path, month)
    assert "bad rows: 210 of 1,000 (21.0%, at most 20.0% are allowed), most often unknown_zone (200: " in sentence
    assert f"Look at them in {tmp_path}/rejected/2021-01.parquet, then correct the month or leave it out." in sentence
    assert len(pq.read_table(tmp_path / "rejected" / "2021-01.parquet")) == 210


def test_a_month_of_bad_rows_only_is_refused(tmp_path: Path) -> None:
    (sentence,) = refuse(tmp_path, month_of(tmp_path, [row(minutes=99)] * 300))
    assert "too many bad rows: 300 of 300 (100.0%" in sentence


def test_a_fragment_of_a_month_is_refused(tmp_path: Path) -> None:
    (sentence,) = refuse(tmp_path, month_of(tmp_path, trips(99)))
    assert "has too few trips: 99 are left of 99 rows, and at least 100 are needed." in sentence


def test_another_month_under_this_name_is_refused(tmp_path: Path) -> None:
    (sentence,) = refuse(
        tmp_path,
        month_of(tmp_path, trips(190) + [row(pickup_datetime=datetime(2021, 2, 3, 0, minute)) for minute in range(11)]),
    )
    assert "is not that month: 11 of 201 trips (5.5%, at most 5.0% are allowed) begin outside of it." in sentence


def test_every_bad_month_is_named_at_once(tmp_path: Path) -> None:
    first, second, third = (Month(2021, number) for number in (1, 2, 3))
    rows = trips(200)
    sentences = refuse(
        tmp_path, month_of(tmp_path, [], first), month_of(tmp_path, rows, third), month_of(tmp_path, rows[:5], second)
    )
    assert [sentence.split(" from ")[0] for sentence in sentences] == ["2021-01", "2021-03", "2021-02"]


@pytest.mark.parametrize("count", [300, 3_000_000])
@pytest.mark.slow
def test_a_month_that_was_appended_to_itself_is_refused(tmp_path: Path, count: int) -> None:
    seconds = pa.array(range(count), pa.int64())
    once = pa.table(
        {
            "pickup_datetime": pc.add(seconds, 1_609_459_200).cast(pa.timestamp("s")),
            "dropoff_datetime": pc.add(seconds, 1_609_459_800).cast(pa.timestamp("s")),
            "pickup_zone": pc.add(pc.bit_wise_and(seconds, 127), 1),
            "dropoff_zone": pa.array([7]).take(pa.nulls(count, pa.int64()).fill_null(0)),
            "trip_distance_miles": pa.array([2.5]).take(pa.nulls(count, pa.int64()).fill_null(0)),
        }
    ).cast(recorded_schema("green"))
    pq.write_table(pa.concat_tables([once, once]), tmp_path / "twice.parquet")
    month = Ingested(tmp_path / "twice.parquet", "green", JANUARY, "here", 2 * count, "")
    rules = MonthRules(max_outside_share=1)
    with pytest.raises(ContractError, match=r"has trips more than once: about [\d,]+ of [\d,]+ repeat another"):
        validate([month], kept=tmp_path / "kept", rejected=tmp_path / "rejected", rules=rules)
    pq.write_table(once, tmp_path / "twice.parquet")
    month = dataclasses.replace(month, rows=count)
    (found,) = validate([month], kept=tmp_path / "kept", rejected=tmp_path / "rejected", rules=rules)
    assert found.flagged["repeated"] == 0


@pytest.mark.parametrize(
    ("hours", "how"), [(5, "late: converted to UTC"), (-4, "early: converted from UTC"), (8, "late")]
)
def test_a_month_whose_hours_were_moved_is_refused(tmp_path: Path, hours: int, how: str) -> None:
    spread = [row(pickup_datetime=datetime(2021, 1, 1) + timedelta(minutes=10 * number)) for number in range(31 * 144)]
    moved = [
        {**trip, **{name: trip[name] + timedelta(hours=hours) for name in ("pickup_datetime", "dropoff_datetime")}}
        for trip in spread
    ]
    assert validate([month_of(tmp_path, spread)], kept=tmp_path / "k", rejected=tmp_path / "r")[0].kept == 31 * 144
    (sentence,) = refuse(tmp_path, month_of(tmp_path, moved))
    assert sentence.startswith(
        "The hours of 2021-01 from folder/green_tripdata_2021-01.parquet are moved: 24 trips begin in"
    )
    assert how in sentence
    assert sentence.endswith("America/New_York and write them without a zone, or take the publisher's file.")


def test_the_rules_can_be_stricter(tmp_path: Path) -> None:
    month = month_of(tmp_path, trips(990) + [row(pickup_zone=0)] * 10)
    with pytest.raises(ContractError, match=r"10 of 1,000 \(1.0%, at most 0.1% are allowed\)"):
        validate([month], kept=tmp_path, rejected=tmp_path / "r", rules=MonthRules(max_rejected_share=0.001))


def test_a_damaged_ingested_file_is_named(tmp_path: Path) -> None:
    month = month_of(tmp_path, trips(200))
    month.file.write_bytes(month.file.read_bytes()[:-10])
    with pytest.raises(SourceError, match=f"{month.file} is a truncated parquet file"):
        validate([month], kept=tmp_path / "kept", rejected=tmp_path / "rejected")
    assert not (tmp_path / "kept" / "2021-01.parquet").exists()


def test_the_summary_is_a_table_by_month(tmp_path: Path) -> None:
    odd = [row(trip_distance_miles=0.0), row(trip_distance_miles=150.0), row(pickup_datetime=datetime(2020, 5, 5))]
    found = check(tmp_path, trips(1500) + odd + [row(dropoff_zone=900), row(minutes=300), row(minutes=301)])
    assert summary([found, found]).splitlines()[:4] == [
        "| month | rows | kept | set aside | unreadable_row | missing_value | missing_zone | unknown_zone "
        "| bad_distance | bad_duration | contradiction | outside_month | far | zero_distance | repeated |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| 2021-01 | 1,506 | 1,503 | 3 | 0 | 0 | 0 | 1 | 0 | 2 | 0 | 1 | 1 | 1 | 0 |",
        "| 2021-01 | 1,506 | 1,503 | 3 | 0 | 0 | 0 | 1 | 0 | 2 | 0 | 1 | 1 | 1 | 0 |",
    ]


def test_the_rules_are_those_that_a_feeds_rows_are_held_to() -> None:
    green, unmetered = describe("green"), describe("fhv")
    assert "- `bad_duration`: duration outside 1..60 minutes" in green
    assert "more than 20% of its rows" in green
    assert [[reason in text for reason in ("`bad_distance`", "`contradiction`")] for text in (green, unmetered)] == [
        [True, False],
        [False, False],
    ]
    assert ["left out of account" in text for text in (green, unmetered)] == [False, True]
    with pytest.raises(InvalidRequest, match="purple"):
        describe("purple")


def test_the_metrics_cover_all_months(tmp_path: Path) -> None:
    found = check(tmp_path, [row(), row(), row(minutes=99), row(trip_distance_miles=0.0)])
    assert metrics([found, found]) == {
        "rows": 8,
        "kept": 6,
        "rejected_share": 0.25,
        "rejected.unreadable_row": 0,
        "rejected.missing_value": 0,
        "rejected.missing_zone": 0,
        "rejected.unknown_zone": 0,
        "rejected.bad_distance": 0,
        "rejected.bad_duration": 2,
        "rejected.contradiction": 0,
        "flagged.outside_month": 0,
        "flagged.far": 0,
        "flagged.zero_distance": 2,
        "flagged.repeated": 2,
    }


@pytest.mark.slow
def test_validating_does_not_import_pandas(tmp_path: Path) -> None:
    month_of(tmp_path, [*trips(200), row(minutes=99)])
    script = """
import sys
from pathlib import Path
from tripcast.taxi.contract import validate
from tripcast.taxi.ingestion import Ingested
from tripcast.months import Month
folder = Path(sys.argv[1])
month = Ingested(folder / "ingested-2021-01.parquet", "green", Month(2021, 1), "here", 201, "")
validate([month], kept=folder / "kept", rejected=folder / "rejected")
print("pandas" in sys.modules)
"""
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert child.stdout == "False\n"


def test_published_months_keep_the_notebooks_trips(tmp_path: Path, tlc: Path) -> None:
    months = [
        ingest(
            str(tlc),
            "green",
            month,
            output=tmp_path / f"{month}.parquet",
            downloads=tmp_path,
            store=FolderStore(tmp_path),
        )
        for month in parse_months("2021-01..2021-03,2022-01..2022-03")
    ]
    checks = validate(months, kept=tmp_path / "kept", rejected=tmp_path / "rejected")
    assert [found.kept for found in checks] == [73_908, 61_921, 80_372, 59_603, 66_097, 74_507]
    assert checks[0].rejected == {
        "unreadable_row": 0,
        "missing_value": 0,
        "missing_zone": 0,
        "unknown_zone": 0,
        "bad_distance": 0,
        "bad_duration": 2_610,
        "contradiction": 0,
    }
    assert checks[0].flagged == {"outside_month": 2, "far": 62, "zero_distance": 1_626, "repeated": 67}
    assert re.match(r"[0-9a-f]{64}", months[0].sha256)
    assert len(read_trips([found.kept_file for found in checks])) == sum(found.kept for found in checks)
