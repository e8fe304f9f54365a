"""The service as its users meet it: a process of its own, on a real MLflow store."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pytest

from tests.conftest import make_trips
from tests.parts import free_port, wait_for
from tripcast.jobs.train import train
from tripcast.models import Model
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.registry.versions import DIGEST
from tripcast.settings import Settings
from tripcast.taxi.candidates.linear import Linear
from tripcast.taxi.pyfunc import flavour

TOKEN = "only-for-tests"

#: A trip of the pair 74 to 236, which is that of the known trip, and a longer one.
TRIP = {
    "pickup_zone": 74,
    "dropoff_zone": 236,
    "trip_distance_miles": 2.3,
    "pickup_datetime": "2021-01-20T08:15:00",
}
LONG_TRIP = {**TRIP, "trip_distance_miles": 90.0}


def settings_in(home: Path) -> Settings:
    """Those of a laptop whose home is a folder."""
    tracking_uri = f"sqlite:///{home / 'mlflow.db'}"
    return Settings(home=home, artifacts=str(home), tracking_uri=tracking_uri, service_url=None, image="none")


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Model folders by what they are like."""
    trips = make_trips()
    boosted = train("lightgbm", trips, taxi="green", data={"2021-01": "1" * 64})
    linear = train("linear", trips, taxi="green", data={"2021-01": "2" * 64})
    predictor = linear.predictor
    assert isinstance(predictor, Linear)
    nowhere = np.full_like(predictor.minutes, np.nan)
    known_pair_only = np.where(predictor.pairs == 74 * 266 + 236, predictor.minutes, np.nan)
    huge = dataclasses.replace(predictor, per_mile=4e306)
    made = {
        "boosted": boosted,
        "linear": linear,
        "never finite": _with(linear, dataclasses.replace(predictor, minutes=nowhere)),
        "finite on the known trip only": _with(linear, dataclasses.replace(predictor, minutes=known_pair_only)),
        "finite on short trips only": _with(linear, huge),
        "malformed": Model(dataclasses.replace(boosted.manifest, trips=2999), boosted.predictor),
        "damaged": _with(linear, dataclasses.replace(predictor, intercept=predictor.intercept + 1)),
    }
    folders = {name: tmp_path_factory.mktemp("models") / name.replace(" ", "-") for name in made}
    for name, folder in folders.items():
        made[name].save(folder)
    (folders["boosted"] / "model_card.html").write_text("<!DOCTYPE html><p>The card of the boosted model.</p>")
    return folders


def _with(model: Model, predictor: Linear) -> Model:
    """The model with another predictor."""
    files = {name: sha256(content).hexdigest() for name, content in predictor.files().items()}
    return Model(dataclasses.replace(model.manifest, files=files), predictor)


@pytest.fixture(scope="session")
def registered(tmp_path_factory, empty_store, models) -> tuple[Path, dict[str, int]]:
    """A store in which all models are registered and none serves, and the models' versions."""
    home = tmp_path_factory.mktemp("registered")
    store = home / "mlflow.db"
    shutil.copy(empty_store, store)
    settings = settings_in(home)
    registry, versions = Registry("tripcast-green", settings), {}
    for name, folder in models.items():
        with Tracker("tripcast-green", settings).pipeline_run(name, name) as run_id:
            tags = {"tripcast.rmse": "5.19", "tripcast.notebook_rmse": "7.76", "tripcast.test_month": "2021-02"}
            if name == "boosted":
                tags["tripcast.simulated"] = "true"
            versions[name] = registry.register(folder, flavour=flavour("green"), run_id=run_id, tags=tags).number
    for file in (home / "artifacts").rglob("coefficients.csv"):
        if file.read_bytes() == next(models["damaged"].glob("coefficients.csv")).read_bytes():
            file.write_bytes(b"term,minutes\n")
    client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
    client.set_model_version_tag(registry.name, str(versions["malformed"]), DIGEST, _malform(home / "artifacts"))
    return store, versions


def _malform(artifacts: Path) -> str:
    """Make trees that LightGBM ends the process on of the model that is to have them; returns its digest."""
    manifest = next(file for file in artifacts.rglob("manifest.json") if b'"trips": 2999,' in file.read_bytes())
    trees = manifest.with_name("booster.txt")
    whole = trees.read_bytes()
    trees.write_bytes(re.sub(rb"num_leaves=\d+", b"num_leaves=900", whole, count=1))
    old, new = (sha256(content).hexdigest().encode() for content in (whole, trees.read_bytes()))
    manifest.write_bytes(manifest.read_bytes().replace(old, new))
    return sha256(manifest.read_bytes()).hexdigest()


@dataclass
class Answering:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path
    output: Path

    def predict(self, trip: dict[str, object] = TRIP) -> dict[str, object]:
        answer = self.client.post("/predict", json=trip)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def reload(self) -> dict[str, object]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        while (answer := self.client.post("/reload", headers=headers)).status_code == 504:
            continue  # on a busy machine the registry takes its time
        assert answer.status_code in (200, 503), answer.text
        return answer.json()

    def metric(self, name: str) -> float:
        """The value of a metric by its full name, labels included; 0 where there is none."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.rpartition(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        return 0.0

    @property
    def poller(self) -> int | None:
        """The process id of the poller, if there is one at the moment."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None


@dataclass
class Home:
    """A home with a registry of its own."""

    folder: Path
    versions: dict[str, int]

    @property
    def store(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def registry(self) -> Registry:
        return Registry("tripcast-green", settings_in(self.folder))

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=f"sqlite:///{self.store}")

    def start(self, *, ready: bool = True) -> Answering:
        """Start a service, and wait until it answers; until it has a champion, if it is to be ready."""
        port = free_port()
        log, output = self.folder / "log", self.folder / "output.txt"
        code = f"from tripcast.taxi.web.server import serve; serve('127.0.0.1', {port}, {str(log)!r})"
        environment = {
            **os.environ,
            "TRIPCAST_HOME": str(self.folder),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.store}",
            "TRIPCAST_ADMIN_TOKEN": TOKEN,
            "TRIPCAST_COMMIT": "none",
        }
        with output.open("ab") as sink:
            process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=sink, stderr=sink)
        service = Answering(process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20), log, output)
        try:
            wait_for(lambda: _status(service, "/readyz" if ready else "/healthz") == 200, output)
        except AssertionError:
            process.kill()
            raise
        return service


def _status(service: Answering, path: str) -> int | None:
    try:
        return service.client.get(path).status_code
    except httpx.TransportError:
        assert service.process.poll() is None, service.output.read_text()
        return None


@pytest.fixture(scope="session")
def new_home(tmp_path_factory, registered) -> Callable[[], Home]:
    """Makes homes whose registry holds all models, version 1 being the champion."""
    store, versions = registered

    def make() -> Home:
        home = Home(tmp_path_factory.mktemp("home"), versions)
        shutil.copy(store, home.store)
        return home

    return make


@pytest.fixture
def home(new_home) -> Home:
    return new_home()


@pytest.fixture(scope="module")
def start_in() -> Iterator[Callable[..., Answering]]:
    """Starts services, and ends those that are left when a module ends: each polls the registry until then."""
    started: list[Answering] = []

    def start(home: Home, **how: bool) -> Answering:
        started.append(home.start(**how))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
    for service in started:
        service.process.wait(20)
        service.client.close()


@pytest.fixture(scope="module")
def service(new_home, start_in) -> Answering:
    """A champion, and beside it a challenger that answers three of ten riders."""
    home = new_home()
    home.registry.promote(home.versions["boosted"], "It is the first.")
    home.registry.challenger(home.versions["linear"], 0.3, "To compare.")
    return start_in(home)


@pytest.fixture(scope="module")
def running(new_home, start_in) -> tuple[Home, Answering]:
    """A service with version 1 as champion, in a home of its own."""
    home = new_home()
    home.registry.promote(home.versions["boosted"], "It is the first.")
    return home, start_in(home)


@pytest.fixture
def fresh(running) -> tuple[Home, Answering]:
    """The same before each test: version 1 alone."""
    home, service = running
    home.registry.promote(home.versions["boosted"], "As at first.")
    if home.registry.alias("challenger"):
        home.registry.withdraw("As at first.")
    wait_for(lambda: (said := service.reload())["champion"]["version"] == 1 and said["challenger"] is None)
    return home, service
