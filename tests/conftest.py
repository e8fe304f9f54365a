import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import mlflow
import numpy as np
import pytest
import requests
from moto.server import ThreadedMotoServer
from xdist.scheduler import LoadFileScheduling

from tripcast.jobs.train import train
from tripcast.settings import Settings
from tripcast.taxi.trips import Trips


class OneProcessForContainers(LoadFileScheduling):
    """A file of tests is one process's work, and so is all of tests/containers, which looks at what others leave.

    After it that process takes tests/browser: Chromium drops what it is loading when a container changes the machine's
    network.
    """

    def _split_scope(self, nodeid: str) -> str:
        alone = nodeid.startswith(("tests/containers/", "tests/browser/"))
        return "tests/containers" if alone else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log) -> LoadFileScheduling:
    return OneProcessForContainers(config, log)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow store with its tables and nothing in them, made once because that takes seconds."""
    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}").search_experiments()
    return store


@pytest.fixture
def settings(tmp_path, monkeypatch, empty_store) -> Settings:
    """A home of its own, with an empty store."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    monkeypatch.setenv("TRIPCAST_HOME", str(home))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "TRIPCAST_COMMIT", "TRIPCAST_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    return Settings.load()


def make_trips(count: int = 3000, seed: int = 0) -> Trips:
    """Trips among eight zones in January 2021 whose durations follow from distance, zones and noise."""
    random = np.random.default_rng(seed)
    pickup, dropoff = random.choice([41, 42, 74, 75, 116, 166, 236, 244], (2, count)).astype(np.int16)
    miles = random.gamma(2.0, 1.5, count)
    minutes = np.clip(3 + 3.5 * miles + (pickup % 5) + random.normal(0, 2, count), 1, 60)
    seconds = np.sort(random.integers(0, 31 * 86_400, count))
    return Trips(np.datetime64("2021-01-01", "us") + seconds.astype("timedelta64[s]"), pickup, dropoff, miles, minutes)


@pytest.fixture
def make_model(tmp_path) -> Callable[[int], Path]:
    """Makes the folder of a trained model; another seed makes another model."""

    def make(seed: int) -> Path:
        folder = tmp_path / f"model-{seed}"
        if not folder.exists():
            train("linear", make_trips(seed=seed), taxi="green", data={"2021-01": f"{seed:064d}"}).save(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an endpoint without buckets, which the standard AWS environment names."""
    requests.post(f"{s3_endpoint}/moto-api/reset", timeout=10).raise_for_status()
    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    return boto3.client("s3")


@pytest.fixture(scope="session")
def tlc() -> Path:
    """Folder of the publisher's months. Tests that ask for it take part where TRIPCAST_TLC_DIR names one."""
    return Path(os.environ["TRIPCAST_TLC_DIR"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "TRIPCAST_TLC_DIR" in os.environ:
        return
    real = [item for item in items if "tlc" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=real)
    items[:] = [item for item in items if item not in real]
