"""CSV as people have it: compressed or not, with rows that have more or fewer fields than the header."""

from __future__ import annotations

import codecs
import csv
import gzip
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tripcast.errors import SourceError
from tripcast.taxi.sources.raw import BATCH_ROWS, RawMonth, reading

#: Bytes of text in a batch.
_BLOCK_BYTES = 8 * 1024 * 1024

#: Rows with fields too many, all of them empty, that are mended one by one; beyond, they count as unreadable.
_MOST_MENDED = 100_000

_SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


def decompressed_head(file: Path, size: int) -> bytes:
    """The first bytes of a gzipped file's content."""
    with gzip.open(file) as opened:
        return opened.read(size)


def open_csv(file: Path, location: str, head: bytes, compressed: bool) -> RawMonth:
    """Open a CSV file.

    Args:
        file: The file.
        location: Where it came from, for error messages.
        head: The beginning of its text.
        compressed: Whether the file is gzipped.

    Raises:
        SourceError: If its fields are separated by anything but commas.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        text = head.decode("latin-1")
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    header = lines[first] if lines else ""
    _refuse_other_separators(header, location)
    (names,) = csv.reader([header], skipinitialspace=True)
    while names and not names[-1].strip():  # a comma at the end, which the rows need not have
        names.pop()
    following = next((line for line in lines[first + 1 : -1] if line.strip()), "")
    surplus = _surplus(following, len(names))
    remarks: list[str] = []

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = _Rows(names, surplus)
        with reading(location):
            yield from rows.read(file, columns, skip=first + 1, compressed=compressed)
        if rows.unreadable:
            remarks.append(
                f"Rows of {location} with another number of fields than its header, which has {len(names)}: "
                f"{rows.unreadable:,}; they are set aside. The first one: {rows.example[:100]!r}."
            )

    return RawMonth(location, pa.schema([(name, pa.string()) for name in names]), read, remarks)


def _refuse_other_separators(header: str, location: str) -> None:
    commas = "Save it separated by commas, with points in numbers."
    if header.lower().startswith("sep="):
        raise SourceError(f"{location} begins with Excel's line '{header[:5]}' instead of the column names. {commas}")
    separator = max(_SEPARATORS, key=header.count)
    if header.count(separator) > header.count(","):
        raise SourceError(f"{location} has {_SEPARATORS[separator]} between its fields instead of a comma. {commas}")


def _surplus(row: str, columns: int) -> int:
    """How many empty fields a row has too many: the publisher's files of July to December 2016 have two."""
    fields = next(csv.reader([row]), [])
    return 0 if any(field.strip() for field in fields[columns:]) else max(0, len(fields) - columns)


class _Rows:
    """The rows of a file, however many fields they have.

    Args:
        names: The columns that the header names.
        surplus: How many empty fields too many the rows have.

    Attributes:
        unreadable: How many rows have other fields than the header's.
        example: The first of them.
    """

    def __init__(self, names: Sequence[str], surplus: int) -> None:
        self._names = list(names)
        self._extra = [f"surplus field {number}" for number in range(1, surplus + 1)]
        self._mended: list[list[str]] = []
        self._lost = 0
        self.unreadable, self.example = 0, ""

    def read(self, file: Path, columns: Sequence[str], *, skip: int, compressed: bool) -> Iterator[pa.RecordBatch]:
        """Read columns as text, batch by batch: regular rows, then mended ones, then a row of nulls for each lost one.

        Args:
            file: The file.
            columns: Which columns.
            skip: How many lines to skip: up to the header, and that.
            compressed: Whether the file is gzipped.
        """
        wanted = [*columns, *self._extra]
        compression = "gzip" if compressed else None
        with pa.input_stream(str(file), compression=compression) as stream:
            encoding = _encoding(stream)
        with pa.input_stream(str(file), compression=compression) as stream:
            # As text: types guessed from the first block would make a stray word further down fail the whole file.
            batches = pa.csv.open_csv(
                stream,
                pa.csv.ReadOptions(
                    block_size=_BLOCK_BYTES,
                    column_names=[*self._names, *self._extra],
                    skip_rows=skip,
                    encoding=encoding,
                ),
                pa.csv.ParseOptions(invalid_row_handler=self._take_irregular),
                pa.csv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=True
                ),
            )
            for batch in batches:
                yield self._drop_shifted(batch).select(columns)
        schema = pa.schema([(name, pa.string()) for name in columns])
        places = [self._names.index(name) for name in columns]
        for start in range(0, len(self._mended), BATCH_ROWS):
            some = self._mended[start : start + BATCH_ROWS]
            yield pa.record_batch([[row[place] or None for row in some] for place in places], schema=schema)
        for start in range(0, self._lost, BATCH_ROWS):
            nulls = pa.nulls(min(BATCH_ROWS, self._lost - start), pa.string())
            yield pa.record_batch([nulls] * len(columns), schema=schema)

    def _take_irregular(self, row: Any) -> str:
        """Keep a row whose fields too many are empty; it is called for each row of another length than most."""
        fields = next(csv.reader([row.text]), [])
        count = len(self._names)
        if len(fields) >= count and not any(map(str.strip, fields[count:])) and len(self._mended) < _MOST_MENDED:
            self._mended.append(fields[:count])
        else:
            self._lost += 1
            self._count(1, row.text)
        return "skip"

    def _drop_shifted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Make rows null that have something in a field too many: nobody knows which of their values moved."""
        full = [name for name in self._extra if batch[name].null_count < len(batch)]
        if not full:
            return batch
        filled = [pc.match_substring_regex(batch[name].fill_null(""), r"\S") for name in full]
        shifted = reduce(pc.or_, filled)
        if shifted.true_count:
            example = batch.filter(shifted).slice(0, 1).to_pylist()[0]
            self._count(shifted.true_count, ",".join(value or "" for value in example.values()))
        regular = pc.invert(shifted)
        columns = [pc.if_else(regular, column, pa.nulls(1, column.type)[0]) for column in batch.columns]
        return pa.record_batch(columns, schema=batch.schema)

    def _count(self, rows: int, example: str) -> None:
        self.example = self.example or example
        self.unreadable += rows


def _encoding(stream: pa.NativeFile) -> str:
    """UTF-8, or one that takes every byte: what is needed of a file is in ASCII."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while block := stream.read(_BLOCK_BYTES):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf8"
