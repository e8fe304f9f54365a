"""A month of trip records as a file: how the publisher names it, and how it is read, parquet or CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tripcast.errors import SourceError
from tripcast.months import Month

if TYPE_CHECKING:
    import pyarrow as pa

#: The revisions in which a month may be there, the preferred one first.
EDITIONS = (".parquet", ".csv", ".csv.gz")

#: Rows in a batch of parquet: large enough for vectors, small enough that a few batches are a few dozen megabytes.
_BATCH_ROWS = 256 * 1024

#: Bytes of CSV text in a batch.
_BLOCK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class RawMonth:
    """A month as its source has it, not read yet.

    Attributes:
        location: Where it comes from, for people: a URL, a path or the simulated city's options.
        columns: The names of all its columns.
        read: Reads some columns, batch by batch, in the types that the source has. To be called once. Raises
            SourceError if the file turns out to be damaged.
    """

    location: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]


def month_file(names: Iterable[str], taxi: str, month: Month) -> str | None:
    """The name, among those that are there, under which a month is published; None if it is not there."""
    there = set(names)
    return next((name for revision in EDITIONS if (name := f"{taxi}_tripdata_{month}{revision}") in there), None)


def missing_month(names: Iterable[str], taxi: str, month: Month, where: str) -> SourceError:
    """The error for a month that is not among the names, which says what is there instead."""
    named = re.compile(rf"{taxi}_tripdata_(\d{{4}}-(?:0[1-9]|1[0-2]))(?:{'|'.join(map(re.escape, EDITIONS))})")
    months = sorted({Month.parse(match[1]) for name in names if (match := named.fullmatch(name))})
    listed = f"{', '.join(map(str, months[:6]))}, ... {months[-1]}" if len(months) > 7 else ", ".join(map(str, months))
    return SourceError(
        f"There is no {month} of the {taxi} taxi in {where}. "
        + (f"It has {listed}: ask for one of these" if months else f"It has no month of the {taxi} taxi at all")
        + f", or put {taxi}_tripdata_{month}.parquet (or .csv, or .csv.gz) there."
    )


def open_month_file(file: Path, location: str, revision: str | None = None) -> RawMonth:
    """Open a month's file.

    Args:
        file: The file.
        location: Where it came from, for error messages.
        revision: Which of the ``EDITIONS`` it is; None to go by its name.

    Raises:
        SourceError: If the file is empty, is a web page, is truncated, or is not what its name says.
    """
    import pyarrow as pa

    try:
        parquet = (revision or file.suffix) == ".parquet"
        _refuse_what_is_no_table(file, location, parquet)
        return _open_parquet(file, location) if parquet else _open_csv(file, location)
    except (pa.ArrowException, OSError) as trouble:
        raise _damaged(location, trouble) from trouble


def _refuse_what_is_no_table(file: Path, location: str, parquet: bool) -> None:
    """Name the usual mishaps, which a parquet or CSV reader would report in its own terms.

    A parquet file begins and ends with the bytes PAR1 (the format's specification, "File format").
    """
    with file.open("rb") as opened:
        head = opened.read(512)
        opened.seek(-min(4, file.stat().st_size), 2)
        tail = opened.read()
    again = "Fetch it again, or ask for another month."
    if not head:
        raise SourceError(f"{location} is empty (0 bytes). {again}")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise SourceError(f"{location} is a web page (HTML or XML), probably an error page that was saved. {again}")
    if parquet and not head.startswith(b"PAR1"):
        raise SourceError(f"{location} is not a parquet file: it begins with {head[:8]!r}. {again}")
    if parquet and tail != b"PAR1":
        raise SourceError(f"{location} is a truncated parquet file: its end is missing. {again}")


def _open_parquet(file: Path, location: str) -> RawMonth:
    import pyarrow.parquet as pq

    # Old files keep time as INT96, which overflows in nanoseconds for the absurd years that the records contain.
    opened = pq.ParquetFile(file, memory_map=False, pre_buffer=False, coerce_int96_timestamp_unit="us")

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with opened:
            yield from _named(opened.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)), location)

    return RawMonth(location, tuple(opened.schema_arrow.names), read)


def _open_csv(file: Path, location: str) -> RawMonth:
    import pyarrow as pa
    from pyarrow import csv

    blocks = csv.ReadOptions(block_size=_BLOCK_BYTES)
    with csv.open_csv(file, read_options=blocks) as opened:
        names = tuple(opened.schema.names)

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        # As text: types guessed from the first block would make a stray word further down fail the whole file.
        as_text = csv.ConvertOptions(
            include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True
        )
        yield from _named(csv.open_csv(file, read_options=blocks, convert_options=as_text), location)

    return RawMonth(location, names, read)


def _named(batches: Iterable[pa.RecordBatch], location: str) -> Iterator[pa.RecordBatch]:
    """The same batches; damage met on the way is reported under the file's own location."""
    import pyarrow as pa

    try:
        yield from batches
    except (pa.ArrowException, OSError) as trouble:
        raise _damaged(location, trouble) from trouble


def _damaged(location: str, trouble: Exception) -> SourceError:
    return SourceError(
        f"{location} cannot be read: {str(trouble).strip().rstrip('.')}. "
        "It is damaged or truncated: fetch it again, or mend it, or ask for another month."
    )
