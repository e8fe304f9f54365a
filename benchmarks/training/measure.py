"""Train `lightgbm` on ten million trips: tripcast beside the bare booster on a ready matrix of the same features.

    python benchmarks/training/measure.py FOLDER [--rows ROWS]

FOLDER holds the publisher's green months of 2021-01 and 2021-02. Every measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tripcast.taxi.trips import PICKUP_COLUMNS, TARGET, Trips

MONTHS = ("2021-01", "2021-02")


def published(folder: Path) -> Trips:
    """The kept trips of both months."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["lpep_pickup_datetime", "lpep_dropoff_datetime", "PULocationID", "DOLocationID", "trip_distance"]
    table = pa.concat_tables(
        pq.read_table(folder / f"green_tripdata_{month}.parquet", columns=names) for month in MONTHS
    )
    pickup, dropoff, start, end, miles = (column.to_numpy() for column in table.columns)
    minutes = (dropoff - pickup) / np.timedelta64(1, "m")
    trips = Trips(pickup.astype("M8[us]"), start.astype(np.int16), end.astype(np.int16), miles, minutes)
    return trips[(minutes >= 1) & (minutes <= 60)]


def make_trips(folder: Path, rows: int, work: Path) -> None:
    """Write trips drawn again from the published ones, moved in time, distance and duration, one file a column."""
    random = np.random.default_rng(0)
    trips = published(folder)
    drawn = trips[random.integers(0, len(trips), rows)]
    longer = random.uniform(0.9, 1.1, rows)
    columns = {
        "pickup_datetime": drawn.pickup_datetime + random.integers(-600, 600, rows).astype("timedelta64[s]"),
        "pickup_zone": drawn.pickup_zone,
        "dropoff_zone": drawn.dropoff_zone,
        "trip_distance_miles": np.round(drawn.trip_distance_miles * longer, 2),
        TARGET: np.clip(drawn.duration_minutes * longer * random.uniform(0.95, 1.05, rows), 1, 60),
    }
    for name, values in columns.items():
        np.save(work / f"{name}.npy", values)


def read_trips(work: Path) -> Trips:
    """The trips as a training step has them: columns in memory."""
    return Trips(**{name: np.load(work / f"{name}.npy") for name in (*PICKUP_COLUMNS, TARGET)})


def peak_megabytes() -> float:
    """The most memory that this process has had, by the kernel's count."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def tripcast_way(work: Path) -> dict[str, Any]:
    """Trips in memory to a model: rehearsal, calibration, features out of fold, booster."""
    from tripcast.jobs.train import train

    trips = read_trips(work)
    before = time.perf_counter()
    model = train("lightgbm", trips, taxi="green", data={})
    seconds = time.perf_counter() - before
    return {"seconds": seconds, "peak": peak_megabytes(), "parameters": model.manifest.parameters}


def write_matrix(work: Path) -> dict[str, Any]:
    """Write the features of all trips as one matrix: what the bare booster is given for nothing."""
    from tripcast.taxi.features import FEATURES, OutOfFold

    trips = read_trips(work)
    features = OutOfFold(trips)
    matrix = np.lib.format.open_memmap(
        work / "matrix.npy", mode="w+", dtype=np.float32, shape=(len(trips), len(FEATURES))
    )
    for start in range(0, len(trips), 500_000):
        matrix[start : start + 500_000] = features(trips[start : start + 500_000])
    return {}


def bare_way(work: Path) -> dict[str, Any]:
    """The same booster on the ready matrix: dataset and rounds, nothing else."""
    import lightgbm

    from tripcast.taxi.candidates.boosted import DEFAULTS
    from tripcast.taxi.candidates.boosting import _FIXED

    matrix, minutes = np.load(work / "matrix.npy"), np.load(work / f"{TARGET}.npy")
    parameters = {**_FIXED, **{name: value for name, value in DEFAULTS.items() if name != "rounds"}}
    before = time.perf_counter()
    lightgbm.train(parameters, lightgbm.Dataset(matrix, minutes), num_boost_round=DEFAULTS["rounds"])
    return {"seconds": time.perf_counter() - before, "peak": peak_megabytes()}


WAYS = {"tripcast": tripcast_way, "bare booster": bare_way, "matrix": write_matrix}


def measure(way: str, work: Path) -> dict[str, Any]:
    """Run a way in a process of its own."""
    command = [sys.executable, __file__, str(work), "--way", way]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="folder of the publisher's green months 2021-01 and 2021-02")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(WAYS[arguments.way](arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_trips(arguments.folder, arguments.rows, work)
        measure("matrix", work)
        bare, ours = measure("bare booster", work), measure("tripcast", work)
    print(f"| {arguments.rows:,} trips | seconds | peak MB |\n|---|---:|---:|")
    print(f"| bare booster, matrix ready | {bare['seconds']:.1f} | {bare['peak']:,.0f} |")
    print(f"| tripcast, from trips | {ours['seconds']:.1f} | {ours['peak']:,.0f} |")
    print(f"| ratio | {ours['seconds'] / bare['seconds']:.2f} | |")


if __name__ == "__main__":
    main()
