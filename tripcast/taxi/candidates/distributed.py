"""Growing boosted trees on several machines: LightGBM's own distributed learning, each worker with some of the trips.

Whoever trains learns the tables and the boundaries of the bins, and deals the trips out, one by one. Each worker
holds its share alone; they add up their histograms (LightGBM's data-parallel learner), so that all grow the same trees,
and worker 0 writes them. As a worker: ``python -m tripcast.taxi.candidates.distributed TASK WORKER ADDRESSES``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa

from tripcast.models.workers import Workers
from tripcast.storage.arrow import parquet_writer
from tripcast.taxi.candidates.boosting import Bins, grow, load_bins
from tripcast.taxi.features import OutOfFold
from tripcast.taxi.trip_files import TripFiles, trips_schema
from tripcast.taxi.trips import TripBatches

#: Minutes that workers wait for each other.
_TIME_OUT = 10


def grow_by_workers(
    features: OutOfFold,
    trips: TripBatches,
    parameters: Mapping[str, Mapping[str, Any]],
    bins: Bins,
    workers: Workers,
) -> dict[str, bytes]:
    """The trees of each way, as ``grow`` grows them here.

    Raises:
        WorkerError: If a worker dies.
    """
    with TemporaryDirectory(prefix="tripcast-training-") as folder:
        task = Path(folder)
        (task / "parameters.json").write_text(json.dumps(parameters))
        features.save(task / "features")
        for way in parameters:
            bins(way).save_binary(str(task / f"{way}.bins"))
        with ExitStack() as stack:
            shares = [
                stack.enter_context(parquet_writer(task / str(rank) / "trips.parquet", trips_schema()))
                for rank in range(workers.number)
            ]
            for batch in trips.batches():
                for rank, share in enumerate(shares):
                    columns = [getattr(batch, name)[rank :: workers.number] for name in trips_schema().names]
                    share.write_table(pa.table(columns, schema=trips_schema()))
        workers.run(__name__, task)
        return {file.stem: file.read_bytes() for file in task.glob("0/*.trees")}


def main(folder: str, worker: str, addresses: str) -> None:
    """Work as one of the workers."""
    task, machines = Path(folder), addresses.split(",")
    features = OutOfFold.load(task / "features")
    trips = TripFiles([task / worker / "trips.parquet"])
    # Before there is a network, by which LightGBM would deal them out.
    bins = {file.stem: load_bins(file) for file in task.glob("*.bins")}
    # LightGBM has a network for a process, which belongs to a booster.
    nothing = lightgbm.Dataset(np.zeros((2, 1)), np.zeros(2), params={"verbose": -1})
    network = lightgbm.Booster({"verbose": -1}, nothing)
    port = int(machines[int(worker)].rpartition(":")[2])
    network.set_network(machines, port, _TIME_OUT, len(machines))
    parameters = json.loads((task / "parameters.json").read_text())
    learner = {"tree_learner": "data", "num_machines": len(machines)}
    trees = grow(features, trips, parameters, bins.__getitem__, learner)
    if worker == "0":
        for way, text in trees.items():
            (task / worker / f"{way}.trees").write_bytes(text)
    network.free_network()


if __name__ == "__main__":
    main(*sys.argv[1:])
