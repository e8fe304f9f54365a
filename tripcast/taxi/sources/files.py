"""A month of trip records as a file, known by what is in it: parquet, CSV, or something else that is named."""

from __future__ import annotations

import codecs
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tripcast.errors import SourceError
from tripcast.taxi.sources.csv_files import decompressed_head, open_csv
from tripcast.taxi.sources.names import ENDINGS
from tripcast.taxi.sources.raw import BATCH_ROWS, RawMonth, reading

#: More records than any month of any taxi has; the largest published ones have some twenty million.
MOST_ROWS = 100_000_000

#: A parquet column may unfold to this many bytes, and to so many more a row: text of a time has some thirty.
_MOST_BYTES, _MOST_BYTES_A_ROW = 16 * 1024 * 1024, 256

#: Bytes that are looked at to tell what a file is.
_HEAD_BYTES = 64 * 1024

_AGAIN = "Fetch it again, or ask for another month."
_UNPACK = "Unpack it, and keep the parquet or CSV file that is in it under the month's name."
_AS_CSV = "Save it as CSV (UTF-8, separated by commas) or as parquet."

#: What a file is that begins with these bytes, and what to do about it.
_OTHER_KINDS = (
    (b"PARE", "an encrypted parquet file", "Decrypt it."),
    (b"PK\x03\x04", "a zip archive, or an Excel workbook, which is one", f"{_UNPACK} {_AS_CSV}"),
    (b"PK\x05\x06", "an empty zip archive", _AGAIN),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", _AS_CSV),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed with lz4", _UNPACK),
    (b"\xff\x06\x00\x00sNaPpY", "compressed with snappy", _UNPACK),
    (b"\x1f\x9d", "compressed with compress", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"ORC", "an ORC file", "Save it as parquet."),
    (b"Obj\x01", "an Avro file", "Save it as parquet."),
    (b"ARROW1", "an Arrow (Feather) file", "Save it as parquet."),
    (b"SQLite format 3", "an SQLite database", _AS_CSV),
    (b"\x89HDF", "an HDF5 file", "Save it as parquet."),
    (b"%PDF", "a PDF document", _AGAIN),
    (b"version https://git-lfs.github.com", "a Git LFS pointer, not the file itself", "Fetch that: git lfs pull."),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "Fetch that: git annex get."),
    (codecs.BOM_UTF32_LE, "UTF-32 text", _AS_CSV),
    (codecs.BOM_UTF16_LE, "UTF-16 text (Excel's 'Unicode text')", _AS_CSV),
    (codecs.BOM_UTF16_BE, "UTF-16 text", _AS_CSV),
)

#: How JSON begins, blanks aside.
_JSON = re.compile(rb"(\{\s*[\"}]|\[\s*[\[{\"\]\d])")

#: Characters that no text has.
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x19\x7f]")


def open_month_files(files: Sequence[Path], location: str) -> RawMonth:
    """Open a month that is one file, or the parts of a folder.

    Args:
        files: The file, or the parts in order.
        location: Where they came from, for error messages.

    Raises:
        SourceError: As ``open_month_file``.
    """
    if len(files) == 1:
        return open_month_file(files[0], location)
    first = open_month_file(files[0], f"{location}/{files[0].name}")
    remarks: list[str] = []

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for file in files:
            part = open_month_file(file, f"{location}/{file.name}")
            if absent := [column for column in columns if column not in part.columns]:
                raise SourceError(
                    f"{part.location} has no column {absent[0]}, unlike {first.location}. Remove it if it is no part "
                    "of the month, or write the month anew."
                )
            yield from part.read(columns)
            remarks.extend(part.remarks)

    return RawMonth(location, first.schema, read, remarks)


def open_month_file(file: Path, location: str) -> RawMonth:
    """Open a month's file.

    Args:
        file: The file.
        location: Where it came from, for error messages.

    Raises:
        SourceError: If the file cannot be opened, is empty, is truncated, or is neither parquet nor CSV.
    """
    with reading(location):
        _refuse_what_is_no_file(file, location)
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
            opened.seek(-min(4, file.stat().st_size), 2)
            tail = opened.read()
        if not head:
            raise SourceError(f"{location} is empty (0 bytes). {_AGAIN}")
        if head.startswith(b"PAR1"):
            if tail != b"PAR1" or len(head) < 12:
                raise SourceError(f"{location} is a truncated parquet file: its end is missing. {_AGAIN}")
            return _open_parquet(file, location)
        compressed = head.startswith(b"\x1f\x8b")
        if compressed:
            head = decompressed_head(file, _HEAD_BYTES)
            if head.startswith(b"PAR1") or head[257:262] == b"ustar":
                raise SourceError(f"{location} is a parquet file or an archive compressed with gzip. {_UNPACK}")
        _refuse_what_is_no_text(head, location)
        if file.name.endswith(".parquet"):
            raise SourceError(f"{location} is not a parquet file, but text. If it is CSV, name it .csv. {_AGAIN}")
        return open_csv(file, location, head, compressed)


def _refuse_what_is_no_file(file: Path, location: str) -> None:
    if file.is_symlink() and not file.exists():
        target = file.readlink()
        fetch = "git annex get" if "annex" in str(target) else "dvc pull, for example"
        raise SourceError(
            f"{location} is a link to {target}, which is not there. Fetch that ({fetch}), or copy it here."
        )
    if not stat.S_ISREG(file.stat().st_mode):
        raise SourceError(f"{location} is neither a file nor a folder of parts. Put the month's file there.")


def _refuse_what_is_no_text(head: bytes, location: str) -> None:
    """Name the usual mishaps, which a CSV reader would report in its own terms."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text[:64].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        raise SourceError(f"{location} is a web page (HTML or XML), probably an error page that was saved. {_AGAIN}")
    for beginning, what, remedy in _OTHER_KINDS:
        if head.startswith(beginning):
            raise SourceError(f"{location} is {what}. {remedy}")
    if _JSON.match(text):
        raise SourceError(f"{location} is JSON. {_AS_CSV}")
    if head[257:262] == b"ustar":
        raise SourceError(f"{location} is a tar archive. {_UNPACK}")
    if re.match(rb"(md5|outs|deps|wdir|meta|frozen):", text) and re.search(rb"\bouts:", text):
        raise SourceError(f"{location} is a DVC pointer, not the file itself. Fetch that: dvc pull.")
    if len(head) < 1024 and b"," not in text and text.rstrip().endswith(tuple(map(str.encode, ENDINGS))):
        target = repr(text.decode(errors="replace").strip())[1:-1]
        raise SourceError(f"{location} is a link that was copied as text, to {target}. Put the file itself there.")
    # Of English text in UTF-16, every other byte is zero.
    if abs(head[::2].count(0) - head[1::2].count(0)) > len(head) / 4:
        raise SourceError(f"{location} is UTF-16 text without a byte order mark. {_AS_CSV}")
    if b"\0" in head or len(_CONTROL.findall(head)) > len(head) / 100:
        raise SourceError(f"{location} is neither parquet nor text, but a file of another kind. {_AGAIN}")


def _open_parquet(file: Path, location: str) -> RawMonth:
    # Old files keep time as INT96, which overflows in nanoseconds for the absurd years that the records contain.
    options = {"memory_map": False, "pre_buffer": False, "coerce_int96_timestamp_unit": "us"}
    with pq.ParquetFile(file, **options) as opened:
        schema = opened.schema_arrow
        if opened.metadata.num_rows > MOST_ROWS:
            raise too_many_rows(location, opened.metadata.num_rows)

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        # Text stays as it is stored, each value once: a kilobyte can unfold to gigabytes.
        texts = [name for name in columns if _is_text(schema.field(name).type)]
        with reading(location), pq.ParquetFile(file, **options, read_dictionary=texts) as opened:
            _refuse_what_unfolds(opened.metadata, set(columns), location)
            yield from opened.iter_batches(batch_size=BATCH_ROWS, columns=list(columns))

    return RawMonth(location, schema, read)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _refuse_what_unfolds(metadata: pq.FileMetaData, columns: set[str], location: str) -> None:
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            most = _MOST_BYTES + _MOST_BYTES_A_ROW * group.num_rows
            if chunk.path_in_schema in columns and chunk.total_uncompressed_size > most:
                raise SourceError(
                    f"{location} unfolds to {chunk.total_uncompressed_size / 1e6:,.0f} MB in the column "
                    f"{chunk.path_in_schema} alone, for {group.num_rows:,} rows: no month of trips does. {_AGAIN}"
                )


def too_many_rows(location: str, rows: int) -> SourceError:
    """The error for a month that has more rows than any month can have."""
    return SourceError(
        f"{location} has {rows:,} rows or more, and a month of trips at most {MOST_ROWS:,}. Check what it is; a "
        "file of several months has to be cut into one a month."
    )
