"""Months as people have them: each is read, or refused by one sentence that says what it is and what to do."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import pickle
import random
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tripcast.errors import ContractError, InvalidRequest, SourceError
from tripcast.months import Month, parse_months
from tripcast.storage.store import FolderStore
from tripcast.taxi.contract import MonthRules, validate
from tripcast.taxi.ingestion import Ingested, ingest
from tripcast.taxi.sources import open_source

NAME = "green_tripdata_2021-01"
COLUMNS = ("lpep_pickup_datetime", "lpep_dropoff_datetime", "PULocationID", "DOLocationID", "trip_distance")
DAYS = [f"2021-01-{1 + row % 28:02d}" for row in range(110)]
ROWS = [f"{day} 10:{row % 50:02d}:07,{day} 11:00:02,{7 + row},74,2.5" for row, day in enumerate(DAYS)]
CSV = "\n".join([",".join(COLUMNS), *ROWS, ""]).encode()


def parquet(zone: str | None = None) -> bytes:
    sink = io.BytesIO()
    table = pa.csv.read_csv(io.BytesIO(CSV))
    for column in COLUMNS[:2]:
        times = table[column].cast(pa.timestamp("s", zone))
        table = table.set_column(table.schema.get_field_index(column), column, times)
    pq.write_table(table, sink)
    return sink.getvalue()


def ingest_month(source: Path | str) -> Ingested:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return ingest(
            str(source),
            "green",
            Month(2021, 1),
            output=folder / "month.parquet",
            downloads=folder / "downloads",
            store=FolderStore(folder / "store"),
        )


def write(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content hash of the rows, however they are written."""
    folder = tmp_path_factory.mktemp("plain")
    write(folder, f"{NAME}.csv", CSV)
    return ingest_month(folder).sha256


def header(change: Callable[[str], str]) -> bytes:
    return change(",".join(COLUMNS)).encode() + CSV[CSV.index(b"\n") :]


def open_data(line: str) -> str:
    """A row with times as the city's open-data portal writes them: 01/05/2021 10:30:07 AM."""
    pickup, dropoff, rest = line.split(",", 2)
    times = (f"{time[5:7]}/{time[8:10]}/{time[:4]} {time[11:]} AM" for time in (pickup, dropoff))
    return ",".join([*times, rest])


READ: dict[str, tuple[str, bytes]] = {
    "parquet": (f"{NAME}.parquet", parquet()),
    "parquet named csv": (f"{NAME}.csv", parquet()),
    "carriage returns": (f"{NAME}.csv", CSV.replace(b"\n", b"\r\n")),
    "old Mac's line ends": (f"{NAME}.csv", CSV.replace(b"\n", b"\r")),
    "byte order mark": (f"{NAME}.csv", codecs.BOM_UTF8 + CSV),
    "blank line below the header": (f"{NAME}.csv", CSV.replace(b"\n", b"\n\r\n", 1)),
    "blank lines above the header": (f"{NAME}.csv", b"\n\r\n" + CSV),
    "July to December 2016": (
        f"{NAME}.csv",
        ",".join(COLUMNS).encode() + b"\n\r\n" + b"".join(row.encode() + b",,\r\n" for row in ROWS),
    ),
    "commas at the end of the header alone": (f"{NAME}.csv", header(lambda line: line + ",,")),
    "gzip": (f"{NAME}.csv.gz", gzip.compress(CSV)),
    "gzip named csv": (f"{NAME}.csv", gzip.compress(CSV)),
    "gzip in two members": (f"{NAME}.csv.gz", gzip.compress(CSV[:1000]) + gzip.compress(CSV[1000:])),
    "csv named gzip": (f"{NAME}.csv.gz", CSV),
    "Latin-1 header": (
        f"{NAME}.csv",
        b"ehail_fee_\xa3,"
        + b"\n".join([CSV.splitlines()[0], *(b"\xe9," + line for line in CSV.splitlines()[1:])])
        + b"\n",
    ),
    "quoted header with blanks": (
        f"{NAME}.csv",
        header(lambda line: ", ".join(f'" {name} "' for name in line.split(","))),
    ),
    "underscores in the header": (f"{NAME}.csv", header(lambda line: line.replace("PULocation", "pu_location_"))),
    "quoted values": (
        f"{NAME}.csv",
        b"\n".join([CSV.splitlines()[0], *(b'"' + line.replace(b",", b'","') + b'"' for line in CSV.splitlines()[1:])]),
    ),
    "dates of the open-data portal": (f"{NAME}.csv", "\n".join([",".join(COLUMNS), *map(open_data, ROWS)]).encode()),
    "times marked as UTC": (f"{NAME}.csv", CSV.replace(b":07,", b":07 UTC,").replace(b":02,", b":02 UTC,")),
}


@pytest.mark.parametrize(("name", "content"), READ.values(), ids=READ)
def test_it_is_read_as_if_it_were_plain(tmp_path: Path, digest: str, name: str, content: bytes) -> None:
    write(tmp_path, name, content)
    ingested = ingest_month(tmp_path)
    assert (ingested.rows, ingested.sha256) == (110, digest)


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(f"{NAME}.csv", CSV)
    return sink.getvalue()


def tarred() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo(f"{NAME}.csv")
        member.size = len(CSV)
        archive.addfile(member, io.BytesIO(CSV))
    return sink.getvalue()


BINARY = random.Random(7).randbytes(4000)

REFUSED: dict[str, tuple[str, bytes, str]] = {
    "zip named csv": (f"{NAME}.csv", zipped(), "is a zip archive, or an Excel workbook"),
    "bzip2": (f"{NAME}.csv", bz2.compress(CSV), "is compressed with bzip2. Unpack it"),
    "xz": (f"{NAME}.csv", lzma.compress(CSV), "is compressed with xz. Unpack it"),
    "gzipped parquet": (f"{NAME}.parquet", gzip.compress(parquet()), "compressed with gzip. Unpack it"),
    "tar": (f"{NAME}.csv", tarred(), "is a tar archive. Unpack it"),
    "compress": (f"{NAME}.csv", b"\x1f\x9d\x906abc", "is compressed with compress. Unpack it"),
    "empty zip": (f"{NAME}.csv", b"PK\x05\x06" + bytes(18), "is an empty zip archive"),
    "zip in gzip": (f"{NAME}.csv.gz", gzip.compress(zipped()), "is a zip archive"),
    "UTF-16": (
        f"{NAME}.csv",
        CSV.decode().replace(",", "\t").encode("utf-16"),
        "is UTF-16 text (Excel's 'Unicode text')",
    ),
    "UTF-16 without mark": (
        f"{NAME}.csv",
        CSV.decode().encode("utf-16-le"),
        "is UTF-16 text without a byte order mark",
    ),
    "UTF-32": (f"{NAME}.csv", CSV.decode().encode("utf-32"), "is UTF-32 text"),
    "semicolons": (f"{NAME}.csv", CSV.replace(b",", b";"), "has a semicolon between its fields instead of a comma"),
    "tabs": (f"{NAME}.csv", CSV.replace(b",", b"\t"), "has a tab between its fields instead of a comma"),
    "bars": (f"{NAME}.csv", CSV.replace(b",", b"|"), "has a vertical bar between its fields instead of a comma"),
    "Excel's separator line": (f"{NAME}.csv", b"sep=,\n" + CSV, "begins with Excel's line 'sep=,'"),
    "Git LFS": (
        f"{NAME}.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "is a Git LFS pointer, not the file itself. Fetch that: git lfs pull.",
    ),
    "git-annex": (f"{NAME}.parquet", b"/annex/objects/SHA256E-s1--0.parquet\n", "is a git-annex pointer"),
    "link as text": (
        f"{NAME}.parquet",
        b"../store/2021-01.parquet",
        "is a link that was copied as text, to ../store/2021-01.parquet",
    ),
    "DVC": (f"{NAME}.csv", b"outs:\n- md5: 0123\n  path: x.csv\n", "is a DVC pointer"),
    "DVC, as newer versions write it": (f"{NAME}.csv", b"md5: 01\nouts:\n- path: x.csv\n", "is a DVC pointer"),
    "shortcut of Windows": (
        f"{NAME}.csv",
        b"[InternetShortcut]\r\nURL=https://data.example/x.csv\r\n",
        "is a link that was copied as text, to [InternetShortcut]\\r\\nURL=",
    ),
    "web page": (f"{NAME}.csv", codecs.BOM_UTF8 + b"\n<HTML>", "is a web page"),
    "JSON": (f"{NAME}.csv", b' [{"a": 1}]', "is JSON"),
    "Arrow": (f"{NAME}.parquet", b"ARROW1\0\0", "is an Arrow (Feather) file. Save it as parquet."),
    "pickle": (f"{NAME}.csv", pickle.dumps({"PULocationID": [1, 2]}), "is neither parquet nor text"),
    "a zone that is none": (
        f"{NAME}.parquet",
        parquet(zone="Mars/Base"),
        "is marked with the time zone 'Mars/Base', which is not known here",
    ),
    "anything": (f"{NAME}.csv", BINARY, "is neither parquet nor text"),
    "serial numbers of days": (f"{NAME}.csv", header(str).replace(b"2021-01-", b"4420"), "for example '4420"),
    "day before month": (
        f"{NAME}.csv",
        header(str).replace(b"2021-01-", b"13/01/2021 "),
        "should hold dates with times, written as 2021-01-31 23:59:59, but is string, no value of which is one, for "
        "example '13/01/2021 ",
    ),
    "binary header": (f"{NAME}.csv", b"\x01\x07\x9b31m" + CSV[CSV.index(b",") :], "Its columns are \\x01"),
}


@pytest.mark.parametrize(("name", "content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_by_one_printable_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    file = write(tmp_path, name, content)
    with pytest.raises((SourceError, ContractError)) as error:
        ingest_month(tmp_path)
    said = str(error.value)
    assert str(file) in said
    assert sentence in said
    assert said.isprintable()


# Rows of other lengths than the header's.


def test_ragged_rows_are_set_aside_with_their_reason_and_the_others_kept(tmp_path: Path) -> None:
    lines = CSV.splitlines()
    ragged = [b"2021-01-05 10:00:00,2021-01-05 10:10:00,7", lines[1] + b",extra", b"one"]
    write(tmp_path, f"{NAME}.csv", b"\n".join([*lines[:40], *ragged, *lines[40:]]))
    ingested = ingest(
        str(tmp_path),
        "green",
        Month(2021, 1),
        output=tmp_path / "month.parquet",
        downloads=tmp_path / "downloads",
        store=FolderStore(tmp_path / "store"),
    )
    (remark,) = ingested.remarks
    assert remark.startswith(
        f"Rows of {tmp_path}/{NAME}.csv with another number of fields than its header, which has 5: 3"
    )
    assert remark.endswith("The first one: '2021-01-05 10:00:00,2021-01-05 10:10:00,7'.")
    (check,) = validate([ingested], kept=tmp_path / "kept", rejected=tmp_path / "rejected")
    assert (check.rows, check.kept, check.rejected["unreadable_row"]) == (113, 110, 3)


@pytest.mark.parametrize("few", ["have a field too many", "have none too many"])
def test_rows_with_empty_fields_too_many_are_kept_wherever_they_are(tmp_path: Path, few: str) -> None:
    lines = CSV.splitlines()
    odd = (lambda number: number % 9 == 4) if few == "have a field too many" else (lambda number: number % 9 != 4)
    write(
        tmp_path,
        f"{NAME}.csv",
        b"\n".join([lines[0], *(line + b", ," * odd(number) for number, line in enumerate(lines[1:]))]),
    )
    ingested = ingest_month(tmp_path)
    assert (ingested.rows, ingested.remarks) == (110, ())


def test_a_value_in_a_field_too_many_spoils_its_row_alone(tmp_path: Path) -> None:
    lines = [line + b",," for line in CSV.splitlines()]
    lines[0], lines[60] = CSV.splitlines()[0], lines[60][:-1] + b"9"
    write(tmp_path, f"{NAME}.csv", b"\n".join(lines))
    ingested = ingest_month(tmp_path)
    assert ingested.rows == 110
    assert ingested.remarks[0].startswith("Rows of ")


def test_a_file_of_ragged_rows_is_refused_by_the_contract(tmp_path: Path) -> None:
    write(tmp_path, f"{NAME}.csv", CSV.splitlines()[0] + b"\n" + b"1,2\n" * 300)
    ingested = ingest(
        str(tmp_path),
        "green",
        Month(2021, 1),
        output=tmp_path / "month.parquet",
        downloads=tmp_path,
        store=FolderStore(tmp_path),
    )
    with pytest.raises(ContractError, match=r"300 of 300 .* most often unreadable_row"):
        validate([ingested], kept=tmp_path / "kept", rejected=tmp_path / "rejected", rules=MonthRules())


def test_excel_times_without_seconds_are_read_with_a_remark(tmp_path: Path) -> None:
    rows = [f"1/{1 + row % 28}/2021 10:{row % 60:02d},1/{1 + row % 28}/2021 11:01,7,74,2.5" for row in range(110)]
    write(tmp_path, f"{NAME}.csv", "\n".join([",".join(COLUMNS), *rows]).encode())
    (remark,) = ingest_month(tmp_path).remarks
    assert remark.endswith("have no seconds, which Excel leaves out of a CSV: durations are whole minutes.")


# Names and folders.


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        ("green_tripdata_2021_01.csv", f"another name, green_tripdata_2021_01.csv: rename it to {NAME}.csv"),
        (
            "Green_Tripdata_2021-01.PARQUET",
            f"another name, Green_Tripdata_2021-01.PARQUET: rename it to {NAME}.parquet",
        ),
        ("green_tripdata_202101.parquet", f"rename it to {NAME}.parquet"),
        ("green-2021-1.csv.gz", f"rename it to {NAME}.csv.gz"),
        (f"{NAME}.zip", f"It has {NAME}.zip, which looks like it; but only parquet, CSV and gzipped CSV are read"),
        (f"{NAME}.xlsx", f"It has {NAME}.xlsx, which looks like it; but only parquet, CSV"),
        (
            f"2021/{NAME}.parquet",
            f"It is in a folder there, 2021: name that folder, or put a link to 2021/{NAME}.parquet",
        ),
        (f"2021/01/{NAME}.csv", f"It is in a folder there, 2021/01: name that folder, or put a link to 2021/01/{NAME}"),
        ("year=2021/month=1/part-0.parquet", f"ln -s year=2021/month=1 {NAME}.parquet"),
        ("year=2021/month=01/part-0.parquet", "The folder year=2021/month=01 looks like it"),
        ("2021/01/trips.parquet", "The folder 2021/01 looks like it"),
        ("month=2021-01/part-0.parquet", "The folder month=2021-01 looks like it"),
    ],
)
def test_a_month_under_another_name_is_pointed_at(tmp_path: Path, there: str, sentence: str) -> None:
    write(tmp_path, there, parquet())
    with pytest.raises(SourceError) as error:
        ingest_month(tmp_path)
    assert str(error.value).startswith(f"There is no {NAME}.parquet (nor .csv, nor .csv.gz) in {tmp_path}. ")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "there", ["yellow_tripdata_2021_01.csv", "green_tripdata_2021_10.csv", "green_tripdata_2020_01.csv"]
)
def test_another_month_or_taxi_is_not_taken_for_it(tmp_path: Path, there: str) -> None:
    write(tmp_path, there, CSV)
    with pytest.raises(SourceError, match="It has no month of the green taxi at all"):
        ingest_month(tmp_path)


def spark_folder(folder: Path, ending: str = "parquet") -> Path:
    written = folder / f"{NAME}.{ending}"
    lines = CSV.splitlines(keepends=True)
    write(written, "_SUCCESS", b"")
    write(written, ".part-00000.crc", b"crc")
    for number, rows in enumerate((lines[1:51], [], lines[51:])):
        content = b"".join([lines[0], *rows])
        if ending == "parquet":
            sink = io.BytesIO()
            pq.write_table(pa.csv.read_csv(io.BytesIO(content)), sink)
            content = sink.getvalue()
        write(written, f"part-0000{number}-aa.{ending}", content)
    return written


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_folder_that_spark_wrote_is_a_month(tmp_path: Path, digest: str, ending: str) -> None:
    written = spark_folder(tmp_path, ending)
    ingested = ingest_month(tmp_path)
    assert (ingested.rows, ingested.sha256, ingested.location) == (110, digest, str(written))


def test_a_hive_partition_is_read_through_the_link_that_is_proposed(tmp_path: Path, digest: str) -> None:
    shutil.move(spark_folder(tmp_path / "x"), tmp_path / "month=1")
    (tmp_path / f"{NAME}.parquet").symlink_to("month=1")
    assert ingest_month(tmp_path).sha256 == digest


def test_parts_on_s3_are_a_month(s3: Any, tmp_path: Path, digest: str) -> None:
    s3.create_bucket(Bucket="trips")
    written = spark_folder(tmp_path)
    for file in written.iterdir():
        s3.upload_file(str(file), "trips", f"raw/{NAME}.parquet/{file.name}")
    assert ingest_month("S3://trips/raw").sha256 == digest
    revision = open_source("s3://trips/raw", tmp_path).revision("green", Month(2021, 1))
    s3.upload_file(str(written / "part-00000-aa.parquet"), "trips", f"raw/{NAME}.parquet/part-00003-aa.parquet")
    assert open_source("s3://trips/raw", tmp_path).revision("green", Month(2021, 1)) != revision


def test_a_month_on_s3_under_another_name_is_pointed_at(s3: Any, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="trips")
    s3.put_object(Bucket="trips", Key="raw/2021/GREEN_tripdata_2021_01.csv", Body=b"")
    with pytest.raises(SourceError, match=r"another name, 2021/GREEN_tripdata_2021_01.csv: rename it to"):
        ingest_month("s3://trips/raw")


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        (["_delta_log/0.json", "part-0.parquet"], "is a table of Delta Lake, Iceberg or Hudi"),
        (["metadata/v1.json", "data/0.parquet"], "is a table of Delta Lake, Iceberg or Hudi"),
        (["_temporary/0/part-0.parquet"], "is a folder that was not written to its end"),
        (["zone=7/part-0.parquet"], "is a folder that holds folders, such as zone=7"),
        (["_SUCCESS"], "is a folder without a data file"),
    ],
)
def test_a_folder_that_is_no_month_is_refused(tmp_path: Path, inside: list[str], sentence: str) -> None:
    for name in inside:
        write(tmp_path / f"{NAME}.parquet", name, b"")
    with pytest.raises(SourceError) as error:
        ingest_month(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/{NAME}.parquet {sentence}")


# What is no file, or cannot be opened.


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.parquet").symlink_to("../.git/annex/objects/x")
    with pytest.raises(SourceError, match=r"is a link to ../.git/annex/objects/x, which is not there.*git annex get"):
        ingest_month(tmp_path)


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.parquet").symlink_to(f"{NAME}.parquet")
    with pytest.raises(SourceError, match=f"{NAME}.parquet"):
        ingest_month(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{NAME}.csv")
    with pytest.raises(SourceError, match="is neither a file nor a folder of parts"):
        ingest_month(tmp_path)


@pytest.mark.parametrize("locked", ["the file", "the folder"])
def test_what_may_not_be_read_is_named(locked: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "months"
        file = write(folder, f"{NAME}.parquet", parquet())
        Path(scratch).chmod(0o755)
        (file if locked == "the file" else folder).chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nothing is locked for root
        try:
            with pytest.raises(SourceError, match=r"months.* cannot be opened: Permission denied\. Permit this user"):
                open_source(str(folder), Path(scratch)).month("green", Month(2021, 1))
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


# What unfolds to more than it seems.


def test_text_that_repeats_a_long_value_is_read_without_unfolding_it(tmp_path: Path) -> None:
    rows, once = 4_000, pa.csv.read_csv(io.BytesIO(CSV))
    columns = {name: once[name].take(pa.array([0] * rows)) for name in COLUMNS}
    columns["trip_distance"] = pa.DictionaryArray.from_arrays(pa.array([0] * rows), ["x" * 1_000_000])  # 4 GB
    pq.write_table(pa.table(columns), tmp_path / f"{NAME}.parquet", store_schema=False)
    assert (tmp_path / f"{NAME}.parquet").stat().st_size < 100_000
    with pytest.raises(ContractError, match=r"The column trip_distance .* no value of which is one, for example 'xxx"):
        ingest_month(tmp_path)


@pytest.mark.slow
def test_a_column_that_unfolds_to_far_too_much_is_refused(tmp_path: Path) -> None:
    table = pa.csv.read_csv(io.BytesIO(CSV))
    table = table.set_column(4, "trip_distance", pa.array([f"{row}" + "x" * 1_000_000 for row in range(110)]))
    pq.write_table(table, tmp_path / f"{NAME}.parquet", compression="zstd")
    with pytest.raises(SourceError, match="unfolds to 110 MB in the column trip_distance alone, for 110 rows"):
        ingest_month(tmp_path)


def test_more_rows_than_any_month_has_are_refused(tmp_path: Path) -> None:
    nulls = pa.table({"a": pa.nulls(50_000_001)})
    with pq.ParquetWriter(tmp_path / f"{NAME}.parquet", nulls.schema) as writer:
        writer.write_table(nulls)
        writer.write_table(nulls)
    with pytest.raises(SourceError, match="has 100,000,002 rows or more, and a month of trips at most 100,000,000"):
        ingest_month(tmp_path)


@pytest.mark.parametrize("months", ["1900-01..2020-12", "0001-01..9999-12"])
def test_centuries_of_months_are_refused(months: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"'{months}' is [\d,]+ months, and at most 240 are taken at once"):
        parse_months(months)
