"""A month of parcels, read into typed records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from tripcast.months import Month
from tripcast.storage.store import sha256_of
from tripcast.taxi.sources import open_source
from tripcast.taxi.trip_files import SCHEMA


@dataclass(frozen=True)
class Ingested:
    """A month that was read; its description travels in the file itself."""

    file: str
    month: str
    location: str
    rows: int
    sha256: str

    def to_dict(self) -> dict:
        return {name: value for name, value in asdict(self).items() if name != "file"}

    @classmethod
    def open(cls, file: Path) -> Ingested:
        return cls(**json.loads(pq.read_schema(file).metadata[b"ingested"]) | {"file": str(file)})


def look(raw: Path, taxi: str) -> list[str]:
    return []


def ingest(source, taxi, month: Month, *, output: Path, downloads, store, revision=None) -> Ingested:
    file = open_source(source, downloads).month(taxi, month)
    types = {"depot": pa.int8(), "pickup_datetime": pa.timestamp("us")}
    table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=types)).cast(SCHEMA)
    ingested = Ingested(str(output), str(month), str(file), len(table), sha256_of(file))
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"ingested": json.dumps(asdict(ingested))}), output)
    store.put(output, f"snapshots/{ingested.sha256}.parquet")
    return replace(ingested, file=str(output))
