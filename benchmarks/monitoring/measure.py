"""Monitor a month of a million logged predictions, two versions at work, from the log to the report.

    python benchmarks/monitoring/measure.py

The month is made first: a simulated one, predicted by a champion and, for a tenth of the riders, a challenger; the
prediction log itself logs it, and the true durations of all trips are put beside. Then the step's own function runs, in
a process of its own, once with the log and once without.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MONTHS = ("2021-01", "2021-02", "2021-03", "2021-04")
WATCHED = "2021-04"


def make(trips: int) -> str:
    """Two registered versions, a month's log and its truth in the home; gives the source of months."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tripcast.jobs.evaluate import PROFILE
    from tripcast.jobs.judge import judged
    from tripcast.jobs.months import load_valid_trips
    from tripcast.jobs.train import train
    from tripcast.monitoring.quality import Expectation, write_expectations
    from tripcast.months import Month
    from tripcast.registry.registry import Registry
    from tripcast.registry.tracking import Tracker
    from tripcast.registry.versions import EXPECTATION
    from tripcast.serving.prediction_log import PredictionLog
    from tripcast.serving.prediction_rows import Answerer
    from tripcast.settings import Settings
    from tripcast.storage.store import open_store
    from tripcast.taxi.bins import profile_trips
    from tripcast.taxi.pyfunc import flavour
    from tripcast.taxi.ways import ways_of

    settings = Settings.load()
    store, registry = open_store(settings.artifacts), Registry("tripcast-green", settings)
    models = []
    for number, month in enumerate(MONTHS[:2], start=1):
        _, learned = load_valid_trips("simulated?trips=50000", "green", Month.parse(month), settings)
        model = train("lightgbm", learned, taxi="green", data={month: "0" * 64})
        folder = settings.home / f"model-{number}"
        model.save(folder)
        prediction, asked = model.predict(learned), ways_of(learned, metered=False)
        profile_trips([learned], [prediction.minutes]).save(folder / PROFILE)
        reached = Expectation.of(judged(learned, asked, prediction, version=number))
        expectation = write_expectations({"planned": reached, "zones_only": reached})
        tags = {"tripcast.train_months": month, "tripcast.test_month": "2021-03", EXPECTATION: expectation}
        with Tracker("tripcast-green", settings).pipeline_run(month, month) as run_id:
            registry.register(folder, flavour=flavour("green"), run_id=run_id, tags=tags)
        models.append(model)
    registry.promote(1, "The first.")
    registry.challenger(2, 0.1, "To be tried.")
    source = f"simulated?trips={trips}"
    _, month = load_valid_trips(source, "green", Month.parse(WATCHED), settings)
    log = PredictionLog(store, settings.home / "spool")
    arms = np.random.default_rng(0).random(len(month)) < 0.1
    ids: list[str] = []
    minutes = []
    for number, arm, rows in ((1, "champion", ~arms), (2, "challenger", arms)):
        asked = np.flatnonzero(rows)
        for start in range(0, len(asked), 10_000):
            part = month[asked[start : start + 10_000]]
            answerer, prediction = Answerer(registry.name, number, arm), models[number - 1].predict(part)
            ids += log.extend(answerer, [None] * len(part), part, ways_of(part, metered=False).tolist(), prediction)
            minutes.append(part.duration_minutes)
    assert log.close(timeout=120).pending == 0
    truth = settings.home / "truth.parquet"
    pq.write_table(pa.table({"prediction_id": ids, "duration_minutes": np.concatenate(minutes)}), truth)
    store.put(truth, f"truth/green/{WATCHED}.parquet")
    return source


def watch(source: str) -> dict[str, float]:
    """Run the step's function: seconds, those of the processor, peak megabytes, how many predictions it judged."""
    started = time.perf_counter()
    from tripcast.jobs.monitor import watch
    from tripcast.monitoring.rule import Rule

    home = Path(os.environ["TRIPCAST_HOME"])
    pages = {"report": home / "report.html", "summary": home / "summary.md"}
    window = watch(source, "green", WATCHED, rule=Rule(), training_months=3, **pages)
    assert window is not None
    judged = sum(quality["trips"] for quality in window.figures["quality"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    seconds, cpu = time.perf_counter() - started, time.process_time()
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak, "judged": judged}


def main() -> None:
    """Make the month, then watch it with its log and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trips", type=int, default=1_070_000, help="records of the month; 94 % of them are sound")
    parser.add_argument("--watch", metavar="SOURCE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        print(json.dumps(watch(arguments.watch)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIPCAST_HOME"] = folder
        for name in ("TRIPCAST_ARTIFACTS", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        source = make(arguments.trips)
        print("| truth from | predictions judged | seconds | CPU seconds | peak MB |\n|---|---:|---:|---:|---:|")
        for name in ("the log", "the month, both versions scored"):
            command = [sys.executable, __file__, "--watch", source]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            figures = f"{found['seconds']:.1f} | {found['cpu_seconds']:.1f} | {found['peak_mb']:,.0f}"
            print(f"| {name} | {found['judged']:,.0f} | {figures} |", flush=True)
            for record in Path(folder, "monitoring").rglob("window.json"):
                record.unlink()
            Path(folder, "truth", "green", f"{WATCHED}.parquet").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
