"""What each step costs as months grow: processor seconds and peak memory, on simulated yellow trips.

    python benchmarks/scale/measure.py [--trips 100000,1000000,3000000] [--months 1]

A month of each size is made first and written as the publisher would write it. Every step is then run by itself, in a
process of its own, as its component calls the library. Seconds are of the processor (user and system), which other
processes on the machine disturb less than the clock; memory is the most that the kernel counted. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tripcast.months import Month, parse_months

TAXI = "yellow"
FIRST = Month.parse("2021-01")


def months(count: int) -> list[Month]:
    """That many training months and the month to judge on, in time order."""
    ordinal = FIRST.year * 12 + FIRST.month - 1 + count
    return parse_months(f"{FIRST}..{ordinal // 12:04d}-{ordinal % 12 + 1:02d}")


def simulate(work: Path, trips: int, count: int) -> None:
    """Write the months as the publisher would: parquet with all of its columns."""
    import pyarrow.parquet as pq

    from tripcast.taxi.simulation import SCHEMAS, City

    source = work / "source"
    source.mkdir(parents=True)
    for month in months(count):
        with pq.ParquetWriter(source / f"{TAXI}_tripdata_{month}.parquet", SCHEMAS[TAXI], compression="zstd") as writer:
            for batch in City(trips=trips).month(TAXI, month):
                writer.write_batch(batch)


def ingest(work: Path, trips: int, count: int) -> None:
    """One month, the last: the others cost the same."""
    _ingest(work, months(count)[-1])


def _ingest(work: Path, month: Month) -> None:
    from tripcast.storage.store import open_store
    from tripcast.taxi.ingestion import ingest as ingest_month

    ingest_month(
        str(work / "source"),
        TAXI,
        month,
        output=work / "ingested" / f"{month}.parquet",
        downloads=work / "downloads",
        store=open_store(str(work / "artifacts")),
    )


def ingest_others(work: Path, trips: int, count: int) -> None:
    """The months that the later steps need beside the one that was measured."""
    for month in months(count)[:-1]:
        _ingest(work, month)


def validate(work: Path, trips: int, count: int) -> None:
    """All months."""
    from tripcast.jobs.handover import write_months
    from tripcast.taxi import contract
    from tripcast.taxi.ingestion import Ingested

    ingested = [Ingested.open(work / "ingested" / f"{month}.parquet") for month in months(count)]
    checks = contract.validate(ingested, kept=work / "train", rejected=work / "rejected")
    contract.move_test_month(checks[-1], work / "test")
    write_months(work / "train", [check.used("train") for check in checks[:-1]])
    write_months(work / "test", [checks[-1].used("test")])


def train(work: Path, trips: int, count: int) -> None:
    """`lightgbm` on all training months."""
    from tripcast.jobs.train import train_from_files

    train_from_files("lightgbm", work / "train", work / "model", taxi=TAXI, data=_digests(work), trials=1)


def linear(work: Path, trips: int, count: int) -> None:
    """`linear` on all training months."""
    from tripcast.jobs.train import train_from_files

    train_from_files("linear", work / "train", work / "linear", taxi=TAXI, data=_digests(work), trials=1)


def _digests(work: Path) -> dict[str, str]:
    from tripcast.jobs.handover import read_months

    return {month.month: month.digest for month in read_months(work / "train")}


def evaluate(work: Path, trips: int, count: int) -> None:
    """Both candidates on the test month: scores, decision, report, MLflow."""
    from tripcast.jobs.evaluate import Candidate, select, track
    from tripcast.jobs.handover import Trained, to_metadata

    candidates = [Candidate.open(work / name, Trained(name, 0.0)) for name in ("linear", "model")]
    selection = select(TAXI, "scale", candidates, train_trips=work / "train", test_trips=work / "test")
    run_id = track(selection, report=work / "report.html", summary=work / "summary.md", document=work / "decision.json")
    (work / "winner.json").write_text(json.dumps(to_metadata(selection.hand_on_winner(work / "winner", run_id))))


def register(work: Path, trips: int, count: int) -> None:
    """The winner, for `score` to have a version."""
    from tripcast.jobs.handover import Winner, from_metadata
    from tripcast.registry.registry import Registry
    from tripcast.settings import Settings
    from tripcast.taxi import model_name
    from tripcast.taxi.pyfunc import flavour

    winner = from_metadata(Winner, json.loads((work / "winner.json").read_text()))
    Registry(model_name(TAXI), Settings.load()).register(
        work / "winner", flavour=flavour(TAXI), run_id=winner.run_id, tags=winner.tags
    )


def score(work: Path, trips: int, count: int) -> None:
    """The winner on all records of the last month."""
    from tripcast.jobs.score import score as score_month
    from tripcast.registry.registry import Registry
    from tripcast.settings import Settings
    from tripcast.storage.store import open_store
    from tripcast.taxi import model_name

    month = months(count)[-1]
    records, store = work / "ingested" / f"{month}.parquet", open_store(str(work / "artifacts"))
    score_month(Registry(model_name(TAXI), Settings.load()), 1, month, records, work / "scores", store)


#: In the order in which they run; None where nobody asks what it costs.
STEPS: dict[str, tuple[Callable[[Path, int, int], None], str | None]] = {
    "simulate": (simulate, None),
    "ingest": (ingest, "ingest, a month"),
    "ingest_others": (ingest_others, None),
    "validate": (validate, "validate, all months"),
    "linear": (linear, "train `linear`"),
    "train": (train, "train `lightgbm`"),
    "evaluate": (evaluate, "evaluate"),
    "register": (register, None),
    "score": (score, "score, a month"),
}


def run(step: str, work: Path, trips: int, count: int) -> dict[str, Any]:
    """Run a step in a process of its own, on one thread."""
    command = [sys.executable, __file__, "--step", step, "--work", str(work), "--trips", str(trips)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TRIPCAST_HOME": str(work / "home"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{work / 'mlflow.db'}",
    }
    ended = subprocess.run(
        [*command, "--months", str(count)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def measure_here(step: str, work: Path, trips: int, count: int) -> dict[str, Any]:
    """Run a step in this process: its processor seconds, imports and all, and its peak memory in MB."""
    STEPS[step][0](work, trips, count)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1024}


def main() -> None:
    """Measure, and print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trips", default="100000,1000000,3000000", help="rows of a month, one size or several")
    parser.add_argument("--months", type=int, default=1, help="training months; one more is judged on")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure_here(arguments.step, arguments.work, int(arguments.trips), arguments.months)))
        return
    for trips in map(int, arguments.trips.split(",")):
        print(f"\n| {arguments.months} x {trips:,} trips | processor s | peak MB |\n|---|---:|---:|", flush=True)
        with TemporaryDirectory() as folder:
            for step, (_, label) in STEPS.items():
                found = run(step, Path(folder) / "work", trips, arguments.months)
                if label:
                    print(f"| {label} | {found['seconds']:.1f} | {found['megabytes']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
