"""The loop without its pipelines, whose parts are called as the steps call them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import make_trips
from tripcast import http
from tripcast.jobs.deploy import roll_out
from tripcast.jobs.evaluate import Candidate, Selection, renew_expectation, select, track
from tripcast.jobs.handover import Trained, write_months
from tripcast.jobs.monitor import watch
from tripcast.jobs.refit import learn_latest
from tripcast.jobs.respond import Response, respond
from tripcast.jobs.train import train, train_from_files
from tripcast.monitoring.history import History, Window
from tripcast.monitoring.rule import Rule
from tripcast.months import Month, parse_months
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.storage.store import Store, open_store
from tripcast.taxi import contract, model_name
from tripcast.taxi.candidates import lightgbm
from tripcast.taxi.ingestion import ingest
from tripcast.taxi.pyfunc import flavour
from tripcast.taxi.simulation import City

#: Small months, of which one is enough for a model that passes the gate.
TOWN = "simulated?trips=5000&seed=7"

#: A quarter of the trees that a real model has: so few months teach no more, and growing trees takes most of a month.
FEW_TREES = {"rounds": 50, "learning_rate": 0.15}


@pytest.fixture
def few_trees(monkeypatch):
    """Models of few trees."""
    for name, value in FEW_TREES.items():
        monkeypatch.setitem(lightgbm.DEFAULTS, name, value)


@dataclass
class Loop:
    """A home, in which months are watched and responded to, and models trained.

    Attributes:
        settings: Of the home.
        folder: For what steps would hand each other.
        taxi: Whose trips.
        source: Where months come from.
        candidates: What is trained.
        share: Of the riders, for a newly trained model.
        rule: The thresholds.
    """

    settings: Settings
    folder: Path
    taxi: str = "green"
    source: str = TOWN
    candidates: Sequence[str] = ("lightgbm",)
    share: float = 0.1
    rule: Rule = field(default_factory=Rule)

    @property
    def store(self) -> Store:
        return open_store(self.settings.artifacts)

    @property
    def history(self) -> History:
        return History(self.store, self.taxi)

    @property
    def registry(self) -> Registry:
        return Registry(model_name(self.taxi), self.settings)

    @property
    def city(self) -> City:
        return City.parse(self.source)

    @property
    def serving(self) -> tuple[int | None, int | None]:
        """Champion and challenger."""
        traffic = self.registry.traffic()
        champion, challenger = (version and version.number for version in (traffic.champion, traffic.challenger))
        return champion, challenger

    @property
    def moves(self) -> list[tuple[str, int]]:
        return [(move.action, move.version) for move in self.registry.moves()]

    def select(self, train: str, test: str, **asked: Any) -> Selection:
        """Train candidates and judge them."""
        work = self.folder / f"training-{uuid4()}"
        months = [*parse_months(train), Month.parse(test)]
        ingested = [
            ingest(
                self.source,
                self.taxi,
                month,
                output=work / f"{month}.raw",
                downloads=self.settings.downloads,
                store=self.store,
            )
            for month in months
        ]
        *training, held_out = contract.validate(ingested, kept=work / "train", rejected=work / "rejected")
        contract.move_test_month(held_out, work / "test")
        data = {str(check.month): check.ingested.sha256 for check in training}
        trained = []
        for name in self.candidates:
            seconds = train_from_files(name, work / "train", work / name, taxi=self.taxi, data=data, trials=1)
            trained.append(Candidate.open(work / name, Trained(name, seconds)))
        write_months(work / "train", [check.used("train") for check in training])
        write_months(work / "test", [held_out.used("test")])
        folders = {"train_trips": work / "train", "test_trips": work / "test"}
        return select(self.taxi, work.name, trained, **folders, **asked)

    def register(self, selection: Selection) -> int:
        """Track a selection and register its winner, whatever the gate says; gives the version."""
        work = self.folder / selection.pipeline_run
        pages = {"report": work / "report", "summary": work / "summary", "document": work / "decision"}
        winner = selection.hand_on_winner(work / "winner", track(selection, **pages))
        return self.registry.register(
            work / "winner", flavour=flavour(self.taxi), run_id=winner.run_id, tags=winner.tags
        ).number

    def train(self, train: str, test: str, share: float, trial_share: float = 0.0, proven_gain: float = 0.0) -> str:
        """What the training pipeline does; gives the decision."""
        selection = self.select(train, test, tries=trial_share > 0, proven_gain=proven_gain)
        if trial_share:
            work = self.folder / selection.pipeline_run
            selection = learn_latest(selection, work / "train", work / "test")
        renew_expectation(selection)
        if selection.rolls_out:
            number = self.register(selection)
            decision = self.folder / selection.pipeline_run / "decision"
            roll_out(self.registry, number, decision, share=share, trial_share=trial_share, canary_minutes=0.0)
        return selection.outcome

    def watch(self, month: str = "next") -> Window | None:
        """As the step does; the pages are then in the folder of that name."""
        self.pages = self.folder / f"pages-{uuid4()}"
        self.pages.mkdir()
        pages = {"report": self.pages / "report", "summary": self.pages / "summary"}
        return watch(self.source, self.taxi, month, rule=self.rule, training_months=3, **pages)

    def respond(self, month: str) -> Response:
        return respond(self.taxi, month)

    def turn(self, month: str) -> Window:
        """A turn of the loop, as ``pipelines.loop.turn`` takes it."""
        window = self.watch(month)
        assert window is not None
        if self.respond(month).retrain and window.retraining:
            asked = window.retraining
            decision = self.train(asked.train, asked.test, 1.0, self.share, asked.min_gain)
            self.history.save_retraining(window, {"decision": decision})
        return window

    def live(self, months: str) -> dict[str, Window]:
        return {str(month): self.turn(str(month)) for month in parse_months(months)}


@pytest.fixture
def channel(monkeypatch):
    """A webhook to which alerts go."""
    from tests.unit.test_alerts import Channel  # not before pytest has rewritten its assertions

    monkeypatch.setattr(http, "_PAUSE", 0.0)
    channel = Channel()
    monkeypatch.setenv("TRIPCAST_ALERT_WEBHOOK", channel.url)
    yield channel
    channel.close()


@pytest.fixture
def without_pictures(monkeypatch):
    """Pages say the decision alone: drawing takes most of a month's time, and is tested where it belongs."""
    monkeypatch.setattr("tripcast.jobs.monitor.monitoring_report", lambda context: f"<p>{context.decision.reason}</p>")
    monkeypatch.setattr("tripcast.jobs.monitor.monitoring_summary", lambda context: context.decision.reason)
    monkeypatch.setattr("tripcast.jobs.evaluate.training_report", lambda *_: "<p>A report.</p>")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, empty_store) -> Path:
    """A registry of three versions: a champion, and what may challenge it.

    Version 1 serves; it learned from 2021-01. Version 2 is better: it learned from four times as many trips of that
    month. Version 3 is worse: it learned where streets are slow.
    """
    home = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_store, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPCAST_HOME", str(home))
        patch.setenv("TRIPCAST_COMMIT", "none")
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.setattr("tripcast.jobs.evaluate.training_report", lambda *_: "<p>A report.</p>")
        for name, value in FEW_TREES.items():
            patch.setitem(lightgbm.DEFAULTS, name, value)
        loop = Loop(Settings.load(), tmp_path_factory.mktemp("work"))
        loop.train("2021-01", "2021-02", 1.0)
        for source in (
            TOWN.replace("trips=5000", "trips=20000"),
            f"{TOWN}&slower_streets=2021-01..2021-01:0.6",
        ):
            loop.source = source
            loop.register(loop.select("2021-01", "2021-02"))
    return home


@pytest.fixture
def loop(trained, settings, tmp_path, monkeypatch, few_trees) -> Loop:
    """A home with those three versions."""
    monkeypatch.setenv("TRIPCAST_COMMIT", "none")
    monkeypatch.delenv("TRIPCAST_ALERT_WEBHOOK", raising=False)
    monkeypatch.delenv("TRIPCAST_ARTIFACTS", raising=False)
    shutil.copy(trained / "mlflow.db", settings.home / "mlflow.db")
    (tmp_path / "work").mkdir()
    return Loop(settings, tmp_path / "work")


@pytest.fixture(scope="session")
def registered(tmp_path_factory, empty_store) -> Path:
    """A home whose registry holds versions 1 to 3, of which none serves; made once because that takes seconds."""
    home = tmp_path_factory.mktemp("registered")
    shutil.copy(empty_store, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPCAST_HOME", str(home))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        settings = Settings.load()
        for seed in (1, 2, 3):
            folder = home / f"model-{seed}"
            train("linear", make_trips(seed=seed), taxi="green", data={"2021-01": f"{seed:064d}"}).save(folder)
            with Tracker("tripcast-green", settings).pipeline_run(f"run {seed}", f"run {seed}") as run_id:
                Registry("tripcast-green", settings).register(folder, flavour=flavour("green"), run_id=run_id, tags={})
    return home


@pytest.fixture
def versions(registered: Path, settings: Settings) -> Registry:
    """A registry of those three versions."""
    shutil.copy(registered / "mlflow.db", settings.home / "mlflow.db")
    return Registry("tripcast-green", settings)


@pytest.fixture
def months_in(tmp_path):
    """Writes months of a simulated city into a folder, as the publisher names them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(source: str, months: str) -> Path:
        folder = tmp_path / "months"
        folder.mkdir(exist_ok=True)
        for month in parse_months(months):
            rows = pa.Table.from_batches(City.parse(source).month("green", month))
            pq.write_table(rows, folder / f"green_tripdata_{month}.parquet")
        return folder

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for the S3 endpoint starts a server; what lives through months, or prunes them, trains models first."""
    for item in items:
        if {"s3_endpoint", "trained", "filled"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
