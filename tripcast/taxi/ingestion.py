"""Ingest: a month as its source has it becomes a typed parquet file that is known by the hash of its values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tripcast.errors import ContractError, InvalidRequest, SourceError
from tripcast.months import Month
from tripcast.storage.arrow import arrow_scalar, prefetch
from tripcast.storage.files import parquet_writer
from tripcast.storage.store import Store
from tripcast.taxi.sources import TAXIS, open_source
from tripcast.taxi.sources.files import RawMonth, open_month_file
from tripcast.taxi.trips import recorded_schema

if TYPE_CHECKING:
    import pyarrow as pa

#: The key under which a typed file tells where it comes from.
_PROVENANCE = b"tripcast"

#: A number as text, as strictly as a cast takes it.
_NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)$"


@dataclass(frozen=True)
class Ingested:
    """A month that has been ingested.

    Attributes:
        file: Typed parquet, see ``recorded_schema``. It carries all that is said here, so that the file is enough.
        taxi: ``green`` or ``yellow``.
        month: The month that was asked for; a file may hold other months' trips all the same.
        location: Where it came from: a URL, a path, or the simulated city's options.
        rows: Number of trip records.
        sha256: Hash of the values, see ``ContentHash``.
    """

    file: Path
    taxi: str
    month: Month
    location: str
    rows: int
    sha256: str

    def to_dict(self) -> dict[str, str | int]:
        """All but the file, as a plain description."""
        return {
            "taxi": self.taxi,
            "month": str(self.month),
            "location": self.location,
            "rows": self.rows,
            "sha256": self.sha256,
        }

    @classmethod
    def open(cls, file: Path) -> Ingested:
        """Read back what a typed file says of itself.

        Raises:
            SourceError: If the file is damaged, or was not written by ``ingest``.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(file)
            said = json.loads(metadata.metadata[_PROVENANCE])
        except (pa.ArrowException, OSError, KeyError, TypeError) as trouble:
            raise SourceError(
                f"{file} is not a month that was ingested: it is damaged or of another kind. Ingest the month again."
            ) from trouble
        month = Month.parse(said["month"])
        return cls(file, said["taxi"], month, said["location"], metadata.num_rows, said["sha256"])


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

    Only the five columns that tripcast needs are read, and memory follows a batch, not the month. A value that cannot
    be read as its column's type becomes null, for the contract to count; no row is left out.

    Args:
        source: Where months come from, see ``tripcast.taxi.sources.open_source``.
        taxi: ``green`` or ``yellow``.
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
    if taxi not in TAXIS:
        raise InvalidRequest(f"There is no taxi '{taxi}': ask for {' or '.join(TAXIS)}.")
    opened = open_source(source, downloads)
    if revision is not None and opened.revision(taxi, month) != revision:
        raise SourceError(f"{month} of the {taxi} taxi in {source} has changed since this run was planned: run again.")
    raw = opened.month(taxi, month)
    content, rows = ContentHash(), 0
    with parquet_writer(output, recorded_schema()) as writer:
        for batch in prefetch(typed_batches(raw, taxi)):
            content.update(batch)
            writer.write_batch(batch)
            rows += len(batch)
        ingested = Ingested(output, taxi, month, raw.location, rows, content.hexdigest())
        said = {"taxi": taxi, "month": str(month), "location": raw.location, "sha256": ingested.sha256}
        writer.add_key_value_metadata({_PROVENANCE: json.dumps(said).encode()})
    store.put(output, f"snapshots/{ingested.sha256}.parquet")
    return ingested


class ContentHash:
    """A SHA-256 of a month's values, not of a file's bytes.

    The same trips in the same order have the same hash, be they parquet or CSV, int32 or int64, and however the file
    is cut into row groups. Each column is hashed by itself, over its values as little-endian numbers of fixed width:
    times as int64 microseconds since 1970, zones as int32, distances as float64; a null is the smallest number of an
    integer column, and NaN in a distance. The hash is that of the lines ``name type column-hash``.
    """

    def __init__(self) -> None:
        self._columns = {field.name: (field.type, hashlib.sha256()) for field in recorded_schema()}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows, in ``recorded_schema``."""
        import pyarrow as pa

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

    Yields:
        Batches in ``recorded_schema``.

    Raises:
        SourceError: If the file turns out to be damaged.
        ContractError: If a column is missing, is of a wrong kind, or holds no value that can be read as its type.
    """
    import pyarrow as pa

    names = _find_columns(raw, taxi)
    schema = recorded_schema()
    seen, read, kinds = dict.fromkeys(names, 0), dict.fromkeys(names, 0), dict.fromkeys(names, "")
    for batch in raw.read(list(names.values())):
        columns = []
        for name, raw_name in names.items():
            values = batch[raw_name]
            kinds[name] = str(values.type)
            typed = _cast(values, schema.field(name).type)
            if typed is None:
                raise _wrong_kind(raw, raw_name, kinds[name], schema.field(name).type)
            seen[name] += len(values) - values.null_count
            read[name] += len(typed) - typed.null_count
            columns.append(typed)
        yield pa.record_batch(columns, schema=schema)
    for name, raw_name in names.items():
        if seen[name] and not read[name]:
            raise _wrong_kind(raw, raw_name, f"{kinds[name]}, no value of which is one", schema.field(name).type)


def _find_columns(raw: RawMonth, taxi: str) -> dict[str, str]:
    """The month's own name of each column: exact, or but for upper and lower case and blanks around it."""
    meter = {"green": "lpep", "yellow": "tpep"}[taxi]
    published = {
        "pickup_datetime": f"{meter}_pickup_datetime",
        "dropoff_datetime": f"{meter}_dropoff_datetime",
        "pickup_zone": "PULocationID",
        "dropoff_zone": "DOLocationID",
        "trip_distance_miles": "trip_distance",
    }
    found: dict[str, str] = {}
    missing = []
    for name, wanted in published.items():
        alike = [column for column in raw.columns if column.strip().casefold() == wanted.casefold()]
        if len(alike) > 1:
            alike = [column for column in alike if column == wanted]
        if len(alike) == 1:
            found[name] = alike[0]
        else:
            missing.append(wanted)
    if missing:
        raise ContractError(
            f"{raw.location} is not a month of the {taxi} taxi: it has no single column {' and no '.join(missing)}. "
            f"Its columns are {', '.join(raw.columns[:30])}. Correct the file, or ask for another month or taxi."
        )
    return found


def _wrong_kind(raw: RawMonth, column: str, found: str, wanted: pa.DataType) -> ContractError:
    kind = {"timestamp[us]": "dates with times", "int32": "whole numbers", "double": "numbers"}[str(wanted)]
    return ContractError(
        f"The column {column} of {raw.location} should hold {kind}, but is {found}. "
        "Correct the column, or ask for another month."
    )


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Cast all values that can be cast, the others to null; None if values of this type never can."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.type == kind and not pa.types.is_floating(kind):
        return values
    if pa.types.is_null(values.type):
        return values.cast(kind)
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if pa.types.is_timestamp(kind):
        return _to_timestamps(values)
    if pa.types.is_integer(kind):
        return _to_whole_numbers(values)
    return _to_numbers(values)


def _to_timestamps(values: pa.Array) -> pa.Array | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.timestamp("us")
    if pa.types.is_string(values.type):
        try:
            return values.cast(kind)
        except pa.ArrowInvalid:
            # The seconds have to come back as they were written: strptime takes 30 February for 2 March.
            text = pc.utf8_trim_whitespace(values)
            seconds = pc.replace_substring(pc.utf8_slice_codeunits(text, 0, 19), "T", " ")
            parsed = pc.strptime(seconds, format="%Y-%m-%d %H:%M:%S", unit="s", error_is_null=True)
            rest_is_fraction = pc.match_substring_regex(pc.utf8_slice_codeunits(text, 19), r"^(\.\d{1,6})?$")
            return _where(pc.and_(pc.equal(parsed.cast(pa.string()), seconds), rest_is_fraction), text).cast(kind)
    if not pa.types.is_timestamp(values.type):
        return None
    if values.type.tz:
        # An instant; the records are kept in New York local time.
        values = pc.local_timestamp(values.cast(pa.timestamp(values.type.unit, "America/New_York")))
    factor = {"s": 1_000_000, "ms": 1_000}.get(values.type.unit)
    if factor:
        # Beyond this, microseconds overflow.
        last = (2**63 - 1) // factor
        values = _where(pc.less_equal(pc.abs(values.cast(pa.int64())), arrow_scalar(last, pa.int64())), values)
    return values.cast(kind, safe=False)


def _to_whole_numbers(values: pa.Array) -> pa.Array | None:
    import pyarrow as pa
    import pyarrow.compute as pc

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
    import pyarrow as pa
    import pyarrow.compute as pc

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
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(keep, values, pa.nulls(1, values.type)[0])


def read_ingested(ingested: Ingested) -> Iterator[pa.RecordBatch]:
    """Read an ingested month, batch by batch, in ``recorded_schema``.

    Raises:
        SourceError: If the file is damaged.
    """
    return open_month_file(ingested.file, str(ingested.file), ".parquet").read(recorded_schema().names)
