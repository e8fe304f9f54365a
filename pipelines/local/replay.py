"""Replay: the loop over past months, as if they came one by one, and what would have come of other ways.

The first version is trained on the first months and judged on the next. Then each month is lived through: what serves
predicts its trips, and at its end the loop takes its turn on each month that has been published by then, with the very
pipelines that run in earnest. The publisher may be late by months. A replay has a home of its own, so no real registry,
service or webhook sees anything of it.

Beside the system stand the first version, had it served for ever; the notebook's model, trained on the same months; and
the *reference*, trained anew each month on the latest published months, one of which is kept back to choose among the
candidates by: it asks nobody, and pays for nothing. Regret is the system's error over the reference's.

What riders were answered in a month with a challenger is a mixture: its share of the squared error is the challenger's.

Everything that is found is written down at once. A replay that was interrupted goes on where it stopped, and one that
is asked for again is there already. It is known by its arguments and by the revisions of its months.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from pipelines.local.laptop import run_here, summarise_training
from pipelines.local.loop import Turn, turn
from pipelines.progress import StepEvent
from pipelines.training import training
from tripcast.errors import ContractError, InvalidRequest, SourceError, SourceUnreachable
from tripcast.jobs.judge import score
from tripcast.jobs.months import find_months, load_valid_trips
from tripcast.jobs.respond import LoopOptions
from tripcast.jobs.train import train
from tripcast.models import Model
from tripcast.monitoring.quality import measure
from tripcast.monitoring.replay import Event, EventKind, Replay, ReplayMonth
from tripcast.monitoring.rule import Rule
from tripcast.months import Month, parse_months
from tripcast.registry.registry import Registry
from tripcast.settings import Settings
from tripcast.storage.files import atomic_write, storage_errors
from tripcast.taxi import model_name
from tripcast.taxi.feeds import FEEDS
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
        options: How the loop decides and learns; ``linear``, the notebook's model, is among its candidates.
        train: The months that the first version learns from.
        test: The month that it is judged on.
        months: The months to live through.
        published_after: How many months after its end a month is published.
    """

    options: LoopOptions
    train: Sequence[str]
    test: str
    months: Sequence[str]
    published_after: int = 0

    @classmethod
    def plan(cls, months: str, train: str | None, options: LoopOptions, published_after: int = 0) -> ReplayPlan:
        """Say which months are for what.

        Args:
            months: All of them, as a person writes them.
            train: Those that the first version learns from; None for the first one.
            options: How the loop decides and learns.
            published_after: How many months after its end a month is published.

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
        return cls(options, first, every[len(first)], every[len(first) + 1 :], published_after)

    def published_before(self, month: str) -> list[str]:
        """The months, of those to test on and to live through, that are out when a month begins."""
        first = Month.parse(month)
        known = (Month.parse(each) for each in (self.test, *self.months))
        return [str(each) for each in known if _later(each, self.published_after) < first]


def replay(
    plan: ReplayPlan, settings: Settings, notify: Callable[[StepEvent], None], on_month: Callable[[str], None]
) -> tuple[Replay, Path]:
    """Live through past months.

    Args:
        plan: Which, and how.
        settings: Of the real system; the replay's own home is a folder below its home.
        notify: Called with everything that happens in a run, from several threads.
        on_month: Called with the month that comes next.

    Returns:
        What happened, and its page.

    Raises:
        TripcastError: If a step fails, a month is missing, or no first version can be had.
        KeyboardInterrupt: If interrupted; the same call goes on.
    """
    home = settings.home / "replays" / f"{plan.options.taxi}-{_identity(plan, settings)}"
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        downloads = home / "downloads"
        if not downloads.is_symlink():
            settings.downloads.mkdir(parents=True, exist_ok=True)
            downloads.symlink_to(settings.downloads)
    with _at_home(home):
        own = Settings.load()
        on_month(plan.test)
        _train_first(plan, own, notify)
        lived = []
        for month in plan.months:
            on_month(month)
            lived.append(_replay_month(plan, month, own, notify))
    found = Replay(
        subject=FEEDS[plan.options.taxi].title,
        source=plan.options.source,
        train_months=plan.train,
        test_month=plan.test,
        rollout_share=plan.options.rollout,
        rule=Rule.from_dict(plan.options.rule),
        published_after=plan.published_after,
        months=[month for month, _ in lived],
        processor_seconds=sum(seconds for _, seconds in lived),
    )
    from tripcast.reports.replay import replay_page  # with matplotlib, half a second that nobody waits for at the start

    page = home / "replay.html"
    with storage_errors(page):
        page.write_text(replay_page(found), encoding="utf-8")
    return found, page


def _later(month: Month, months: int) -> Month:
    for _ in range(months):
        month = month.next()
    return month


def _identity(plan: ReplayPlan, settings: Settings) -> str:
    """What tells this replay from any other, sixteen hexadecimal digits."""
    months = [Month.parse(month) for month in (*plan.train, plan.test, *plan.months)]
    revisions = find_months(open_source(plan.options.source, settings.downloads), plan.options.taxi, months)
    return sha256(json.dumps([asdict(plan), list(revisions.values())]).encode()).hexdigest()[:16]


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


def _train_first(plan: ReplayPlan, settings: Settings, notify: Callable[[StepEvent], None]) -> None:
    """Train the first version, and keep it and the notebook's model aside, to compare the system with."""
    done = settings.home / "first.json"
    if done.exists():
        return
    options = plan.options
    arguments = {
        "source": options.source,
        "taxi": options.taxi,
        "train_months": ",".join(plan.train),
        "test_month": plan.test,
        "candidates": list(options.candidates),
        "trials": options.trials,
    }
    run = run_here(training, arguments, settings, notify)
    document = summarise_training(run)
    if document["decision"] == "refused":
        raise InvalidRequest(
            f"No first version can be had from {', '.join(plan.train)}, judged on {plan.test}: {document['reason']} "
            "Begin with other months (--months), or train on more of them (--train)."
        )
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


def _replay_month(
    plan: ReplayPlan, month: str, settings: Settings, notify: Callable[[StepEvent], None]
) -> tuple[ReplayMonth, float]:
    """Live through a month, or remember it; and the seconds of processor time that the loop took."""
    file = settings.home / "months" / f"{month}.json"
    if file.exists():
        entries = json.loads(file.read_text(encoding="utf-8"))
        return msgspec.convert(entries["month"], ReplayMonth), entries["processor_seconds"]
    registry = Registry(model_name(plan.options.taxi), settings)
    # Written down before the turns at the month's end, which may change it.
    before = settings.home / "months" / f"{month}-began.json"
    if not before.exists():
        traffic = registry.traffic()
        assert traffic.champion is not None
        challenger = traffic.challenger.number if traffic.challenger else None
        _write(before, {"champion": traffic.champion.number, "challenger": challenger, "share": traffic.share})
    serving = json.loads(before.read_text(encoding="utf-8"))
    started = _processor_seconds()
    taken = []
    for published in _published_at_the_end(plan, month):
        took = turn(plan.options, published, settings=settings, notify=notify)
        assert took is not None
        taken.append(took)
    seconds = _processor_seconds() - started
    lived = ReplayMonth(
        month=month,
        **_errors(plan, month, serving, settings),
        served_version=serving["champion"],
        challenger_version=serving["challenger"],
        challenger_share=serving["share"],
        events=tuple(event for took in taken for event in _events(took)),
    )
    _write(file, {"month": asdict(lived), "processor_seconds": seconds})
    for run in (run for took in taken for run in took.runs):
        shutil.rmtree(run)
    return lived, seconds


def _published_at_the_end(plan: ReplayPlan, month: str) -> list[str]:
    """The lived months that are published after the beginning of a month, and before that of the next one lived."""
    place = plan.months.index(month)
    following = plan.months[place + 1] if place + 1 < len(plan.months) else str(Month.parse(month).next())
    return [each for each in plan.published_before(following) if each not in (plan.test, *plan.published_before(month))]


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _errors(plan: ReplayPlan, month: str, serving: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The RMSE of the system and of what it is compared with, minutes; None where the month's data is broken."""
    trips = _trips(plan, month, settings)
    if trips is None:
        nothing = dict.fromkeys(("system_rmse", "trained_once_rmse", "retrained_monthly_rmse", "notebook_rmse"))
        return {"trips": 0, **nothing}
    registry = Registry(model_name(plan.options.taxi), settings)
    squared = _rmse(registry.load(registry.version(serving["champion"])), trips) ** 2
    if serving["challenger"]:
        challengers = _rmse(registry.load(registry.version(serving["challenger"])), trips) ** 2
        squared += serving["share"] * (challengers - squared)
    return {
        "trips": len(trips),
        "system_rmse": math.sqrt(squared),
        "trained_once_rmse": _rmse(Model.load(settings.home / "trained-once"), trips),
        "retrained_monthly_rmse": _rmse(_reference(plan, month, settings), trips),
        "notebook_rmse": _rmse(Model.load(settings.home / "notebook"), trips),
    }


def _reference(plan: ReplayPlan, month: str, settings: Settings) -> Model:
    """What would serve in a month, were the best candidate taken each month without asking.

    Trained on the sound months that are published when the month begins, the latest of which chooses among the
    candidates: with no more of them than the first version had, that is the first version.
    """
    sound: dict[str, Trips] = {}
    for each in reversed([*plan.train, *plan.published_before(month)]):
        if len(sound) <= plan.options.training_months and (trips := _trips(plan, each, settings)) is not None:
            sound[each] = trips
    kept_back, *training = sound
    if kept_back == plan.test or not training:
        return Model.load(settings.home / "trained-once")
    folder = settings.home / "reference" / "-".join([*reversed(training), kept_back])
    if not (folder / "manifest.json").exists():
        learned = Trips.joined([sound[each] for each in training])
        candidates = (
            train(name, learned, taxi=plan.options.taxi, data=dict.fromkeys(training, ""), trials=plan.options.trials)
            for name in plan.options.candidates
        )
        min(candidates, key=lambda model: _rmse(model, sound[kept_back])).save(folder)
    return Model.load(folder)


def _trips(plan: ReplayPlan, month: str, settings: Settings) -> Trips | None:
    """The good trips of a month; None where its data is broken."""
    try:
        return load_valid_trips(plan.options.source, plan.options.taxi, Month.parse(month), settings)[1]
    except SourceUnreachable:
        raise
    except (ContractError, SourceError):
        return None


def _rmse(model: Model, trips: Trips) -> float:
    (quality,) = measure(score(model, trips, version=0))
    return quality.rmse.value


def _events(taken: Turn) -> Iterator[Event]:
    """What happened in a turn, in order."""
    window, trained = taken.window, taken.trained
    for incident in window.incidents:
        if incident.kind == "data":
            yield Event("data", incident.sentence)
        elif incident.since == window.month:  # people are told once
            yield Event("alert", incident.sentence)
    if window.comparison and window.comparison.relapse:
        yield Event("relapse", window.comparison.relapse)
    if window.trial:
        kinds = {"promote": "promote", "withdraw": "withdraw", "wait": "challenge"}
        yield Event(kinds[window.trial.verdict], window.trial.reason)  # type: ignore[arg-type]
    if trained:
        kind = _OUTCOMES[trained["decision"]]
        learned = f"It learned from {', '.join(trained['learned'])}." if trained.get("learned") else ""
        yield Event(kind, " ".join(filter(None, [trained["reason"], learned, trained.get("serves", "")])))


#: What comes of a training, as an event.
_OUTCOMES: Mapping[str, EventKind] = {
    "promoted": "promote",
    "trial": "challenge",
    "refused": "refuse",
    "unchanged": "refuse",
}


def _write(file: Path, entries: Mapping[str, Any]) -> None:
    with atomic_write(file) as part:
        part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
