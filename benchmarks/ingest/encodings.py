"""What an encoding of the typed files costs: seconds to write, megabytes, seconds to read in batches.

python benchmarks/ingest/encodings.py green_tripdata_2021-01.parquet
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import MONTH, make_month

TIMES_AND_MILES = ["pickup_datetime", "dropoff_datetime", "trip_distance_miles"]
ZONES = ["pickup_zone", "dropoff_zone"]
ENCODINGS: dict[str, dict[str, Any]] = {
    "plain, uncompressed": {"use_dictionary": False, "compression": "none"},
    "zones as dictionaries, uncompressed": {"use_dictionary": ZONES, "compression": "none"},
    "zones as dictionaries, others split by byte, lz4": {
        "use_dictionary": ZONES,
        "use_byte_stream_split": TIMES_AND_MILES,
        "compression": "lz4",
    },
    "zones as dictionaries, others split by byte, zstd 1": {
        "use_dictionary": ZONES,
        "use_byte_stream_split": TIMES_AND_MILES,
        "compression": "zstd",
        "compression_level": 1,
    },
    "all as dictionaries, snappy (pyarrow's default)": {},
}


def main() -> None:
    """Measure each encoding in turn, and print the table."""
    import pyarrow.parquet as pq

    from tripcast.taxi.ingestion import typed_batches
    from tripcast.taxi.sources.files import open_month_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("month", type=Path, help="a published month of the green taxi, parquet")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tripcast-encodings-") as folder:
        raw, file = Path(folder, f"yellow_tripdata_{MONTH}.parquet"), Path(folder, "typed.parquet")
        make_month(arguments.month, arguments.rows, raw)
        batches = list(typed_batches(open_month_file(raw, str(raw)), "yellow"))
        write: dict[str, list[float]] = {name: [] for name in ENCODINGS}
        read: dict[str, list[float]] = {name: [] for name in ENCODINGS}
        size: dict[str, float] = {}
        for _ in range(arguments.runs):
            for name, options in ENCODINGS.items():
                start = time.perf_counter()
                with pq.ParquetWriter(file, batches[0].schema, write_statistics=not options, **options) as writer:
                    for batch in batches:
                        writer.write_batch(batch)
                write[name].append(time.perf_counter() - start)
                # Several times: the first reading pays for memory that the encoding before it gave back.
                for _ in range(3):
                    start = time.perf_counter()
                    for _batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(batch_size=256 * 1024):
                        pass
                    read[name].append(time.perf_counter() - start)
                size[name] = file.stat().st_size / 1e6
    print("| encoding | seconds to write | MB | seconds to read |\n|---|---:|---:|---:|")
    for name in ENCODINGS:
        row = f"{statistics.median(write[name]):.2f} | {size[name]:.0f} | {statistics.median(read[name]):.2f}"
        print(f"| {name} | {row} |")


if __name__ == "__main__":
    main()
