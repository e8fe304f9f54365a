"""Parcels in files."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from tripcast.taxi.trips import Trips

SCHEMA = pa.schema(
    {
        "pickup_datetime": pa.timestamp("us"),
        "depot": pa.int8(),
        "kilometres": pa.float64(),
        "kilograms": pa.float64(),
        "duration_minutes": pa.float64(),
    }
)


class TripFiles:
    def __init__(self, files) -> None:
        self._trips = read_trips(files)

    def __len__(self) -> int:
        return len(self._trips)

    def batches(self):
        return [self._trips]


def read_trips(files) -> Trips:
    table = pq.ParquetDataset([str(file) for file in files]).read()
    return Trips(**{name: table[name].to_numpy() for name in SCHEMA.names})
