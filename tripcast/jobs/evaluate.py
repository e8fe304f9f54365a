"""Model selection: judge the candidates and the champion on the same trips, decide, and leave a record of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tripcast import __version__
from tripcast.errors import StorageError
from tripcast.evaluation.gate import DEFAULT_RULE, Decision, decide
from tripcast.evaluation.scores import Batch, Evaluation, evaluate
from tripcast.jobs.handover import Trained, Winner, read_months
from tripcast.jobs.judge import judged
from tripcast.jobs.train import TRIALS
from tripcast.models import Model
from tripcast.models.model import MODEL_CARD
from tripcast.monitoring.history import History
from tripcast.monitoring.quality import Expectation, write_expectations
from tripcast.monitoring.reference import PROFILE, Profile
from tripcast.months import MonthUsed
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.registry.versions import (
    DATA,
    DIGEST,
    EXPECTATION,
    EXPECTED_FROM,
    JUDGED_AGAINST,
    NOBODY,
    SIMULATED,
    Version,
)
from tripcast.reports.model_card import Way, model_card
from tripcast.reports.training import TrainingContext, training_report, training_summary
from tripcast.settings import Settings
from tripcast.storage.files import storage_errors
from tripcast.storage.store import open_store
from tripcast.taxi import model_name
from tripcast.taxi.bins import profile_trips
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.slices import slice_trips
from tripcast.taxi.sources import is_simulated
from tripcast.taxi.trip_files import TripFiles
from tripcast.taxi.trips import Trips, sample
from tripcast.taxi.ways import MEANING, METERED, PLANNED, ZONES_ONLY, as_asked

#: Tag of a version: the digest of the candidate that the gate judged, of which the version may be a refit.
JUDGED_DIGEST = "tripcast.judged_digest"

#: What to expect of a model in service is learned from at most this many of the test month's trips.
_EXPECTATION_TRIPS = 500_000

#: How the model in service is named beside the candidates.
_CHAMPION = "champion"

#: The figures that people are shown: where all is known that was recorded, and in each way that riders ask in.
_FIGURES = ("rmse", "mae", "r2", "p90_error", "interval_coverage")
_FIGURES_OF_A_WAY = ("rmse", "mae", "interval_coverage")


@dataclass(frozen=True)
class Candidate:
    """A trained candidate as the training step handed it on.

    Attributes:
        folder: The model folder.
        model: The model in it.
        seconds: How long its training took.
        trials: Those of its search, if it searched: ``number``, ``parameters`` and ``rmse`` in minutes.
    """

    folder: Path
    model: Model
    seconds: float
    trials: Sequence[Mapping[str, Any]]

    @classmethod
    def open(cls, folder: Path, trained: Trained) -> Candidate:
        """Open a model folder.

        Raises:
            StorageError: If it is missing or damaged.
        """
        trials = folder / TRIALS
        found = json.loads(trials.read_text()) if trials.exists() else []
        return cls(folder, Model.load(folder), trained.seconds, found)

    @property
    def name(self) -> str:
        """The candidate's name, for example ``lightgbm``."""
        return self.model.manifest.candidate


@dataclass(frozen=True)
class Selection:
    """What came of judging the candidates.

    Attributes:
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        pipeline_run: Identity of the pipeline run.
        candidates: By name.
        champion: The version in service while this was decided, if there was one.
        evaluations: All scores, by the way of asking.
        decision: What the gate said.
        months: The months it all rests on.
        expectations: What error to expect in service, of each candidate by name and of the ``champion``, and for each
            by the way of asking: what they reached on these trips.
        profile: What the winner learned from, and what it predicted of the test month; None if none could be judged.
        tries: Whether a winner whose gain may be chance is put on trial beside the champion.
        refitted: The winner fitted anew with the test month, which serves in its place, see ``tripcast.jobs.refit``.
        learned: The months that the refit learned from; empty without one.
        approval: Whether a winner waits for a person before it serves.
    """

    taxi: str
    pipeline_run: str
    candidates: Mapping[str, Candidate]
    champion: Version | None
    evaluations: Mapping[str, Evaluation]
    decision: Decision
    months: Sequence[MonthUsed]
    expectations: Mapping[str, Mapping[str, Expectation]]
    profile: Profile | None
    tries: bool = False
    refitted: Model | None = None
    learned: tuple[str, ...] = ()
    approval: bool = False

    @property
    def outcome(self) -> str:
        """What becomes of the winner: ``promoted``, ``trial``, ``refused``, or ``unchanged`` if it is the champion."""
        return "trial" if self.tries and self.decision.may_be_chance else self.decision.verdict

    @property
    def rolls_out(self) -> bool:
        """Whether the winner is to be registered, and to answer riders."""
        return self.outcome in ("promoted", "trial")

    @property
    def recorded(self) -> Evaluation:
        """All scores where the trips' records are known whole: the meter's distance too, as in published figures."""
        return self.evaluations[self._recorded_way]

    @property
    def _recorded_way(self) -> str:
        *_, way = self.evaluations
        return way

    @property
    def winner(self) -> Candidate | None:
        """The best candidate, promoted or not; None if none could be judged."""
        return self.candidates[self.decision.winner] if self.decision.winner else None

    @property
    def metrics(self) -> dict[str, float]:
        """The winner's headline figures, and its gain over the champion in minutes of RMSE as the gate sees it."""
        if self.decision.winner is None:
            return {}
        difference = self.evaluations[ZONES_ONLY].candidates[self.decision.winner].difference
        gain = {"gain_over_champion": -difference.value} if difference else {}
        return {**self.metrics_of(self.decision.winner), **gain}

    def metrics_of(self, name: str) -> dict[str, float]:
        """A candidate's headline figures, see ``recorded``, and by name those of the ways that riders ask in."""
        found: dict[str, float] = {}
        for way, evaluation in self.evaluations.items():
            if scores := evaluation.candidates.get(name):
                if way != METERED:
                    found |= {f"{way}_{figure}": scores.metrics[figure] for figure in _FIGURES_OF_A_WAY}
                if way == self._recorded_way:
                    found |= scores.metrics
        return found

    def named(self, role: str) -> str:
        """The months of a role, ``train`` or ``test``, for a sentence."""
        return ", ".join(month.month for month in self.months if month.role == role)

    def context(self, settings: Settings, run_url: str | None) -> TrainingContext:
        """What the report says around the scores."""
        return TrainingContext(
            subject=FEEDS[self.taxi].title,
            source=", ".join(dict.fromkeys(month.location for month in self.months)),
            months=self.months,
            created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            champion=f"version {self.champion.number}" if self.champion else None,
            parameters={candidate.name: candidate.model.manifest.parameters for candidate in self.candidates.values()},
            versions={"tripcast": __version__, "commit": settings.commit, "image": settings.image},
            run_url=run_url,
            simulated=self.simulated,
            approval=self.approval and self.rolls_out,
            ways={MEANING[way]: evaluation for way, evaluation in self.evaluations.items()},
        )

    @property
    def simulated(self) -> bool:
        """Whether any of the trips are of a simulated city."""
        return any(is_simulated(month.location) for month in self.months)

    def model_card(self, settings: Settings, run_url: str | None) -> str:
        """The card of the winner, an HTML page."""
        assert self.winner is not None
        yardsticks, asked = {}, self.evaluations[ZONES_ONLY]
        if (linear := asked.candidates.get("linear")) and self.winner.name != "linear":
            yardsticks["The notebook's linear regression"] = linear.rmse
        if self.champion and asked.champion:
            yardsticks[f"Version {self.champion.number}, in service before"] = asked.champion.rmse
        return model_card(
            model_name(self.taxi),
            self.winner.model.digest,
            self.winner.model.manifest,
            [
                Way(way, MEANING[way], evaluation.candidates[self.winner.name])
                for way, evaluation in self.evaluations.items()
                if self.winner.name in evaluation.candidates
            ],
            self.decision,
            self.context(settings, run_url),
            yardsticks,
        )

    def version_tags(self, settings: Settings) -> dict[str, str]:
        """What the registry is to say of the winner's version."""
        return {
            "tripcast.candidate": str(self.decision.winner),
            "tripcast.train_months": ", ".join(self.learned) or self.named("train"),
            "tripcast.test_month": self.named("test"),
            DATA: json.dumps({month.month: month.digest for month in self.months}),
            "tripcast.rmse": f"{self.metrics['rmse']:.3f}",
            **{
                f"tripcast.{way}_rmse": f"{self.metrics[f'{way}_rmse']:.3f}"
                for way in (ZONES_ONLY, PLANNED)
                if f"{way}_rmse" in self.metrics
            },
            "tripcast.notebook_rmse": self._notebook_rmse(),
            EXPECTATION: write_expectations(self.expectations[str(self.decision.winner)]),
            EXPECTED_FROM: self.named("test"),
            JUDGED_AGAINST: str(self.champion.number) if self.champion else NOBODY,
            JUDGED_DIGEST: self.candidates[str(self.decision.winner)].model.digest,
            "tripcast.decision": self.decision.sentence,
            "tripcast.commit": settings.commit,
            "tripcast.image": settings.image,
            "tripcast.pipeline_run": self.pipeline_run,
            **({SIMULATED: "true"} if self.simulated else {}),
        }

    def _notebook_rmse(self) -> str:
        """The error of the notebook's model on the same trips, minutes; empty if it was no candidate."""
        linear = self.recorded.candidates.get("linear")
        return f"{linear.metrics['rmse']:.3f}" if linear else ""

    def hand_on_winner(self, folder: Path, tracked: Mapping[str, str]) -> Winner:
        """Copy the winner's model folder, with its profile, and say what registering it needs to know.

        Args:
            folder: Where to; an empty folder if there is no winner.
            tracked: Where the winner was tracked, see ``track``.
        """
        if self.winner is None:
            folder.mkdir(parents=True)
            return Winner()
        with storage_errors(folder):
            shutil.copytree(self.winner.folder, folder)
            if self.refitted:
                self.refitted.save(folder)
        if self.profile:
            self.profile.save(folder / PROFILE)
        settings = Settings.load()
        with storage_errors(folder):
            (folder / MODEL_CARD).write_text(self.model_card(settings, tracked.get("mlflow_run")), encoding="utf-8")
        return Winner(
            candidate=self.winner.name,
            **tracked,
            reason=self.decision.sentence,
            tags=self.version_tags(settings),
        )

    def to_dict(self) -> dict[str, Any]:
        """The decision and the figures behind it, ready for JSON."""
        judged_on = self.recorded
        champion = None
        if self.champion and judged_on.champion:
            champion = {"version": self.champion.number, **self._figures(None)}
        return {
            "model": model_name(self.taxi),
            "train_months": self.named("train"),
            "test_month": self.named("test"),
            "trips": judged_on.trips,
            "candidates": {
                name: {**self._figures(name), "seconds": self.candidates[name].seconds} for name in judged_on.candidates
            },
            "disqualified": judged_on.disqualified,
            "champion": champion,
            "best": self.decision.winner,
            "winner": None if self.outcome == "refused" else self.decision.winner,
            "decision": self.outcome,
            "reason": self.decision.sentence,
            "approval": self.approval and self.rolls_out,
            "learned": list(self.learned),
            "checks": [asdict(check) for check in self.decision.reasons],
            "version": self.champion.number if self.champion and self.decision.verdict == "unchanged" else None,
        }

    def _figures(self, name: str | None) -> dict[str, Any]:
        """A candidate's figures, or the champion's: the headline, and by its name those of each way riders ask in."""
        found: dict[str, Any] = {}
        for way, evaluation in self.evaluations.items():
            if scores := evaluation.candidates.get(name) if name else evaluation.champion:
                if way != METERED:
                    found[way] = {figure: scores.metrics[figure] for figure in _FIGURES_OF_A_WAY}
                if way == self._recorded_way:
                    found |= {figure: scores.metrics[figure] for figure in _FIGURES}
        return found


def select(
    taxi: str,
    pipeline_run: str,
    candidates: Sequence[Candidate],
    *,
    train_trips: Path,
    test_trips: Path,
    proven_gain: float = 0.0,
    tries: bool = False,
    approval: bool = False,
) -> Selection:
    """Judge candidates and the champion on the same trips, and decide by the gate.

    Args:
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        pipeline_run: Identity of the pipeline run.
        candidates: What was trained.
        train_trips: Folder of the training months' good trips, and their ``months.json``; they are profiled, a month at
            a time.
        test_trips: Folder of the test month's good trips, and its ``months.json``.
        proven_gain: The reduction of RMSE that has to be proven, as a share of the champion's.
        tries: Whether a winner whose gain may be chance is put on trial beside the champion.
        approval: Whether a winner waits for a person before it serves.

    Raises:
        TrackingError: If the registry cannot be reached.
        StorageError: If a folder does not say which months its trips are of.
    """
    test = TripFiles(sorted(test_trips.glob("*.parquet")))
    registry = Registry(model_name(taxi), Settings.load())
    version = registry.alias("champion")
    champion, problem = _load_champion(registry, version)
    models = {candidate.name: candidate.model for candidate in candidates}
    some = sample(test, _EXPECTATION_TRIPS)
    ways = list(as_asked(some))
    evaluations = {way: evaluate(_predict(test, way, models, champion)) for way in ways}
    if problem:
        evaluations = {way: replace(found, champion_problem=problem) for way, found in evaluations.items()}
    same = {champion.digest, version.tags.get(JUDGED_DIGEST)} if champion and version else set()
    identical = [candidate.name for candidate in candidates if candidate.model.digest in same]
    rule = replace(DEFAULT_RULE, min_gain=max(DEFAULT_RULE.min_gain, proven_gain), proven_gain=proven_gain)
    others = {way: evaluation for way, evaluation in evaluations.items() if way != ZONES_ONLY}
    decision = decide(evaluations[ZONES_ONLY], others, rule=rule, identical=identical)
    expected = {**models, _CHAMPION: champion} if champion else models
    learned = TripFiles(sorted(train_trips.glob("*.parquet"))).batches()
    return Selection(
        taxi=taxi,
        pipeline_run=pipeline_run,
        candidates={candidate.name: candidate for candidate in candidates},
        champion=version,
        evaluations=evaluations,
        decision=decision,
        months=[*read_months(train_trips), *read_months(test_trips)],
        expectations=_expectations(some, expected, evaluations),
        profile=profile_trips(learned, [models[decision.winner].predict(some, ways[-1] == METERED).minutes])
        if decision.winner
        else None,
        tries=tries,
        approval=approval,
    )


def _predict(trips: TripFiles, way: str, models: Mapping[str, Model], champion: Model | None) -> Iterator[Batch]:
    """What models say of ended trips if they are asked for in a way."""
    for batch in trips.batches():
        assert batch.duration_minutes is not None  # these trips have ended
        asked, metered = as_asked(batch)[way], way == METERED
        yield Batch(
            batch.duration_minutes,
            batch.pickup_datetime,
            slice_trips(asked),
            {name: model.predict(asked, metered) for name, model in models.items()},
            champion.predict(asked, metered) if champion else None,
        )


def _expectations(
    trips: Trips, models: Mapping[str, Model], evaluations: Mapping[str, Evaluation]
) -> dict[str, dict[str, Expectation]]:
    """What each model that could be judged reaches on some of the test month's trips: by model, then by way."""
    found: dict[str, dict[str, Expectation]] = {}
    asked = as_asked(trips)
    for way, evaluation in evaluations.items():
        for name in [*evaluation.candidates, *([_CHAMPION] if evaluation.champion else [])]:
            rows = judged(trips, np.full(len(trips), way), models[name].predict(asked[way], way == METERED), version=0)
            found.setdefault(name, {})[way] = Expectation.of(rows)
    return found


def renew_expectation(selection: Selection) -> None:
    """Where no candidate is better than a champion that has aged, expect of it from now on what it reached.

    That settles an alarm, so it has to be so: candidates could be judged, and none of them was better by the minimum
    gain, whatever else the gate refused it for; and they learned from nothing but months since the alarm began, so the
    champion's error is what such trips allow.

    Raises:
        TrackingError: If the registry cannot be reached.
        StorageError: If the history of monitoring cannot be read.
    """
    champion, expectation = selection.champion, selection.expectations.get(_CHAMPION)
    judged_on = selection.evaluations[ZONES_ONLY]
    scores, candidates = judged_on.champion, judged_on.candidates.values()
    if selection.decision.verdict != "refused" or champion is None or expectation is None or scores is None:
        return
    if not candidates or min(each.rmse for each in candidates) <= (1 - DEFAULT_RULE.min_gain) * scores.rmse:
        return
    settings = Settings.load()
    window = History(open_store(settings.artifacts), selection.taxi).window(selection.named("test"))
    alarms = [incident.since for incident in window.incidents if incident.kind == "error"] if window else []
    if alarms and alarms[0] <= min(month.month for month in selection.months if month.role == "train"):
        registry = Registry(model_name(selection.taxi), settings)
        registry.expect(champion.number, write_expectations(expectation), selection.named("test"))


def _load_champion(registry: Registry, version: Version | None) -> tuple[Model | None, str | None]:
    """The model in service, or why it cannot be judged: one that nobody can load must not bar its successor."""
    if version is None:
        return None, None
    try:
        return registry.load(version), None
    except StorageError as error:
        return None, str(error)


def track(selection: Selection, report: Path, summary: Path, document: Path) -> dict[str, str]:
    """Write a selection down: the report, its summary and the figures as files, and all of it into MLflow.

    One run for the pipeline run, one below it for each candidate, one below that for each trial of a search.

    Args:
        selection: What to write down.
        report: Where the HTML report goes.
        summary: Where the Markdown summary goes.
        document: Where the JSON document goes.

    Returns:
        The winner's MLflow run, ``run_id``, and where people see it, ``mlflow_run``; empty if there is no winner.

    Raises:
        TrackingError: If MLflow cannot be reached.
        StorageError: If a file cannot be written.
    """
    settings = Settings.load()
    tracker = Tracker(model_name(selection.taxi), settings)
    name = f"{selection.taxi} {selection.named('train')}"
    with tracker.pipeline_run(selection.pipeline_run, name) as run_id:
        context = selection.context(settings, tracker.url(run_id))
        with storage_errors(report):
            report.write_text(
                training_report(selection.evaluations[ZONES_ONLY], selection.decision, context), encoding="utf-8"
            )
            summary.write_text(
                training_summary(selection.evaluations[ZONES_ONLY], selection.decision, context), encoding="utf-8"
            )
            document.write_text(json.dumps(selection.to_dict() | {"run_id": run_id}, indent=2), encoding="utf-8")
        runs = {name: _track_candidate(tracker, run_id, selection, name) for name in selection.candidates}
        _track_months(tracker, run_id, selection.months)
        tracker.log(
            run_id,
            params={
                "taxi": selection.taxi,
                "train_months": selection.named("train"),
                "test_month": selection.named("test"),
                "candidates": ",".join(selection.candidates),
            },
            metrics=selection.metrics,
            tags={
                "tripcast.decision": selection.decision.verdict,
                "tripcast.reason": selection.decision.sentence,
                "tripcast.winner": str(selection.decision.winner),
                "tripcast.image": settings.image,
                "mlflow.note.content": summary.read_text(encoding="utf-8"),
            },
        )
        with TemporaryDirectory() as scratch:
            # In MLflow a file is shown by its ending; the pipeline's artifacts have none.
            for file, shown in ((report, "report.html"), (document, "decision.json")):
                tracker.log_file(run_id, Path(shutil.copy(file, Path(scratch) / shown)))
            if selection.winner:
                card = Path(scratch) / MODEL_CARD
                card.write_text(selection.model_card(settings, tracker.url(run_id)), encoding="utf-8")
                tracker.log_file(runs[selection.winner.name], card)
    if selection.decision.winner is None:
        return {}
    winner = runs[selection.decision.winner]
    return {"run_id": winner, "mlflow_run": tracker.url(winner) or ""}


def _track_candidate(tracker: Tracker, parent: str, selection: Selection, name: str) -> str:
    candidate = selection.candidates[name]
    with tracker.nested_run(parent, name) as run_id:
        tracker.log(
            run_id,
            params={"candidate": name, **candidate.model.manifest.parameters},
            metrics={"training_seconds": candidate.seconds, **selection.metrics_of(name)},
            tags={DIGEST: candidate.model.digest},
        )
        _track_months(tracker, run_id, selection.months)
        for trial in candidate.trials:
            with tracker.nested_run(run_id, f"trial {trial['number']}") as trial_id:
                tracker.log(trial_id, params=trial["parameters"], metrics={"rmse": trial["rmse"]})
    return run_id


def _track_months(tracker: Tracker, run_id: str, months: Sequence[MonthUsed]) -> None:
    for month in months:
        context = "training" if month.role == "train" else "test"
        tracker.log_dataset(run_id, name=month.month, sha256=month.digest, location=month.location, context=context)
