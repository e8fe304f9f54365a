"""Trip records in files: the columns that tripcast keeps of a month, and validated trips read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.trips import PICKUP_COLUMNS, TARGET, Trips


def recorded_schema(taxi: str) -> pa.Schema:
    """The trip record as ingested: one type a column whatever the month had, every value nullable, no row removed.

    Times are New York local time; zones are numbers as recorded, valid or not; distances are as the meter had them.
    ``reported_seconds`` is a trip's duration as the company says it, beside its two times.

    Args:
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``; its columns are those that the feed has.
    """
    kinds = {
        "pickup_datetime": pa.timestamp("us"),
        "dropoff_datetime": pa.timestamp("us"),
        "pickup_zone": pa.int32(),
        "dropoff_zone": pa.int32(),
        "trip_distance_miles": pa.float64(),
        "reported_seconds": pa.int32(),
    }
    return pa.schema({name: kind for name, kind in kinds.items() if name in FEEDS[taxi].columns})


def trips_schema() -> pa.Schema:
    """The columns of ``Trips`` in a file: trips that keep the contract."""
    return pa.schema(
        {
            "pickup_datetime": pa.timestamp("us"),
            "pickup_zone": pa.int16(),
            "dropoff_zone": pa.int16(),
            "trip_distance_miles": pa.float64(),
            "duration_minutes": pa.float64(),
        }
    )


class TripFiles:
    """Validated trips in parquet files, read a batch at a time and as often as asked: never all in memory.

    Args:
        files: Parquet files with the columns of ``Trips``, as validation writes them: row groups are batches.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._trips: int = sum(pq.read_metadata(file).num_rows for file in files)

    def __len__(self) -> int:
        return self._trips

    def batches(self) -> Iterator[Trips]:
        """The trips, in the order of the files; no batch is empty."""
        for file in self._files:
            with pq.ParquetFile(file) as opened:
                for group in range(opened.num_row_groups):
                    table = opened.read_row_group(group, [*PICKUP_COLUMNS, TARGET])
                    if len(table):
                        yield Trips(**{name: table[name].to_numpy() for name in table.column_names})


def read_trips(files: Sequence[Path]) -> Trips:
    """Read validated trips from parquet files, in the order of the files.

    Args:
        files: Parquet files with the columns of ``Trips``.
    """
    table = pq.ParquetDataset([str(file) for file in files]).read(columns=[*PICKUP_COLUMNS, TARGET])
    return Trips(**{name: table[name].to_numpy() for name in table.column_names})
