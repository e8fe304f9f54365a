"""Months in every state that they are published in, and in some that they should not be in."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tripcast.errors import ContractError, InvalidRequest, SourceError, StorageError
from tripcast.months import Month
from tripcast.storage.store import FolderStore
from tripcast.taxi import contract
from tripcast.taxi.ingestion import Ingested, ingest
from tripcast.taxi.simulation import City
from tripcast.taxi.trip_files import recorded_schema

JANUARY = Month(2021, 1)
TIMES = ("lpep_pickup_datetime", "lpep_dropoff_datetime")
ZONES = ("PULocationID", "DOLocationID")


def month_table(rows: int = 50) -> pa.Table:
    """A green month as published in 2021, with a null in each needed column and columns that nobody needs."""
    start = datetime(2021, 1, 1)
    pickup = [start + timedelta(minutes=7 * row, seconds=row) for row in range(rows)]
    return pa.table(
        {
            "VendorID": pa.array([1, 2] * (rows // 2), pa.int64()),
            TIMES[0]: pa.array([None, *pickup[1:]], pa.timestamp("us")),
            TIMES[1]: pa.array([*(time + timedelta(minutes=12) for time in pickup[:-1]), None], pa.timestamp("us")),
            "store_and_fwd_flag": pa.array(["N"] * rows),
            ZONES[0]: pa.array([1 + row % 265 for row in range(rows - 2)] + [None, 999], pa.int64()),
            ZONES[1]: pa.array([265 - row % 265 for row in range(rows - 1)] + [None], pa.int64()),
            "trip_distance": pa.array(
                [None, -0.5, 0.0, 244152.01, *(row / 7 for row in range(rows - 4))], pa.float64()
            ),
            "ehail_fee": pa.nulls(rows),
        }
    )


def write_month(folder: Path, table: pa.Table, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "green_tripdata_2021-01.parquet", **options)
    return folder


def ingest_month(source: Path, to: Path, taxi: str = "green") -> Ingested:
    return ingest(
        str(source), taxi, JANUARY, output=to / "month.parquet", downloads=to / "downloads", store=FolderStore(to)
    )


def recast(table: pa.Table, types: dict[str, pa.DataType]) -> pa.Table:
    for name, kind in types.items():
        values = table[name]
        if pa.types.is_dictionary(kind):
            values = values.cast(kind.value_type)
        table = table.set_column(table.schema.get_field_index(name), name, values.cast(kind))
    return table


def test_a_month_is_handed_on_in_the_typed_form(tmp_path: Path) -> None:
    table = month_table()
    ingested = ingest_month(write_month(tmp_path / "raw", table), tmp_path)
    typed = pq.read_table(ingested.file)
    assert typed.schema.equals(recorded_schema("green"))
    for name, raw_name in zip(typed.column_names, (*TIMES, *ZONES, "trip_distance"), strict=True):
        assert typed[name].to_pylist() == table[raw_name].to_pylist()
    assert ingested.rows == 50
    assert ingested.location == str(tmp_path / "raw" / "green_tripdata_2021-01.parquet")


def test_the_file_alone_tells_what_it_is(tmp_path: Path) -> None:
    ingested = ingest_month(write_month(tmp_path / "raw", month_table()), tmp_path)
    assert Ingested.open(ingested.file) == ingested


def test_a_file_that_was_not_ingested_is_refused(tmp_path: Path) -> None:
    pq.write_table(month_table(), tmp_path / "other.parquet")
    with pytest.raises(SourceError, match=r"other.parquet is not a month that was ingested: .*Ingest the month again"):
        Ingested.open(tmp_path / "other.parquet")


def test_yellow_months_have_columns_of_their_own(tmp_path: Path) -> None:
    table = month_table()
    table = table.rename_columns([name.replace("lpep", "tpep") for name in table.column_names])
    pq.write_table(table, tmp_path / "yellow_tripdata_2021-01.parquet")
    assert ingest_month(tmp_path, tmp_path, "yellow").rows == 50


TWINS: dict[str, dict[str, pa.DataType]] = {
    "int32 zones": dict.fromkeys(ZONES, pa.int32()),
    "uint16 zones": dict.fromkeys(ZONES, pa.uint16()),
    "double zones": dict.fromkeys(ZONES, pa.float64()),
    "string zones": dict.fromkeys(ZONES, pa.string()),
    "large_string zones": dict.fromkeys(ZONES, pa.large_string()),
    "dictionary zones": dict.fromkeys(ZONES, pa.dictionary(pa.int32(), pa.string())),
    "nanoseconds": dict.fromkeys(TIMES, pa.timestamp("ns")),
    "milliseconds": dict.fromkeys(TIMES, pa.timestamp("ms")),
    "seconds": dict.fromkeys(TIMES, pa.timestamp("s")),
    "string times": dict.fromkeys(TIMES, pa.string()),
    "string distance": {"trip_distance": pa.string()},
}


@pytest.mark.parametrize("types", TWINS.values(), ids=TWINS.keys())
def test_editions_with_other_types_have_the_same_hash(tmp_path: Path, types: dict[str, pa.DataType]) -> None:
    first = ingest_month(write_month(tmp_path / "first", month_table()), tmp_path / "a")
    second = ingest_month(write_month(tmp_path / "second", recast(month_table(), types)), tmp_path / "b")
    assert second.sha256 == first.sha256
    assert pq.read_table(second.file).equals(pq.read_table(first.file))


@pytest.mark.parametrize("revision", ["csv", "csv.gz", "small row groups", "int96", "other order of columns"])
def test_editions_in_other_files_have_the_same_hash(tmp_path: Path, revision: str) -> None:
    table, twin = month_table(), tmp_path / "twin"
    twin.mkdir()
    if revision == "csv":
        pa.csv.write_csv(table, twin / "green_tripdata_2021-01.csv")
    elif revision == "csv.gz":
        with gzip.open(twin / "green_tripdata_2021-01.csv.gz", "wb") as file:
            pa.csv.write_csv(table, file)
    elif revision == "small row groups":
        write_month(twin, table, row_group_size=7)
    elif revision == "int96":
        write_month(twin, table, use_deprecated_int96_timestamps=True)
    else:
        write_month(twin, table.select(table.column_names[::-1]))
    first = ingest_month(write_month(tmp_path / "first", table), tmp_path / "a")
    assert ingest_month(twin, tmp_path / "b").sha256 == first.sha256


def test_other_values_have_another_hash(tmp_path: Path) -> None:
    table = month_table()
    hashes = {ingest_month(write_month(tmp_path / "raw", table), tmp_path).sha256}
    for name in (*TIMES, *ZONES, "trip_distance"):
        index = table.schema.get_field_index(name)
        swapped = pa.concat_arrays([table[name].chunk(0)[1:2], table[name].chunk(0)[:1], table[name].chunk(0)[2:]])
        hashes.add(ingest_month(write_month(tmp_path / "raw", table.set_column(index, name, swapped)), tmp_path).sha256)
    assert len(hashes) == 6


def test_the_hash_is_what_its_description_says(tmp_path: Path) -> None:
    """Computed here from the description alone, so that another program could."""
    table = month_table()
    lines = ""
    epoch = datetime(1970, 1, 1)
    for name, raw_name in zip(recorded_schema("green").names, (*TIMES, *ZONES, "trip_distance"), strict=True):
        kind, layout, null = {
            "l": ("timestamp[us]", "<q", -(2**63)),
            "t": ("double", "<d", float("nan")),
        }.get(raw_name[0], ("int32", "<i", -(2**31)))
        values = [
            null if value is None else (value - epoch) // timedelta(microseconds=1) if layout == "<q" else value
            for value in table[raw_name].to_pylist()
        ]
        lines += (
            f"{name} {kind} {hashlib.sha256(b''.join(struct.pack(layout, value) for value in values)).hexdigest()}\n"
        )
    ingested = ingest_month(write_month(tmp_path / "raw", table), tmp_path)
    assert ingested.sha256 == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC", 5), ("America/New_York", 0), ("+00:00", 5), ("Europe/Berlin", 6), ("-05:00", 0)]
)
def test_the_wall_clock_that_a_file_shows_is_taken_with_a_remark(tmp_path: Path, zone: str, shown: int) -> None:
    instant = datetime(2021, 1, 1, 5, 30, tzinfo=UTC)
    table = month_table(4).set_column(1, TIMES[0], pa.array([instant] * 4, pa.timestamp("us", zone)))
    source = write_month(tmp_path / "raw", table)
    ingested = ingest_month(source, tmp_path)
    assert pq.read_table(ingested.file)["pickup_datetime"].to_pylist() == [datetime(2021, 1, 1, shown, 30)] * 4
    assert ingested.remarks == (
        f"The times of {source}/green_tripdata_2021-01.parquet are marked as {zone}: they are taken as the wall clock "
        "that they show, because the publisher's carry no zone.",
    )
    assert Ingested.open(ingested.file) == ingested


@pytest.mark.parametrize("kind", ["wall clock marked as UTC", "converted to UTC"])
def test_of_months_marked_as_utc_the_published_wall_clock_is_taken_and_the_converted_refused(
    tmp_path: Path, kind: str
) -> None:
    (published, *_) = City.parse("simulated?trips=5000").month("green", JANUARY)
    table = pa.Table.from_batches([published])
    for name in TIMES:
        zone = "UTC" if kind.startswith("wall") else "America/New_York"
        marked = pc.assume_timezone(table[name], zone, ambiguous="earliest").cast(pa.timestamp("us", "UTC"))
        table = table.set_column(table.schema.get_field_index(name), name, marked)
    ingested = ingest_month(write_month(tmp_path / "raw", table), tmp_path / "a")
    if kind.startswith("wall"):
        unmarked = ingest_month(write_month(tmp_path / "plain", pa.Table.from_batches([published])), tmp_path / "b")
        assert ingested.sha256 == unmarked.sha256
        contract.validate([ingested], kept=tmp_path / "kept", rejected=tmp_path / "rejected")
    else:
        with pytest.raises(ContractError, match=r"The hours of 2021-01 .* not New York's wall clock, but late"):
            contract.validate([ingested], kept=tmp_path / "kept", rejected=tmp_path / "rejected")


@pytest.mark.parametrize(
    ("column", "raw", "expected"),
    [
        (ZONES[0], ["7", " 8 ", "8.0", "eight"], [7, 8, 8, None]),
        (ZONES[0], pa.array([7.0, 7.5, float("nan"), 1e12]), [7, None, None, None]),
        (ZONES[0], pa.array([7, 2**31, -(2**31), -(2**40)]), [7, None, None, None]),
        (ZONES[0], pa.array([7, 8, 2**64 - 1, None], pa.uint64()), [7, 8, None, None]),
        ("trip_distance", ["1.5", "1,5", "-2e0", "n/a"], [1.5, None, -2.0, None]),
        ("trip_distance", pa.array([1.5, float("nan"), 0.0, None]), [1.5, None, 0.0, None]),
        ("trip_distance", pa.array([2, 3, None, -1]), [2.0, 3.0, None, -1.0]),
        ("trip_distance", pa.nulls(4), [None] * 4),
        (
            TIMES[0],
            ["2021-01-01 00:15:56", " 2021-01-01T00:15:56.25", "2021-02-30 00:00:00", "soon"],
            [datetime(2021, 1, 1, 0, 15, 56), datetime(2021, 1, 1, 0, 15, 56, 250000), None, None],
        ),
        (
            TIMES[0],
            ["01/31/2021 12:59:59 AM", "1/31/2021 17:49", "2021 Jan 31 12:00:01 PM", "31.01.2021 17:49"],
            [datetime(2021, 1, 31, 0, 59, 59), datetime(2021, 1, 31, 17, 49), datetime(2021, 1, 31, 12, 0, 1), None],
        ),
        (
            TIMES[0],
            [
                "2021-01-31 23:59:59 UTC",
                "2021-01-31T23:59:59.5Z",
                "2021-01-31 23:59:59.000001-05:00",
                "2/30/21 1:00 AM",
            ],
            [
                datetime(2021, 1, 31, 23, 59, 59),
                datetime(2021, 1, 31, 23, 59, 59, 500000),
                datetime(2021, 1, 31, 23, 59, 59, 1),
                None,
            ],
        ),
        (
            TIMES[0],
            ["01/31/2021 13:59:59 PM", "1/31/2021 24:00:00", "2021-13-01", "1/31/21 0:00"],
            [None] * 3 + [datetime(2021, 1, 31)],
        ),
        (TIMES[0], pa.array([0, 2**60, -(2**60), None], pa.timestamp("ms")), [datetime(1970, 1, 1), None, None, None]),
    ],
)
def test_a_value_that_cannot_be_read_becomes_null(tmp_path: Path, column: str, raw: Any, expected: list[Any]) -> None:
    table = month_table(4)
    index = table.schema.get_field_index(column)
    source = write_month(tmp_path / "raw", table.set_column(index, column, raw if isinstance(raw, pa.Array) else [raw]))
    typed = pq.read_table(ingest_month(source, tmp_path).file)
    name = dict(zip((*TIMES, *ZONES, "trip_distance"), typed.column_names, strict=True))[column]
    assert typed[name].to_pylist() == expected
    assert len(typed) == 4


def test_a_stray_word_far_down_a_csv_costs_one_value(tmp_path: Path) -> None:
    table = month_table(60_000)
    text = table["trip_distance"].cast(pa.string()).to_pylist()
    text[-1] = "far"
    pa.csv.write_csv(table.set_column(6, "trip_distance", [text]), tmp_path / "green_tripdata_2021-01.csv")
    typed = pq.read_table(ingest_month(tmp_path, tmp_path).file)
    assert typed["trip_distance_miles"].to_pylist() == [*table["trip_distance"].to_pylist()[:-1], None]


def test_names_that_differ_in_case_or_blanks_are_taken(tmp_path: Path) -> None:
    table = month_table().rename_columns(
        [name.lower() if name != TIMES[0] else name for name in month_table().column_names]
    )
    assert ingest_month(write_month(tmp_path / "raw", table), tmp_path).rows == 50


def test_of_two_names_that_differ_in_case_the_exact_one_is_taken(tmp_path: Path) -> None:
    table = month_table().append_column("pulocationid", [[0] * 50])
    typed = pq.read_table(ingest_month(write_month(tmp_path / "raw", table), tmp_path).file)
    assert typed["pickup_zone"].to_pylist() == month_table()[ZONES[0]].to_pylist()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            month_table().drop_columns(["trip_distance", "PULocationID"]),
            "it has no single column PULocationID and no trip_distance. Its columns are VendorID, lpep_pickup_datetime",
        ),
        (
            recast(month_table().rename_columns([*"abcdefgh"]), {}),
            "is not a month of the green taxi: it has no single column lpep_pickup_datetime and no lpep_dropoff",
        ),
        (
            month_table().set_column(1, TIMES[0], pa.array(range(50))),
            "The column lpep_pickup_datetime of {file} should hold dates with times, written as 2021-01-31 23:59:59, "
            "but is int64.",
        ),
        (
            month_table().set_column(4, ZONES[0], pa.array([[1]] * 50)),
            "The column PULocationID of {file} should hold whole numbers, but is list<element: int64>.",
        ),
        (
            month_table().set_column(6, "trip_distance", pa.array(["near"] * 50)),
            "The column trip_distance of {file} should hold numbers, but is string, no value of which is one, for "
            "example 'near'.",
        ),
    ],
)
def test_a_column_that_is_not_what_it_should_be_is_named(tmp_path: Path, table: pa.Table, sentence: str) -> None:
    source = write_month(tmp_path / "raw", table)
    sentence = sentence.format(file=source / "green_tripdata_2021-01.parquet")
    with pytest.raises(ContractError, match=re.escape(sentence)):
        ingest_month(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(month_table(5_000), sink)
    return sink.getvalue().to_pybytes()


def csv_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(month_table(500), sink)
    return sink.getvalue().to_pybytes()


def spoilt(content: bytes) -> bytes:
    """The same file with its data overwritten: header and footer still promise a table."""
    return content[:4] + b"\xff" * (len(content) // 2) + content[4 + len(content) // 2 :]


@pytest.mark.parametrize(
    ("suffix", "content", "sentence"),
    [
        ("parquet", b"", "is empty (0 bytes)"),
        ("csv", b"", "is empty (0 bytes)"),
        ("parquet", b"\n<!DOCTYPE html><html></html>", "is a web page (HTML or XML)"),
        ("csv", b"<html><body>Forbidden</body></html>", "is a web page (HTML or XML)"),
        ("parquet", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page (HTML or XML)"),
        ("parquet", csv_bytes(), "is not a parquet file, but text"),
        ("parquet", parquet_bytes()[:-1000], "is a truncated parquet file: its end is missing"),
        ("parquet", b"PAR1" + parquet_bytes()[-20:], "cannot be read: "),
        ("parquet", spoilt(parquet_bytes()), "cannot be read: "),
        ("csv.gz", gzip.compress(csv_bytes())[:-500], "cannot be read: "),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, content: bytes, sentence: str) -> None:
    file = tmp_path / f"green_tripdata_2021-01.{suffix}"
    file.write_bytes(content)
    with pytest.raises(SourceError) as error:
        ingest_month(tmp_path, tmp_path / "out")
    assert str(error.value).startswith(f"{file} ")
    assert sentence in str(error.value)
    assert "etch it again, or" in str(error.value)
    assert not (tmp_path / "out" / "month.parquet").exists()


def test_a_csv_with_another_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "green_tripdata_2021-01.csv").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(ContractError, match=r"Its columns are a, b\. Correct the file"):
        ingest_month(tmp_path, tmp_path)


def test_a_month_without_rows_is_left_to_the_contract(tmp_path: Path) -> None:
    for name, write in {"p": write_month, "c": None}.items():
        source = tmp_path / name
        if write:
            write(source, month_table(4)[:0])
        else:
            source.mkdir()
            pa.csv.write_csv(month_table(4)[:0], source / "green_tripdata_2021-01.csv")
        assert ingest_month(source, tmp_path).rows == 0


def test_an_unknown_taxi_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="There is no taxi 'blue': choose one of green, yellow, fhvhv, fhv"):
        ingest_month(tmp_path, tmp_path, "blue")


def test_the_snapshot_is_kept_once_under_its_hash(tmp_path: Path) -> None:
    source = write_month(tmp_path / "raw", month_table())
    ingested = ingest_month(source, tmp_path)
    (snapshot,) = (tmp_path / "snapshots").iterdir()
    assert snapshot.name == f"{ingested.sha256}.parquet"
    assert snapshot.read_bytes() == ingested.file.read_bytes()
    inode = snapshot.stat().st_ino
    ingest_month(source, tmp_path)
    (snapshot,) = (tmp_path / "snapshots").iterdir()
    assert snapshot.stat().st_ino == inode


def test_a_snapshot_is_copied_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise OSError("other file system")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    ingested = ingest_month(write_month(tmp_path / "raw", month_table()), tmp_path)
    (snapshot,) = (tmp_path / "snapshots").iterdir()
    assert snapshot.read_bytes() == ingested.file.read_bytes()


CHILD = """
import os, resource, signal, sys
from pathlib import Path
from tripcast.taxi import ingestion
from tripcast.storage.store import FolderStore
from tripcast.errors import StorageError
from tripcast.months import Month
source, to, spoil = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if spoil == "kill":
    ingestion.ContentHash.hexdigest = lambda self: os.kill(os.getpid(), signal.SIGKILL)
if spoil == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    month = Month(2021, 1)
    ingestion.ingest(str(source), "green", month, output=to / "month.parquet", downloads=to, store=FolderStore(to))
except StorageError as error:
    sys.exit(str(error))
print("pandas" in sys.modules)
"""


def ingest_in_a_child(source: Path, to: Path, spoil: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(to), spoil], capture_output=True, text=True, env={**os.environ}
    )


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    source, to = write_month(tmp_path / "raw", month_table(10_000)), tmp_path / "out"
    assert ingest_in_a_child(source, to, "kill").returncode == -9
    assert [re.sub(r"\d+", "N", file.name) for file in to.iterdir()] == [".month.parquet.N.part"]
    ingested = ingest_month(source, to)
    assert pq.read_metadata(ingested.file).num_rows == 10_000


@pytest.mark.slow
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    source, to = write_month(tmp_path / "raw", month_table(10_000)), tmp_path / "out"
    child = ingest_in_a_child(source, to, "full")
    assert re.search(
        rf"{to}/month.parquet cannot be written: .*\([\d,]+ MB free there\)\. Free some space", child.stderr
    )
    assert list(to.iterdir()) == []


@pytest.mark.slow
def test_ingesting_does_not_import_pandas(tmp_path: Path) -> None:
    source = write_month(tmp_path / "raw", month_table(100))
    assert ingest_in_a_child(source, tmp_path / "out").stdout == "False\n"


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/month.parquet cannot be written: .*MB free there"):
        ingest_month(write_month(tmp_path / "raw", month_table()), tmp_path / "file")


def test_published_months_are_read_as_they_are(tmp_path: Path, tlc: Path) -> None:
    ingested = ingest(
        str(tlc), "green", JANUARY, output=tmp_path / "m.parquet", downloads=tmp_path, store=FolderStore(tmp_path)
    )
    raw = pq.read_table(tlc / "green_tripdata_2021-01.parquet")
    typed = pq.read_table(ingested.file)
    assert ingested.rows == 76_518
    assert pc.sum(typed["pickup_zone"]) == pc.sum(raw["PULocationID"])
    assert typed["pickup_datetime"].equals(raw["lpep_pickup_datetime"])
