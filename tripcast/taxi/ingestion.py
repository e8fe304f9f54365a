"""Ingest: a month as its source has it becomes a typed parquet file that is known by the hash of its values.

**Times and zones.** The publisher's files carry no zone: their times are New York's wall clock. Programs that export
them (Spark, BigQuery) mark that wall clock as UTC. So the wall clock that a file shows is taken, in whatever zone it
says, and the zone is dropped, with a remark. A file that was really converted to another zone gives itself away: the
first hours of its month are empty, and as many hours after its end are full. The contract refuses such a month.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tripcast.errors import ContractError, SourceError
from tripcast.months import Month
from tripcast.storage.arrow import arrow_scalar, parquet_writer, prefetch
from tripcast.storage.store import Store
from tripcast.taxi.feeds import FEEDS, Feed, find_feed
from tripcast.taxi.sources import open_source
from tripcast.taxi.sources.files import MOST_ROWS, open_month_file, too_many_rows
from tripcast.taxi.sources.raw import RawMonth
from tripcast.taxi.timestamps import WANTED, parse_times
from tripcast.taxi.trip_files import recorded_schema

_MINUTE = 60_000_000  # in microseconds, the unit of time in the typed form

#: From so many values on, a column of which most cannot be read is refused, not its rows.
_MANY = 100

#: The key under which a typed file tells where it comes from.
_PROVENANCE = b"tripcast"

#: A number as text, as strictly as a cast takes it.
_NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)$"


@dataclass(frozen=True)
class Ingested:
    """A month that has been ingested.

    Attributes:
        file: Typed parquet, see ``recorded_schema``. It carries all that is said here, so that the file is enough.
        taxi: The feed's name.
        month: The month that was asked for; a file may hold other months' trips all the same.
        location: Where it came from: a URL, a path, or the simulated city's options.
        rows: Number of trip records.
        sha256: Hash of the values, see ``ContentHash``.
        remarks: What people should know of how it was read, a sentence each.
    """

    file: Path
    taxi: str
    month: Month
    location: str
    rows: int
    sha256: str
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, str | int]:
        """All but the file, as a plain description."""
        return {
            "taxi": self.taxi,
            "month": str(self.month),
            "location": self.location,
            "rows": self.rows,
            "sha256": self.sha256,
            "remarks": " ".join(self.remarks),
        }

    @classmethod
    def open(cls, file: Path) -> Ingested:
        """Read back what a typed file says of itself.

        Raises:
            SourceError: If the file is damaged, or was not written by ``ingest``.
        """
        try:
            metadata = pq.read_metadata(file)
            said = json.loads(metadata.metadata[_PROVENANCE])
        except (pa.ArrowException, OSError, KeyError, TypeError) as trouble:
            raise SourceError(
                f"{file} is not a month that was ingested: it is damaged or of another kind. Ingest the month again."
            ) from trouble
        month = Month.parse(said["month"])
        remarks = tuple(said.get("remarks", ()))
        return cls(file, said["taxi"], month, said["location"], metadata.num_rows, said["sha256"], remarks)


def ingest(
    source: str,
    taxi: str,
    month: Month,
    *,
    output: Path,
    downloads: Path,
    store: Store,
    revision: str | None = None,
) -> Ingested:
    """Bring one month of one taxi into the typed form, whatever types its source has this time.

    Only the columns that tripcast needs are read, and memory follows a batch, not the month. A value that cannot
    be read as its column's type becomes null, for the contract to count; no row is left out.

    Args:
        source: Where months come from, see ``tripcast.taxi.sources.open_source``.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        month: The month to ingest.
        output: The typed parquet file to write. It appears whole or not at all.
        downloads: Folder that keeps what has to be downloaded.
        store: Keeps the typed file as ``snapshots/{sha256}.parquet``: once for the same values, for good.
        revision: The revision to ingest, as the source named it; None for whichever is there.

    Raises:
        InvalidRequest: If the taxi or the kind of source is unknown.
        SourceError: If the month is not there, cannot be reached, is damaged, or is another revision by now.
        ContractError: If a column is missing or is of a wrong kind altogether.
        StorageError: If a file cannot be written.
    """
    feed = find_feed(taxi)
    opened = open_source(source, downloads)
    if revision is not None and opened.revision(taxi, month) != revision:
        raise SourceError(f"{month} of the {feed.title} in {source} has changed since this run was planned: run again.")
    raw = opened.month(taxi, month)
    content, rows = ContentHash(taxi), 0
    with parquet_writer(output, recorded_schema(taxi)) as writer:
        for batch in prefetch(typed_batches(raw, taxi)):
            content.update(batch)
            writer.write_batch(batch)
            rows += len(batch)
            if rows > MOST_ROWS:
                raise too_many_rows(raw.location, rows)
        ingested = Ingested(output, taxi, month, raw.location, rows, content.hexdigest(), tuple(raw.remarks))
        said: dict[str, str | list[str]] = {"taxi": taxi, "month": str(month), "location": raw.location}
        said |= {"sha256": ingested.sha256, "remarks": raw.remarks}
        writer.add_key_value_metadata({_PROVENANCE: json.dumps(said).encode()})
    store.put(output, f"snapshots/{ingested.sha256}.parquet")
    return ingested


class ContentHash:
    """A SHA-256 of a month's values, not of a file's bytes.

    The same trips in the same order have the same hash, be they parquet or CSV, int32 or int64, and however the file
    is cut into row groups. Each column is hashed by itself, over its values as little-endian numbers of fixed width:
    times as int64 microseconds since 1970, zones as int32, distances as float64; a null is the smallest number of an
    integer column, and NaN in a distance. The hash is that of the lines ``name type column-hash``.

    Args:
        taxi: The feed's name.
    """

    def __init__(self, taxi: str) -> None:
        self._columns = {field.name: (field.type, hashlib.sha256()) for field in recorded_schema(taxi)}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows, in ``recorded_schema``."""
        for name, (kind, digest) in self._columns.items():
            values = batch[name].cast(pa.int64()) if pa.types.is_timestamp(kind) else batch[name]
            null = "nan" if pa.types.is_floating(kind) else -(2 ** (kind.bit_width - 1))
            values, width = values.fill_null(arrow_scalar(null, values.type)), kind.bit_width // 8
            # Arrow's memory is little-endian on every machine that it is built for.
            digest.update(memoryview(values.buffers()[1])[values.offset * width :][: len(values) * width])

    def hexdigest(self) -> str:
        """The hash of all rows so far, 64 hexadecimal digits."""
        lines = (f"{name} {kind} {digest.hexdigest()}\n" for name, (kind, digest) in self._columns.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def typed_batches(raw: RawMonth, taxi: str) -> Iterator[pa.RecordBatch]:
    """Read a month in the typed form, batch by batch.

    What was odd about its values is among the month's remarks when all have been read.

    Yields:
        Batches in ``recorded_schema``.

    Raises:
        SourceError: If the file turns out to be damaged.
        ContractError: If a column is missing, is of a wrong kind, or most of its values cannot be read as its type.
    """
    columns, schema = _find_columns(raw, taxi), recorded_schema(taxi)
    for batch in raw.read([column.raw_name for column in columns]):
        yield pa.record_batch([column.read(batch[column.raw_name]) for column in columns], schema=schema)
    for column in columns:
        column.check()
    raw.remarks.extend(_remarks(columns, raw.location))


def look(raw: RawMonth, taxi: str) -> list[str]:
    """What can be said of a month before it is read.

    Returns:
        Remarks, a sentence each.

    Raises:
        ContractError: If a column is missing or is of a wrong kind.
    """
    columns = _find_columns(raw, taxi)
    for column in columns:
        column.look(raw.schema.field(column.raw_name).type)
    return _remarks(columns, raw.location)


def _find_columns(raw: RawMonth, taxi: str) -> list[_Column]:
    """The month's columns, in the order of ``recorded_schema``: by their names, but for case, blanks and such."""
    feed = find_feed(taxi)
    _refuse_other_feeds(raw, feed)
    found: list[_Column] = []
    missing = []
    for field in recorded_schema(taxi):
        wanted = feed.columns[field.name]
        alike = [column for column in raw.columns if _letters(column) == _letters(wanted)]
        if len(alike) > 1:
            alike = [column for column in alike if column == wanted]
        if len(alike) == 1:
            found.append(_Column(raw.location, alike[0], field.type))
        else:
            missing.append(wanted)
    if missing:
        there = ", ".join(column[:40] for column in raw.columns[:30])
        raise ContractError(
            f"{raw.location} is not a month of the {feed.title}: it has no single column {' and no '.join(missing)}. "
            f"Its columns are {there}. Correct the file, or ask for another month or taxi."
        )
    return found


def _refuse_other_feeds(raw: RawMonth, feed: Feed) -> None:
    """Name a file that is another feed's: its columns may do for this one's all the same."""
    there = {_letters(column) for column in raw.columns}
    of = [each for each in FEEDS.values() if each.mark and _letters(each.mark) in there]
    if of and feed not in of:
        raise ContractError(
            f"{raw.location} is not a month of the {feed.title}, but of the {of[0].title}: it has the column "
            f"{of[0].mark}. Name it as a month of {of[0].name}, and ask for that taxi; or put the right file there."
        )


def _letters(name: str) -> str:
    """A column's name without what tools change in it: case, blanks, quotes, underscores."""
    return re.sub(r"[\W_]", "", name).casefold()


def _remarks(columns: Sequence[_Column], location: str) -> list[str]:
    zones = ", ".join(dict.fromkeys(column.zone for column in columns if column.zone))
    remarks = []
    if zones:
        remarks.append(
            f"The times of {location} are marked as {zones}: they are taken as the wall clock that they show, because "
            "the publisher's carry no zone."
        )
    if any(column.whole_minutes for column in columns):
        remarks.append(
            f"The times of {location} have no seconds, which Excel leaves out of a CSV: durations are whole minutes."
        )
    return remarks


class _Column:
    """A column on its way into the typed form.

    Args:
        location: The month, for error messages.
        raw_name: The column's name there.
        kind: The type that it is to have.

    Attributes:
        zone: The zone that its times are marked with, empty if none.
    """

    def __init__(self, location: str, raw_name: str, kind: pa.DataType) -> None:
        self.raw_name, self.zone = raw_name, ""
        self._location, self._kind = location, kind
        self._given = self._taken = 0
        self._found, self._example = "", ""
        self._texts = self._seconds = 0

    @property
    def whole_minutes(self) -> bool:
        """Whether its times are text, and none has seconds."""
        return self._texts > 0 and not self._seconds

    def look(self, kind: pa.DataType) -> None:
        """Take note of the type that the source has.

        Raises:
            ContractError: If values of this type never can be read as the type that is wanted.
        """
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        self._found = str(kind)
        if pa.types.is_timestamp(kind) and kind.tz:
            self._check_zone(kind)
        if self._cast(pa.nulls(0, kind)) is None:
            raise self._wrong_kind(self._found)

    def _check_zone(self, kind: pa.TimestampType) -> None:
        try:
            pc.local_timestamp(pa.array([0], kind))
        except pa.ArrowInvalid:
            raise ContractError(
                f"The column {self.raw_name} of {self._location} is marked with the time zone {kind.tz!r}, which is "
                "not known here, so that its wall clock is not either. Write its times without a zone."
            ) from None
        self.zone = kind.tz

    def read(self, values: pa.Array) -> pa.Array:
        """Cast all values that can be cast, the others to null.

        Raises:
            ContractError: See ``look``.
        """
        if not self._found:
            self.look(values.type)
        if pa.types.is_dictionary(values.type):
            # Each value once: it is quicker, and a value that is long and repeated unfolds to gigabytes.
            typed = self._cast(values.dictionary)
            typed = None if typed is None else typed.take(values.indices)
        else:
            typed = self._cast(values)
        if typed is None:
            raise self._wrong_kind(str(values.type))
        self._given += len(values) - values.null_count
        self._taken += len(typed) - typed.null_count
        return typed

    def check(self) -> None:
        """Look back on what was read.

        Raises:
            ContractError: If most of it, or all, could not be read as the type that is wanted.
        """
        if self._given and not self._taken:
            raise self._wrong_kind(f"{self._found}, no value of which is one")
        if self._given >= _MANY and self._taken < self._given / 2:
            raise self._wrong_kind(f"{self._found}, most values of which are none")

    def _cast(self, values: pa.Array) -> pa.Array | None:
        """Cast all values that can be cast, the others to null; None if values of this type never can."""
        if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
            values = values.cast(pa.string())
        if values.type == self._kind and not pa.types.is_floating(self._kind):
            return values
        if pa.types.is_null(values.type):
            return values.cast(self._kind)
        if pa.types.is_timestamp(self._kind):
            typed = self._text_times(values) if pa.types.is_string(values.type) else _to_timestamps(values)
        elif pa.types.is_integer(self._kind):
            typed = _to_whole_numbers(values)
        else:
            typed = _to_numbers(values)
        if typed is not None and typed.null_count > values.null_count and pa.types.is_string(values.type):
            lost = values.filter(pc.and_(values.is_valid(), typed.is_null()))
            self._example = self._example or str(lost[0])[:40]
        return typed

    def _text_times(self, text: pa.Array) -> pa.Array:
        times, zone = parse_times(text)
        self.zone = self.zone or zone
        moments = times.drop_null().view("int64").to_numpy()
        self._texts += len(moments)
        self._seconds += int(np.count_nonzero(moments % _MINUTE))
        return times

    def _wrong_kind(self, found: str) -> ContractError:
        kind, form = {
            "timestamp[us]": ("dates with times", f", written as {WANTED}"),
            "int32": ("whole numbers", ""),
            "double": ("numbers", ""),
        }[str(self._kind)]
        example = f", for example {self._example!r}" if self._example else ""
        return ContractError(
            f"The column {self.raw_name} of {self._location} should hold {kind}{form}, but is {found}{example}. "
            "Correct the column, or ask for another month."
        )


def _to_timestamps(values: pa.Array) -> pa.Array | None:
    if not pa.types.is_timestamp(values.type):
        return None
    if values.type.tz:
        values = pc.local_timestamp(values)  # the wall clock that it shows
    factor = {"s": 1_000_000, "ms": 1_000}.get(values.type.unit)
    if factor:
        # Beyond this, microseconds overflow.
        last = (2**63 - 1) // factor
        values = _where(pc.less_equal(pc.abs(values.cast(pa.int64())), arrow_scalar(last, pa.int64())), values)
    return values.cast(pa.timestamp("us"), safe=False)


def _to_whole_numbers(values: pa.Array) -> pa.Array | None:
    numbers = values if pa.types.is_integer(values.type) else _to_numbers(values)
    if numbers is None:
        return None
    try:
        return numbers.cast(pa.int32())
    except pa.ArrowInvalid:
        floats = numbers.cast(pa.float64(), safe=False)
        end = arrow_scalar(2**31, pa.float64())
        # The smallest int32 is left out: it stands for null in the content hash.
        fits = pc.and_(pc.greater(floats, pc.negate(end)), pc.less(floats, end))
        return _where(pc.and_(fits, pc.equal(pc.floor(floats), floats)), numbers).cast(pa.int32())


def _to_numbers(values: pa.Array) -> pa.Array | None:
    kind = pa.float64()
    if pa.types.is_string(values.type):
        try:
            values = values.cast(kind)
        except pa.ArrowInvalid:
            text = pc.utf8_trim_whitespace(values)
            values = _where(pc.match_substring_regex(text, _NUMBER), text).cast(kind)
    elif not (
        pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    ):
        return None
    numbers = values.cast(kind, safe=False)
    # Not-a-number is how some tools write a missing value.
    not_numbers = pc.is_nan(numbers)
    return _where(pc.invert(not_numbers), numbers) if pc.any(not_numbers).as_py() else numbers


def _where(keep: pa.BooleanArray, values: pa.Array) -> pa.Array:
    """The values where the condition holds, null elsewhere."""
    return pc.if_else(keep, values, pa.nulls(1, values.type)[0])


def read_ingested(ingested: Ingested) -> Iterator[pa.RecordBatch]:
    """Read an ingested month, batch by batch, in ``recorded_schema``.

    Raises:
        SourceError: If the file is damaged.
    """
    return open_month_file(ingested.file, str(ingested.file)).read(recorded_schema(ingested.taxi).names)
