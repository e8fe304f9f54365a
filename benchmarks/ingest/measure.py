"""Ingest and clean a month of ten million trips: tripcast beside what one would write with pandas.

    python benchmarks/ingest/measure.py green_tripdata_2021-01.parquet

Every measurement is a process of its own. The ways take turns, so that a busy machine is busy for all of them alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MONTH = "2021-01"
NEEDED = ["tpep_pickup_datetime", "tpep_dropoff_datetime", "PULocationID", "DOLocationID", "trip_distance"]


def make_month(real: Path, rows: int, file: Path) -> None:
    """Write a yellow month with all columns: trips of a real green month drawn again, moved in time and distance."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    trips = pq.read_table(real)
    trips = trips.rename_columns([name.replace("lpep", "tpep") for name in trips.column_names])
    empty = trips.schema.get_field_index("ehail_fee")
    trips = trips.set_column(empty, "airport_fee", pa.array(random.choice([0.0, 1.25], len(trips))))
    with pq.ParquetWriter(file, trips.schema, compression="zstd") as writer:
        for done in range(0, rows, 1_000_000):
            count = min(1_000_000, rows - done)
            drawn = trips.take(pa.array(random.integers(0, len(trips), count)))
            shift = random.integers(-600, 600, count).astype("timedelta64[s]")
            moved = {name: drawn[name].to_numpy() + shift for name in NEEDED[:2]}
            moved["trip_distance"] = np.round(drawn["trip_distance"].to_numpy() * random.uniform(0.9, 1.1, count), 2)
            for name, values in moved.items():
                field = trips.schema.field(name)
                drawn = drawn.set_column(trips.schema.get_field_index(name), field, pa.array(values, field.type))
            writer.write_table(drawn)


def pandas_way(file: Path, out: Path, columns: list[str] | None, write: bool) -> tuple[int, int]:
    """Clean with vectorised pandas; counts of kept and rejected rows."""
    import pandas as pd

    trips = pd.read_parquet(file, columns=columns)
    minutes = (trips.tpep_dropoff_datetime - trips.tpep_pickup_datetime).dt.total_seconds() / 60
    good = (
        trips[NEEDED].notna().all(axis=1)
        & trips.PULocationID.between(1, 265)
        & trips.DOLocationID.between(1, 265)
        & trips.trip_distance.between(0, float("inf"), inclusive="left")
        & minutes.between(1, 60)
    )
    if not write:
        kept = int(good.sum())
        return kept, len(trips) - kept
    kept_trips = trips.loc[good, NEEDED].assign(duration_minutes=minutes[good])
    rejected = trips.loc[~good, NEEDED]
    kept_trips.to_parquet(out / "kept.parquet", index=False)
    rejected.to_parquet(out / "rejected.parquet", index=False)
    return len(kept_trips), len(rejected)


def polars_way(file: Path, out: Path, write: bool) -> tuple[int, int]:
    """Clean with lazy polars; counts of kept and rejected rows."""
    import polars as pl

    minutes = (pl.col(NEEDED[1]) - pl.col(NEEDED[0])).dt.total_microseconds() / 60e6
    good = (
        pl.col("PULocationID").is_between(1, 265)
        & pl.col("DOLocationID").is_between(1, 265)
        & pl.col("trip_distance").is_between(0, float("inf"), closed="left")
        & minutes.is_between(1, 60)
    ).fill_null(False)
    trips = pl.scan_parquet(file).select(NEEDED).with_columns(duration_minutes=minutes, good=good)
    if write:
        trips.filter("good").drop("good").sink_parquet(out / "kept.parquet")
        trips.filter(~pl.col("good")).drop("good").sink_parquet(out / "rejected.parquet")
    kept, rows = trips.select(pl.col("good").sum(), pl.len().alias("rows")).collect(engine="streaming").row(0)
    return kept, rows - kept


def tripcast_way(file: Path, out: Path, write: bool) -> tuple[int, int]:
    """Clean as the steps do; counts of kept and rejected rows."""
    from tripcast.months import Month
    from tripcast.storage.store import FolderStore
    from tripcast.taxi.contract import sort_rows, validate
    from tripcast.taxi.ingestion import ingest, prefetch, typed_batches
    from tripcast.taxi.sources import open_source

    source, month = str(file.parent), Month.parse(MONTH)
    if write:
        ingested = ingest(source, "yellow", month, output=out / "typed.parquet", downloads=out, store=FolderStore(out))
        (check,) = validate([ingested], kept=out / "kept", rejected=out / "rejected")
        return check.kept, check.rejected.total()
    kept = rejected = 0
    for good, bad in map(sort_rows, prefetch(typed_batches(open_source(source, out).month("yellow", month), "yellow"))):
        kept, rejected = kept + len(good), rejected + len(bad)
    return kept, rejected


WAYS: dict[str, Callable[[Path, Path, bool], tuple[int, int]]] = {
    "pandas, all columns": lambda file, out, write: pandas_way(file, out, None, write),
    "pandas, `columns=`": lambda file, out, write: pandas_way(file, out, NEEDED, write),
    "polars, lazy": polars_way,
    "tripcast": tripcast_way,
}


def measure_here(way: str, file: Path, write: bool) -> dict[str, Any]:
    """Do it once in this process; imports of the library that does the work are not counted."""
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401

    if "pandas" in way:
        import pandas  # noqa: F401
    if "polars" in way:
        import polars  # noqa: F401
    with tempfile.TemporaryDirectory(dir=file.parent) as out:
        start = time.perf_counter()
        kept, rejected = WAYS[way](file, Path(out), write)
        seconds = time.perf_counter() - start
    # Linux's own high-water mark: getrusage would report the parent's, if that was higher.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return {"kept": kept, "rejected": rejected, "seconds": seconds, "peak": peak}


def main() -> None:
    """Measure every way in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("month", type=Path, help="a published month of the green taxi, parquet")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--once", nargs=2, metavar=("WAY", "WRITE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        way, write = arguments.once
        print(json.dumps(measure_here(way, arguments.month, write == "write")))
        return

    folder = Path(tempfile.mkdtemp(prefix="tripcast-ingest-"))
    try:
        file = folder / f"yellow_tripdata_{MONTH}.parquet"
        make_month(arguments.month, arguments.rows, file)
        print(f"{arguments.rows:,} rows, {file.stat().st_size / 1e6:.0f} MB, medians of {arguments.runs} runs\n")
        ways = [way for way in WAYS if "polars" not in way or _installed("polars")]
        for write, title in (("count", "read and clean, to counts"), ("write", "read, clean and write parquet")):
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
            for _ in range(arguments.runs):
                for way in ways:
                    command = [sys.executable, __file__, str(file), "--once", way, write]
                    found[way].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
            _print_table(title, found)
    finally:
        shutil.rmtree(folder)


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _print_table(title: str, found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"| {title} | seconds | from..to | peak MB | kept | set aside | tripcast is faster by |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    own = statistics.median(run["seconds"] for run in found["tripcast"])
    for way, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        peak, last = max(run["peak"] for run in runs), runs[-1]
        median = statistics.median(seconds)
        times = f"{median / own:.1f}" if way != "tripcast" else ""
        print(
            f"| {way} | {median:.2f} | {min(seconds):.2f}..{max(seconds):.2f} | {peak:,.0f} | {last['kept']:,} "
            f"| {last['rejected']:,} | {times} |"
        )
    print(flush=True)


if __name__ == "__main__":
    main()
