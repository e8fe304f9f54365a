"""Training by several worker processes: as good as by one, a share of the trips each, and an end when one dies."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_trips
from tests.parts import wait_for
from tripcast.errors import WorkerError
from tripcast.jobs.train import train
from tripcast.models.workers import Workers
from tripcast.taxi.candidates import lightgbm
from tripcast.taxi.ways import METERED, as_asked

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_trees")]

DATA = {"2021-01": "cd" * 32}


class Watched(Workers):
    """Keeps what the workers were given."""

    def run(self, module, task):
        super().run(module, task)
        self.shares = [pq.read_table(file) for file in sorted(task.glob("*/trips.parquet"))]


def test_two_workers_train_a_model_as_good_as_one_and_the_same_again():
    trips, later = make_trips(12_000), make_trips(4000, seed=1)
    workers = Watched(2)
    one = train("lightgbm", trips, taxi="green", data=DATA)
    two, again = (train("lightgbm", trips, taxi="green", data=DATA, workers=workers) for _ in range(2))
    assert two.digest == again.digest != one.digest
    assert two.manifest.parameters == one.manifest.parameters
    for way, asked in as_asked(later).items():
        errors = (model.predict(asked, way == METERED).minutes - later.duration_minutes for model in (one, two))
        alone, together = (np.sqrt(np.mean(error**2)) for error in errors)
        assert together == pytest.approx(alone, rel=0.005)
    assert [len(share) for share in workers.shares] == [6000, 6000]
    durations = np.concatenate([share["duration_minutes"].to_numpy() for share in workers.shares])
    np.testing.assert_array_equal(np.sort(durations), np.sort(trips.duration_minutes))


def children() -> dict[str, int]:
    """The workers of this process by their number."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent == os.getpid() and "tripcast.taxi.candidates.distributed" in words:
            found[words[4]] = int(process.name)
    return found


def test_a_worker_that_is_killed_ends_the_training_with_a_sentence_and_the_other_worker(monkeypatch):
    monkeypatch.setitem(lightgbm.DEFAULTS, "rounds", 100_000)
    parameters = {**lightgbm.DEFAULTS, "level": 1.0, "planned_level": 1.0, "zones_level": 1.0}
    raised = []

    def run():
        try:
            lightgbm.fit(make_trips(3000), parameters, Workers(2))
        except WorkerError as error:
            raised.append(str(error))

    training = threading.Thread(target=run)
    training.start()
    wait_for(lambda: len(children()) == 2)
    time.sleep(5)  # some have begun to boost by then; before or after that, the end is the same
    os.kill(children()["1"], signal.SIGKILL)
    training.join(timeout=120)
    assert raised == [
        "Worker 2 of 2 was ended by SIGKILL, which the kernel does where memory is short, and the training with it. "
        "Train again, with more memory or more workers."
    ]
    assert children() == {}


def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(WorkerError, match=r"Worker . of 2 failed, and the training with it: .*No module named nothing"):
        Workers(2).run("nothing", tmp_path)
