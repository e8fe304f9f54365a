"""Replay: the loop over past months, as if they came one by one, and what would have come of not retraining.

The first version is trained on the first months and judged on the next. Then each month is lived through: what serves
predicts its trips, and at its end the loop takes its turn, with the very pipelines that run in earnest. A replay has a
home of its own, so no real registry, service or webhook sees anything of it.

What riders were answered in a month with a challenger is a mixture: its share of the squared error is the challenger's.

Everything that is found is written down at once. A replay that was interrupted goes on where it stopped, and one that
is asked for again is there already. It is known by its arguments and by the revisions of its months.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines.local.laptop import run_here, summarise_training
from pipelines.local.loop import Turn, turn
from pipelines.progress import StepEvent
from pipelines.training import training
from tripcast.errors import ContractError, InvalidRequest, SourceError, SourceUnreachable
from tripcast.jobs.monitor import load_valid_trips
from tripcast.jobs.plan import find_months
from tripcast.models import Model
from tripcast.monitoring.quality import measure, score
from tripcast.monitoring.rule import Rule
from tripcast.months import Month, parse_months
from tripcast.registry.registry import Registry
from tripcast.reports.replay import Event, Replay, ReplayMonth, replay_page
from tripcast.settings import Settings
from tripcast.storage.files import storage_errors
from tripcast.taxi import model_name
from tripcast.taxi.sources import open_source
from tripcast.taxi.trips import Trips

#: Settings of the real system that a replay must not use.
_REAL = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "TRIPCAST_ARTIFACTS",
    "TRIPCAST_SERVICE_URL",
    "TRIPCAST_KFP_ENDPOINT",
    "TRIPCAST_ALERT_WEBHOOK",
)


@dataclass(frozen=True)
class ReplayPlan:
    """What is to be lived through.

    Attributes:
        source: Where months come from.
        taxi: ``green`` or ``yellow``.
        train: The months that the first version learns from.
        test: The month that it is judged on.
        months: The months to live through.
        rule: The thresholds.
        training_months: On how many months, at most, to train anew.
        candidates: Which models are trained; ``linear``, the notebook's, is among them.
        trials: How many parameter sets a search tries.
        rollout: Share of the riders that a newly trained model is tried on, 0 to 1.
    """

    source: str
    taxi: str
    train: Sequence[str]
    test: str
    months: Sequence[str]
    rule: Rule = field(default_factory=Rule)
    training_months: int = 3
    candidates: Sequence[str] = ("linear", "lightgbm")
    trials: int = 20
    rollout: float = 0.1

    @classmethod
    def plan(cls, months: str, train: str | None, **told: Any) -> ReplayPlan:
        """Say which months are for what.

        Args:
            months: All of them, as a person writes them.
            train: Those that the first version learns from; None for the first one.
            told: The other attributes.

        Raises:
            InvalidRequest: If there are too few months, or those to train on are not the first ones.
        """
        every = [str(month) for month in parse_months(months)]
        first = [str(month) for month in parse_months(train)] if train else every[:1]
        if first != every[: len(first)]:
            raise InvalidRequest(
                f"The months to train on, {', '.join(first)}, are not the first of {', '.join(every)}: a replay begins "
                "with them."
            )
        if len(every) < len(first) + 2:
            raise InvalidRequest(
                f"A replay of {', '.join(every)} has nothing to live through: it needs {len(first)} to train on, one "
                "to judge on, and at least one more."
            )
        return cls(train=first, test=every[len(first)], months=every[len(first) + 1 :], **told)


def replay(
    story: ReplayPlan, settings: Settings, notify: Callable[[StepEvent], None], arrived: Callable[[str], None]
) -> tuple[Replay, Path]:
    """Live through past months.

    Args:
        story: Which, and how.
        settings: Of the real system; the replay's own home is a folder below its home.
        notify: Called with everything that happens in a run, from several threads.
        arrived: Called with the month that comes next.

    Returns:
        What happened, and its page.

    Raises:
        TripcastError: If a step fails, a month is missing, or no first version can be had.
        KeyboardInterrupt: If interrupted; the same call goes on.
    """
    home = settings.home / "replays" / f"{story.taxi}-{_identity(story, settings)}"
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        downloads = home / "downloads"
        if not downloads.is_symlink():
            settings.downloads.mkdir(parents=True, exist_ok=True)
            downloads.symlink_to(settings.downloads)
    with _at_home(home):
        own = Settings.load()
        arrived(story.test)
        _train_first(story, own, notify)
        lived = []
        for month in story.months:
            arrived(month)
            lived.append(_live(story, month, own, notify))
    found = Replay(
        subject=f"{story.taxi} taxi",
        source=story.source,
        train_months=story.train,
        test_month=story.test,
        rollout_share=story.rollout,
        rule=story.rule,
        months=lived,
    )
    page = home / "replay.html"
    with storage_errors(page):
        page.write_text(replay_page(found), encoding="utf-8")
    return found, page


def _identity(story: ReplayPlan, settings: Settings) -> str:
    """What tells this replay from any other, sixteen hexadecimal digits."""
    months = [Month.parse(month) for month in (*story.train, story.test, *story.months)]
    revisions = find_months(open_source(story.source, settings.downloads), story.taxi, months)
    return sha256(json.dumps([asdict(story), list(revisions.values())]).encode()).hexdigest()[:16]


@contextmanager
def _at_home(home: Path) -> Iterator[None]:
    """Everything in this process and its steps is kept in a folder of its own."""
    before = {name: os.environ.pop(name, None) for name in (*_REAL, "TRIPCAST_HOME")}
    os.environ["TRIPCAST_HOME"] = str(home)
    try:
        yield
    finally:
        for name in before:  # MLflow has written its address there, too
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _train_first(story: ReplayPlan, settings: Settings, notify: Callable[[StepEvent], None]) -> None:
    """Train the first version, and keep it and the notebook's model aside, to compare the system with."""
    done = settings.home / "first.json"
    if done.exists():
        return
    arguments = {
        "source": story.source,
        "taxi": story.taxi,
        "train_months": ",".join(story.train),
        "test_month": story.test,
        "candidates": list(story.candidates),
        "trials": story.trials,
        "rollout": 1.0,
    }
    run = run_here(training, arguments, settings, notify)
    document = summarise_training(run)
    if document["decision"] == "refused":
        raise InvalidRequest(f"No first version can be had from {', '.join(story.train)}: {document['reason']}")
    for name, folder in (("trained-once", run.output("evaluate")["winner"]), ("notebook", _notebook(run.folder))):
        with storage_errors(settings.home / name):
            shutil.copytree(folder, settings.home / name, dirs_exist_ok=True)
    shutil.rmtree(run.folder)
    _write(done, document)


def _notebook(run: Path) -> Path:
    """The folder of the notebook's model among what a run trained."""
    return next(
        file.parent for file in run.rglob("manifest.json") if json.loads(file.read_text())["candidate"] == "linear"
    )


def _live(story: ReplayPlan, month: str, settings: Settings, notify: Callable[[StepEvent], None]) -> ReplayMonth:
    """Live through a month, or remember it."""
    file = settings.home / "months" / f"{month}.json"
    if file.exists():
        entries = json.loads(file.read_text(encoding="utf-8"))
        return ReplayMonth(**{**entries, "events": tuple(Event(**event) for event in entries["events"])})
    # Written down before the month's turn, which may change it.
    before = settings.home / "months" / f"{month}-began.json"
    if not before.exists():
        traffic = Registry(model_name(story.taxi), settings).traffic()
        assert traffic.champion is not None
        challenger = traffic.challenger.number if traffic.challenger else None
        _write(before, {"champion": traffic.champion.number, "challenger": challenger, "share": traffic.share})
    serving = json.loads(before.read_text(encoding="utf-8"))
    taken = turn(
        story.source,
        story.taxi,
        month,
        rule=asdict(story.rule),
        training_months=story.training_months,
        candidates=story.candidates,
        trials=story.trials,
        rollout=story.rollout,
        settings=settings,
        notify=notify,
    )
    assert taken is not None
    lived = ReplayMonth(
        month=month,
        **_errors(story, month, serving, settings),
        served_version=serving["champion"],
        challenger_version=serving["challenger"],
        challenger_share=serving["share"],
        events=tuple(_events(taken, story.rollout)),
    )
    _write(file, asdict(lived))
    for run in taken.runs:
        shutil.rmtree(run)
    return lived


def _errors(story: ReplayPlan, month: str, serving: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The RMSE of the system and of what it is compared with, minutes; None where the month's data is broken."""
    try:
        _, trips = load_valid_trips(story.source, story.taxi, Month.parse(month), settings)
    except SourceUnreachable:
        raise
    except (ContractError, SourceError):
        return {"trips": 0, "system_rmse": None, "trained_once_rmse": None, "notebook_rmse": None}
    registry = Registry(model_name(story.taxi), settings)
    squared = _rmse(registry.load(registry.version(serving["champion"])), trips) ** 2
    if serving["challenger"]:
        challengers = _rmse(registry.load(registry.version(serving["challenger"])), trips) ** 2
        squared += serving["share"] * (challengers - squared)
    return {
        "trips": len(trips),
        "system_rmse": math.sqrt(squared),
        "trained_once_rmse": _rmse(Model.load(settings.home / "trained-once"), trips),
        "notebook_rmse": _rmse(Model.load(settings.home / "notebook"), trips),
    }


def _rmse(model: Model, trips: Trips) -> float:
    (quality,) = measure(score(model, trips, version=0))
    return quality.rmse.value


def _events(taken: Turn, rollout: float) -> Iterator[Event]:
    """What happened in a month, in order."""
    window, trained = taken.window, taken.trained
    for incident in window.incidents:
        if incident.kind == "data":
            yield Event("data", incident.sentence)
        elif incident.since == window.month:  # people are told once
            yield Event("alert", incident.sentence)
    if window.trial:
        kinds = {"promote": "promote", "withdraw": "withdraw", "wait": "challenge"}
        yield Event(kinds[window.trial.verdict], window.trial.reason)  # type: ignore[arg-type]
    if window.retraining:
        months = f"It trains on {window.retraining.train}, and is judged on {window.retraining.test}."
        yield Event("retrain", f"{window.reason} {months}")
    if trained:
        if trained["decision"] != "refused":
            yield Event(
                "promote" if rollout == 1 else "challenge",
                " ".join([trained["reason"], trained.get("serves", "")]).strip(),
            )
        else:
            yield Event("refuse", trained["reason"])


def _write(file: Path, entries: Mapping[str, Any]) -> None:
    """Write JSON that is there whole or not at all."""
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        part.replace(file)
