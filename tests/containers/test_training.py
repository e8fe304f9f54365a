"""The training pipeline in containers, on real object stores, PostgreSQL and MLflow's server."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import mlflow
import pytest

from pipelines.local.containers import Containers
from pipelines.local.runner import run_locally
from pipelines.training import training
from tripcast.errors import StorageError, TrackingError
from tripcast.models import Model
from tripcast.settings import Settings
from tripcast.storage.store import open_store

CITY = "simulated?trips=12000&seed=7"
REQUEST = {"source": CITY, "train_months": "2021-01", "test_month": "2021-02", "candidates": ["lightgbm"]}
COMMAND = [Path(sys.executable).parent / "tripcast", "train", "--runner", "docker", "--json", "--source", CITY]
COMMAND += ["--train", "2021-01", "--test", "2021-02", "--candidates", "lightgbm"]


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def train() -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, capture_output=True, text=True, check=False)


@pytest.fixture
def registered(stack):
    """Gives the numbers of the versions that were registered since."""
    before = {row[0] for row in stack.postgres.rows("select version from model_versions")}

    def since() -> set[int]:
        return {row[0] for row in stack.postgres.rows("select version from model_versions")} - before

    return since


@pytest.fixture
def fresh_registry(stack):
    """No registered model: the first candidate that is good enough is promoted."""
    for model in client().search_registered_models():
        for version in client().search_model_versions(f"name = '{model.name}'"):
            client().delete_model_version(model.name, version.version)
        client().delete_registered_model(model.name)
    return stack


class Interruption:
    """Does something when a step starts."""

    def __init__(self, step: str, action) -> None:
        self._step, self._action = step, action
        self.done = False

    def __call__(self, event) -> None:
        if event.step == self._step and event.state == "started" and not self.done:
            self.done = True
            self._action()


def run_with(*interruptions: Interruption, containers: Containers | None = None):
    def notify(event) -> None:
        for interruption in interruptions:
            interruption(event)

    settings = Settings.load()
    containers = containers or Containers(settings)
    return run_locally(training, REQUEST, settings.runs, notify, containers, open_store(settings.artifacts))


def test_a_step_that_is_killed_fails_the_run_and_the_next_run_leaves_everything_in_the_stores(
    fresh_registry, registered, engine
):
    store, postgres = fresh_registry.store, fresh_registry.postgres
    containers = Containers(Settings.load())

    def kill() -> None:
        def when_it_runs() -> None:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                for container in engine.containers.list(filters={"label": f"tripcast.run={containers.name}"}):
                    container.kill(signal.SIGKILL)
                    return
                time.sleep(0.02)

        threading.Thread(target=when_it_runs).start()

    with pytest.raises(Exception, match="'train lightgbm' failed: it was ended by signal SIGKILL"):
        run_with(Interruption("train", kill), containers=containers)
    assert registered() == set()

    ended = train()

    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["decision"] == "promoted"

    # In the bucket: every artifact under its step, listed with hashes that its bytes have.
    run = summary["artifacts"].removeprefix("s3://tripcast/")
    listing = json.loads(store.client().get_object(Bucket="tripcast", Key=f"{run}/artifacts.json")["Body"].read())
    assert {(entry["step"].split("/")[-1], entry["name"]) for entry in listing} >= {
        ("ingest", "records"),
        ("validate", "train_trips"),
        ("validate", "test_trips"),
        ("train", "model"),
        ("evaluate", "winner"),
        ("evaluate", "report"),
        ("evaluate", "decision"),
    }
    listed = {f"{run}/artifacts.json"}
    for entry in listing:
        for name, digest in entry["files"].items():
            key = entry["uri"].removeprefix("s3://tripcast/")
            key = key if name == entry["name"] else f"{key}/{name}"
            body = store.client().get_object(Bucket="tripcast", Key=key)["Body"].read()
            assert sha256(body).hexdigest() == digest
            listed.add(key)
    assert set(store.objects("tripcast", run)) == listed

    # Snapshots of the months, under the hash that the run's record names.
    hashes = {entry["metadata"]["sha256"] for entry in listing if entry["name"] == "records"}
    assert set(store.objects("tripcast", "stack/snapshots/")) == {f"stack/snapshots/{one}.parquet" for one in hashes}

    # The report, as a browser would get it.
    (report,) = (entry for entry in listing if entry["name"] == "report")
    page = store.client().get_object(Bucket="tripcast", Key=report["uri"].removeprefix("s3://tripcast/"))
    assert page["ContentType"].startswith("text/html")
    assert "lightgbm" in page["Body"].read().decode()

    # In PostgreSQL: the runs and the version. In MLflow's bucket: the model and the report.
    assert registered() == {summary["version"]}
    assert postgres.rows(f"select status from runs where run_uuid = '{summary['run_id']}'") == [("FINISHED",)]
    version = client().get_model_version_by_alias("tripcast-green", "champion")
    assert int(version.version) == summary["version"]
    image = engine.images.get("tripcast/pipeline:0.1.0").id
    assert version.tags["tripcast.image"].endswith(image)
    files = store.objects("mlflow")
    assert any(file.endswith("data/model/manifest.json") for file in files)
    assert any(file.endswith("report.html") for file in files)

    # And the model that serves is the one that the run made.
    (winner,) = (entry for entry in listing if entry["name"] == "winner")
    artifacts, folder = open_store("s3://tripcast"), Path(os.environ["TRIPCAST_HOME"]) / "fetched"
    for name in winner["files"]:
        artifacts.get(f"{winner['uri'].removeprefix('s3://tripcast/')}/{name}", folder / name)
    assert Model.load(folder).digest == version.tags["tripcast.digest"]


def test_steps_need_no_network_but_the_stores(fresh_registry, isolated_network, monkeypatch):
    network, host = isolated_network
    for name, value in fresh_registry.environment(host).items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()

    run = run_locally(
        training,
        REQUEST,
        settings.runs,
        lambda event: None,
        Containers(settings, network=network),
        open_store("s3://tripcast"),
    )

    assert run.output("register")["Output"] == int(
        client().get_model_version_by_alias("tripcast-green", "champion").version
    )


def test_servers_that_are_restarted_do_not_fail_the_run(fresh_registry):
    def restarted(server) -> None:
        server.stop()
        threading.Timer(4, server.start).start()

    interruptions = [
        Interruption("ingest", lambda: restarted(fresh_registry.store)),
        Interruption("train", lambda: restarted(fresh_registry.store)),
        Interruption("evaluate", lambda: restarted(fresh_registry.mlflow)),
    ]
    run = run_with(*interruptions)

    assert all(interruption.done for interruption in interruptions)
    assert run.output("register")["Output"] == int(
        client().get_model_version_by_alias("tripcast-green", "champion").version
    )


@pytest.mark.parametrize(
    ("server", "step", "sentence"),
    [
        ("store", "ingest", "s3://tripcast/stack/.* cannot be stored"),
        ("mlflow", "evaluate", "MLflow at .* failed while"),
    ],
)
def test_a_server_that_stays_away_fails_the_run_and_nothing_is_half_registered(
    fresh_registry, registered, server, step, sentence, monkeypatch
):
    stopped = getattr(fresh_registry, server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the patience itself is the test above
    try:
        with pytest.raises((StorageError, TrackingError), match=sentence):
            run_with(Interruption(step, stopped.stop))
    finally:
        stopped.start()

    assert registered() == set()


def test_wrong_credentials_end_the_run_before_any_work(stack, registered, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

    ended = train()

    assert ended.returncode == 1
    assert "SignatureDoesNotMatch" in ended.stderr
    assert "Check AWS_SECRET_ACCESS_KEY" in ended.stderr
    assert "ingest" not in ended.stderr
    assert registered() == set()


def test_a_missing_bucket_ends_the_run_before_any_work(stack, monkeypatch):
    monkeypatch.setenv("TRIPCAST_ARTIFACTS", "s3://no-such-bucket")

    ended = train()

    assert ended.returncode == 1
    assert "Create the bucket no-such-bucket" in ended.stderr
    assert "ingest" not in ended.stderr


def test_an_mlflow_that_is_not_there_ends_the_run_before_any_work(stack, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    ended = train()

    assert ended.returncode == 1
    assert "No MLflow server answers at http://127.0.0.1:9" in ended.stderr
    assert "ingest" not in ended.stderr


def test_a_full_disk_in_a_container_is_named(stack, registered, small_disk, monkeypatch):
    monkeypatch.setenv("TRIPCAST_HOME", str(small_disk))
    monkeypatch.setitem(REQUEST, "source", "simulated?trips=60000&seed=7")

    with pytest.raises(StorageError, match=r"cannot be written: .*No space left on device.*MB free there"):
        run_with()

    assert registered() == set()
