"""What retention removes and leaves: in a folder and in S3, after a kill half way, beside a run that lives."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from pipelines.local.leftovers import alive, running_since
from tests.conftest import make_trips
from tripcast.cli import main
from tripcast.jobs.prune import Pruning, Retention, plan_pruning
from tripcast.jobs.train import train
from tripcast.monitoring.history import History, Window
from tripcast.monitoring.rule import WindowResult
from tripcast.registry.registry import Registry
from tripcast.registry.run_trees import RunTrees
from tripcast.registry.tracking import Tracker
from tripcast.registry.versions import DATA
from tripcast.settings import Settings
from tripcast.storage import store as storage
from tripcast.storage.store import Store, open_store
from tripcast.taxi.pyfunc import flavour

MODEL = "tripcast-green"
#: Late enough for everything that is made here to be old, and the same day for every process that imports this.
LATER = datetime(2100, 1, 1, tzinfo=UTC)
ONE = Retention(days=400, keep=1, log_days=400)


@dataclass
class Place:
    """A home and an artifact store with a little of everything."""

    settings: Settings

    @property
    def store(self) -> Store:
        return open_store(self.settings.artifacts)

    @property
    def registry(self) -> Registry:
        return Registry(MODEL, self.settings)

    @property
    def versions(self) -> list[int]:
        return sorted(version.number for version in self.registry.versions())

    @property
    def snapshots(self) -> str:
        """The first letters of their digests."""
        return "".join(key.removeprefix("snapshots/")[0] for key in self.store.list("snapshots/"))

    @property
    def trainings(self) -> set[str]:
        return {tree.root.info.run_name for tree in RunTrees(MODEL, self.settings)}

    @property
    def everything(self) -> tuple[object, ...]:
        """All that retention could change."""
        files = sorted(
            file.relative_to(self.settings.home).as_posix()
            for file in self.settings.home.rglob("*/*")
            if file.is_file()
        )
        runs = mlflow.MlflowClient(self.settings.tracking_uri).search_runs(["1"])
        return self.versions, self.store.list(""), files, sorted(run.info.run_id for run in runs)

    def plan(self, rule: Retention = ONE, **moments: datetime) -> Pruning:
        return plan_pruning(rule, self.settings, **{"now": LATER, **moments})

    def prune(self) -> None:
        self.plan().carry_out()

    def check_that_the_rest_is_gone(self) -> None:
        assert self.versions == [2, 3, 4, 5, 7]
        # Each version's own month, that which all share, that of the newest training, and that of the newest scores.
        assert self.snapshots == "23457axz"
        assert self.trainings == {"monitoring green", "refused", *(f"training {number}" for number in (2, 3, 4, 5, 7))}

    def check_that_all_can_serve(self) -> None:
        """Champion, challenger and previous load, and their data and runs are there."""
        for alias in ("champion", "challenger", "previous"):
            version = self.registry.alias(alias)
            assert version is not None
            assert version.run_id is not None
            self.registry.load(version)
            for digest in json.loads(version.tags[DATA]).values():
                assert self.store.read(f"snapshots/{digest}.parquet")
            assert (
                mlflow.MlflowClient(self.settings.tracking_uri).get_run(version.run_id).info.lifecycle_stage == "active"
            )


def age(file: Path, days: int) -> None:
    moment = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(file, (moment, moment))


def fill(place: Place, work: Path) -> None:
    """Seven versions, each trained on data of its own and on 'a' that several share, and what was made beside them.

    Version 1 is a champion of once, 2 could serve again, 3 serves, 4 is tried, 5 is named by the newest page of
    monitoring, 6 by an older one, and 7 is the newest.
    """
    store, registry = place.store, place.registry
    for digest in "a1234567wxyz":
        store.write(f"snapshots/{digest * 64}.parquet", b"trips")
    for seed in range(1, 8):
        folder = work / f"model-{seed}"
        data = {"2021-01": "a" * 64, "2021-02": str(seed) * 64}
        train("linear", make_trips(600, seed=seed), taxi="green", data=data).save(folder)
        tracker = Tracker(MODEL, place.settings)
        with tracker.pipeline_run(f"run-{seed}", f"training {seed}") as run_id:
            for month, digest in data.items():
                tracker.log_dataset(run_id, name=month, sha256=digest, location="folder", context="training")
            with tracker.nested_run(run_id, "linear") as nested:
                registry.register(folder, flavour=flavour("green"), run_id=nested, tags={DATA: json.dumps(data)})
        training = f"runs/training-2021-0{seed}-01-00-00-00-000000"
        store.write(f"{training}/artifacts.json", b"[]")
        store.write(f"{training}/evaluate/decision", json.dumps({"run_id": run_id}).encode())
        store.write(f"{training}/evaluate/report", b"a report")
    with Tracker(MODEL, place.settings).pipeline_run("refused", "refused") as run_id:
        Tracker(MODEL, place.settings).log_dataset(
            run_id, name="2021-03", sha256="x" * 64, location="folder", context="training"
        )
    with Tracker(MODEL, place.settings).series("monitoring green"):
        pass
    for number in (1, 2, 3):
        registry.promote(number, "Better.")
    registry.challenger(4, 0.1, "To be tried.")

    for month, version in (("2021-04", 6), ("2021-05", 5)):
        time.sleep(1.1)  # S3 counts seconds
        pages = {name: work / f"{name}-{month}" for name in ("report", "summary")}
        for file in pages.values():
            file.write_text("A page.")
        History(store, "green").record(Window(WindowResult(month, version), "nothing", "All is well."), **pages)
    for month, records in (("2021-04", "y"), ("2021-05", "z")):
        time.sleep(1.1)
        scores = f"scores/green/version=3/month={month}"
        store.write(f"{scores}/part-00000.parquet", b"scores")
        store.write(f"{scores}/_SUCCESS", json.dumps({"records": records * 64}).encode())
    for day in ("2021-02-09", f"{LATER - timedelta(days=400):%Y-%m-%d}", f"{LATER:%Y-%m-%d}"):
        store.write(f"predictions/date={day}/a.parquet", b"rows")
    store.write("truth/green/2021-01.parquet", b"true durations")


@pytest.fixture(scope="module")
def filled(tmp_path_factory, empty_store) -> Path:
    """A home that is its own artifact store; made once because that takes half a minute."""
    home = tmp_path_factory.mktemp("filled") / "home"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    fill(Place(_settings(home)), home.parent)
    shutil.copytree(home, home.parent / "kept", copy_function=shutil.copy2)
    return home


def _settings(home: Path, artifacts: str | None = None) -> Settings:
    return Settings(home, artifacts or str(home), f"sqlite:///{home / 'mlflow.db'}", service_url=None, image="")


@contextmanager
def refilled(home: Path) -> Iterator[Place]:
    """The home as it was: MLflow keeps the paths of its files, and its own file open, so these are always the same."""
    for there in home.iterdir():
        if there.is_dir():
            shutil.rmtree(there)
    kept = home.parent / "kept"
    shutil.copytree(kept, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow.db"))
    with closing(sqlite3.connect(kept / "mlflow.db")) as was, closing(sqlite3.connect(home / "mlflow.db")) as now:
        was.backup(now)
    yield Place(_settings(home))


@pytest.fixture
def place(filled) -> Iterator[Place]:
    with refilled(filled) as place:
        yield place


def test_what_serves_and_all_that_it_rests_on_stays_and_the_rest_goes(place):
    place.prune()

    place.check_that_the_rest_is_gone()
    place.check_that_all_can_serve()
    assert place.store.list("monitoring/") == [
        "monitoring/green/2021-04/window.json",
        *(f"monitoring/green/2021-05/{name}" for name in ("report.html", "summary.md", "window.json")),
    ]
    assert {key.split("/")[3] for key in place.store.list("scores/")} == {"month=2021-05"}
    assert [key.split("/")[1] for key in place.store.list("predictions/")] == [
        f"date={LATER - timedelta(days=400):%Y-%m-%d}",
        f"date={LATER:%Y-%m-%d}",
    ]
    assert place.store.list("truth/") == ["truth/green/2021-01.parquet"]


def test_files_of_what_went_are_gone_from_mlflow_and_its_runs_with_the_report(place):
    client = mlflow.MlflowClient(place.settings.tracking_uri)
    models = {int(v.version): v.source.rpartition("/")[2] for v in client.search_model_versions(f"name = '{MODEL}'")}
    artifacts = place.settings.home / "artifacts" / "models"

    place.prune()

    there = {folder.name for folder in artifacts.iterdir() if any(folder.rglob("MLmodel"))}
    assert there == {models[number] for number in (2, 3, 4, 5, 7)}
    folders = {key.split("/")[1] for key in place.store.list("runs/")}
    assert folders == {f"training-2021-0{number}-01-00-00-00-000000" for number in (2, 3, 4, 5, 7)}
    assert not (place.settings.home / "runs" / "training-2021-01-01-00-00-00-000000").exists()


def test_a_dry_run_changes_nothing_and_says_it_all(place):
    before = place.everything
    arguments = ["prune", "--dry-run", "--keep", "1", "--home", str(place.settings.home)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0
    assert "Would go: 1 day of the log." in done.output
    assert "Stays, version: 3 serves, is tried, could serve again or waits for a person" in done.output
    assert place.everything == before
    found = place.plan()
    assert [item.name for item in found.going if item.kind == "version"] == ["tripcast-green 6", "tripcast-green 1"]
    assert place.everything == before


def test_the_order_is_from_what_points_to_what_is_pointed_to(place):
    kinds = list(dict.fromkeys(item.kind for item in place.plan().going))
    assert kinds == ["page of monitoring", "version", "scores", "training", "snapshot", "day of the log"]


def test_pruning_again_changes_nothing(place):
    place.prune()
    before = place.everything
    assert not place.plan().going
    place.prune()
    assert place.everything == before


def test_what_is_young_stays(place):
    found = place.plan(now=datetime.now(UTC))
    assert [item.kind for item in found.going] == ["day of the log"]


def test_the_newest_stay_however_old(place):
    found = place.plan(Retention(days=400, keep=7, log_days=400))
    assert {item.kind for item in found.going} == {"snapshot", "day of the log"}
    assert found.staying["version"].total() == 7


def test_a_version_that_waits_for_a_person_stays(place):
    place.registry.hold(6, 1.0, "It is better.")
    place.prune()
    assert place.versions == [2, 3, 4, 5, 6, 7]


def test_a_version_that_was_promoted_since_the_plan_was_made_stays(place):
    found = place.plan()
    place.registry.promote(6, "By hand.")
    found.carry_out()
    assert 6 in place.versions
    assert 1 not in place.versions


def test_a_rollback_passes_over_what_is_gone(place):
    place.prune()
    place.registry.rollback("It was worse.")
    assert place.registry.alias("champion").number == 2


def test_what_others_keep_meanwhile_is_young_again(place):
    """A run that ingests a month whose snapshot is there already relies on that one."""
    old = Path(place.store.uri) / "snapshots" / f"{'w' * 64}.parquet"
    age(old, 450)
    now = {"now": datetime.now(UTC)}
    assert [item.name for item in place.plan(**now).going if item.kind == "snapshot"] == [f"snapshots/{old.name}"]
    place.store.write(f"snapshots/{old.name}", b"trips")
    assert not [item for item in place.plan(**now).going if item.kind == "snapshot"]


def test_beside_a_run_that_lives_nothing_goes_that_was_kept_since_it_began(place, tmp_path):
    runs = place.settings.runs
    with alive(runs, "a-run", tmp_path):
        began = running_since(runs)
        assert began is not None
        assert {item.kind for item in place.plan(running_since=began - timedelta(days=1)).going} == {"day of the log"}
        assert {item.kind for item in place.plan(running_since=began).going} >= {"version", "training", "snapshot"}
    assert running_since(runs) is None


def test_a_month_whose_pages_are_gone_can_be_asked_for_again(place, tmp_path):
    place.prune()
    History(place.store, "green").pages("2021-04", tmp_path / "report", tmp_path / "summary")
    assert (tmp_path / "report").read_text() == (
        "The pages of 2021-04 were removed, for they were old. Its record is kept.\n"
    )
    assert [window.month for window in History(place.store, "green").windows()] == ["2021-04", "2021-05"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit import test_prune
from tripcast.jobs import prune

def counting(function):
    def call(*arguments, **named):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **named)
    return call

import mlflow
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from tripcast.registry import run_trees
from tripcast.storage.store import FolderStore
FolderStore.delete = counting(FolderStore.delete)
run_trees._remove_files = counting(run_trees._remove_files)
for name in ("delete_model_version", "delete_logged_model", "delete_run"):
    setattr(mlflow.MlflowClient, name, counting(getattr(mlflow.MlflowClient, name)))
for line in sys.stdin:  # a life each, of which only this process has imported MLflow
    child = os.fork()
    if not child:
        left = int(line)
        test_prune.Place(test_prune._settings(Path(sys.argv[1]))).prune()
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_place_leaves_what_can_serve_and_the_next_one_goes_on(filled):
    with refilled(filled) as place:
        place.prune()
        expected = place.everything
    command = [sys.executable, "-c", KILLED, str(filled)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lives:
        for left in (0, 2, 5, 8, 11, 14, 21):
            with refilled(filled) as place:
                print(left, file=lives.stdin, flush=True)
                assert int(lives.stdout.readline()) == signal.SIGKILL
                place.check_that_all_can_serve()
                place.prune()
                assert place.everything == expected
        lives.stdin.close()


def test_the_files_in_s3_go_and_stay_as_those_in_a_folder(s3, settings, tmp_path):
    s3.create_bucket(Bucket="kept")
    home = settings.home
    place = Place(_settings(home, "s3://kept/tripcast"))
    fill(place, tmp_path)
    assert place.plan(now=datetime.now(UTC)).going[0].kind == "day of the log"

    place.prune()

    place.check_that_the_rest_is_gone()
    place.check_that_all_can_serve()
    assert not place.plan().going


def test_an_object_that_is_kept_again_after_days_is_written_again(s3, tmp_path, monkeypatch):
    s3.create_bucket(Bucket="kept")
    store = open_store("s3://kept")
    store.write("snapshots/a.parquet", b"trips")
    said = s3.head_object(Bucket="kept", Key="snapshots/a.parquet")["Metadata"]
    s3.put_object(Bucket="kept", Key="snapshots/a.parquet", Body=b"other", Metadata=said)
    store.write("snapshots/a.parquet", b"trips")
    assert s3.get_object(Bucket="kept", Key="snapshots/a.parquet")["Body"].read() == b"other"  # kept today already
    monkeypatch.setattr(storage, "_FRESH", timedelta(days=-1))
    store.write("snapshots/a.parquet", b"trips")
    assert s3.get_object(Bucket="kept", Key="snapshots/a.parquet")["Body"].read() == b"trips"


def test_what_a_killed_step_left_for_its_workers_goes_as_soon_as_its_run_cannot_live(settings):
    store = open_store(settings.artifacts)
    for job in ("old", "new"):
        store.write(f"workers/{job}/0/trips.parquet", job.encode())
    age(Path(settings.artifacts, "workers/old/0/trips.parquet"), days=3)
    found = plan_pruning(ONE, settings)
    assert [(item.kind, item.name) for item in found.going] == [("task of workers", "workers/old")]
    found.carry_out()
    assert store.list("workers/") == ["workers/new/0/trips.parquet"]


def test_a_home_where_nothing_was_done_has_nothing_to_remove(settings):
    found = plan_pruning(ONE, settings, now=LATER)
    assert (found.going, found.staying) == ([], {})
    names = [experiment.name for experiment in mlflow.MlflowClient(settings.tracking_uri).search_experiments()]
    assert names == ["Default"]
