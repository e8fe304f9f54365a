"""Watching a window: the month's truth against what was predicted, the rule's decision, and the record of both.

Predictions are judged on the trips that have ended. Where the service logged its answers, and their true durations were
put into the artifact store as ``truth/{taxi}/{month}.parquet`` (``prediction_id`` and ``duration_minutes``), the two
are joined by id. Where that is not so, the versions that serve predict the month's published trips, with the meter's
miles. Either way there is one ``Evidence``, from which all else follows: quality, the challenger's trial, the champion
beside the one before it. Each prediction is held against what was to be expected of it in the way it was asked.

Inputs are watched on the published trips in either case: they show the whole city, a log only who asked.

A window is watched once it is over, and once: the same call again returns its record, whatever has changed since. A
month that came late is watched when it comes; one whose data was broken is watched anew when its source has mended it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tripcast.errors import ContractError, InvalidRequest, SourceError, SourceUnreachable, StorageError
from tripcast.jobs.judge import Served, asked_trips, open_version
from tripcast.jobs.months import load_valid_trips
from tripcast.monitoring import drift
from tripcast.monitoring.drift import Drift
from tripcast.monitoring.history import History, Retraining, Window
from tripcast.monitoring.quality import (
    Expectation,
    JoinCounts,
    Quality,
    join,
    measure,
    read_expectations,
)
from tripcast.monitoring.rule import Decision, Rule, WindowResult, decide
from tripcast.monitoring.trial import Comparison, DailySums, Trial, compare, judge
from tripcast.months import Month, parse_months
from tripcast.registry.registry import Registry, Traffic
from tripcast.registry.tracking import Tracker
from tripcast.registry.versions import EXPECTATION, Version
from tripcast.reports.monitoring import (
    MonitoringContext,
    monitoring_report,
    monitoring_summary,
)
from tripcast.serving.stored_log import read_log
from tripcast.settings import Settings
from tripcast.storage.files import storage_errors
from tripcast.storage.store import Store, open_store
from tripcast.taxi import model_name
from tripcast.taxi.bins import profile_trips
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.sources import Source, open_source
from tripcast.taxi.trips import LONGEST_MINUTES, SHORTEST_MINUTES, Trips
from tripcast.taxi.ways import METERED, ways_of
from tripcast.taxi.zones import ZONES

#: The month after the last one that was watched.
NEXT = "next"

#: A month may come late by as many: older ones are learned from no more.
_LATEST_MONTHS = 12

#: Days before a trip begins in which somebody may ask how long it will take.
_ASKED_BEFORE = 7

#: What monitoring needs of the log: a month may have millions of rows.
_LOGGED = (
    "prediction_id",
    "version",
    "arm",
    "pickup_datetime",
    "pickup_zone",
    "dropoff_zone",
    "trip_distance_miles",
    "way",
    "duration_minutes",
    "lower_minutes",
    "upper_minutes",
)

#: True durations as people put them into the store; others' types are cast to these.
_TRUTH = pa.schema({"prediction_id": pa.string(), "duration_minutes": pa.float64()})

_NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True)
class Evidence:
    """What can be known of a month's predictions.

    Attributes:
        trips: Trips whose duration is known, on which versions are compared.
        answers: What riders were answered, or would have been, and the truth, in ``judged_schema``.
        counts: How logged predictions and truths found each other; None where nothing was logged.
    """

    trips: Trips
    answers: pa.Table
    counts: JoinCounts | None

    @property
    def metered(self) -> bool:
        """Whether the trips' distances are the meter's, and not those that riders asked with."""
        return self.counts is None

    @classmethod
    def from_published_trips(cls, trips: Trips, champion: Served, challenger: Served | None) -> Evidence:
        """What the versions that serve make of the month's published trips."""
        answers = [champion.answer(trips)] + ([challenger.answer(trips, "challenger")] if challenger else [])
        return cls(trips, pa.concat_tables(answers), None)

    @classmethod
    def from_log(cls, log: pa.Table, rows: pa.Table, counts: JoinCounts) -> Evidence:
        """What was answered to those who asked, where the truth is known."""
        asked = log.take(pc.index_in(rows["prediction_id"].combine_chunks(), log["prediction_id"].combine_chunks()))
        return cls(replace(asked_trips(asked), duration_minutes=rows["true_minutes"].to_numpy()), rows, counts)


@dataclass(frozen=True)
class Judged:
    """What a month of sound trips said of the versions that served.

    Attributes:
        quality: By version and arm.
        drift: Against the champion's reference; None where that is not known.
        trial: Of the challenger; None if there is none, or it is younger than the month.
        comparison: The champion beside the one before it; None if there is none, or the month is older.
        counts: How logged predictions and truths found each other; None where the versions predicted the published
            trips.
    """

    quality: tuple[Quality, ...]
    drift: Drift | None
    trial: Trial | None = None
    comparison: Comparison | None = None
    counts: JoinCounts | None = None


def watch(
    source: str,
    taxi: str,
    month: str,
    *,
    rule: Rule,
    training_months: int,
    report: Path,
    summary: Path,
) -> Window | None:
    """Watch a window, decide, and record both.

    Args:
        source: Where months come from, see ``tripcast.taxi.sources.open_source``.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        month: The month, as ``2021-06``; or ``next``: the one that has something left to do, else the first published
            one after the last that was watched.
        rule: The thresholds.
        training_months: On how many months, at most, to train anew.
        report: Where the HTML report goes.
        summary: Where the Markdown summary goes.

    Returns:
        The record; None if the next month is not published yet.

    Raises:
        InvalidRequest: If nothing serves, or the month is not after those that were watched, trained or judged on.
        SourceError: If the month is missing at the source. A damaged one does not raise: it is recorded as broken.
        TrackingError: If the registry cannot be reached.
        StorageError: If the store cannot be.
    """
    settings = Settings.load()
    store = open_store(settings.artifacts)
    history, registry = History(store, taxi), Registry(model_name(taxi), settings)
    opened = open_source(source, settings.downloads)
    recorded = {window.month: window for window in history.windows()}
    traffic = registry.traffic()
    if traffic.champion is None:
        raise InvalidRequest(f"No version of {registry.name} serves, so there is nothing to watch: train one first.")
    asked = _next(history, recorded, traffic.champion, opened, taxi) if month == NEXT else Month.parse(month)
    if asked is None:
        _publish(registry, recorded[max(recorded)] if recorded else None)
        _write_empty_report(report, summary)
        return None
    before = recorded.pop(str(asked), None)
    if before and not (before.result.data_problem and _revision(opened, taxi, asked) not in (before.revision, None)):
        history.pages(str(asked), report, summary)
        return before
    newest = not recorded or str(asked) > max(recorded)
    _check_order(asked, traffic.champion, registry, newest)
    revision = opened.revision(taxi, asked)  # a month that is missing is no broken one
    earlier = [window for window in recorded.values() if window.month < str(asked)]
    judged, location = None, source
    try:
        ingested, trips = load_valid_trips(source, taxi, asked, settings)
    except SourceUnreachable:
        raise
    except (ContractError, SourceError) as broken:
        result = WindowResult(str(asked), traffic.champion.number, data_problem=str(broken))
    else:
        judged, location = (
            _judge(taxi, asked, trips, registry, traffic, earlier, store, rule, newest),
            ingested.location,
        )
        result = _result(str(asked), traffic.champion.number, judged)
    results = [*(window.result for window in earlier), result]
    decision = decide(results, rule, newest=newest)
    retraining = None
    if decision.action == "retrain":
        retraining = choose_months(decision, results, traffic.champion, training_months)
    tracker = Tracker(model_name(taxi), settings)
    with tracker.series(f"monitoring {taxi}") as run_id:
        context = MonitoringContext(
            subject=FEEDS[taxi].title,
            location=location,
            places={zone.number: f"{zone.name}, {zone.borough}" for zone in ZONES},
            created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            decision=decision,
            history=results,
            quality=judged.quality if judged else (),
            drift=judged.drift if judged else None,
            joined=judged.counts if judged else None,
            trial=judged.trial if judged else None,
            saved=judged.comparison.relapse or judged.comparison.sentence if judged and judged.comparison else None,
            alerts=[f"Training starts on {retraining.train}, to be judged on {retraining.test}."] if retraining else [],
            run_url=tracker.url(run_id),
        )
        with storage_errors(report):
            report.write_text(monitoring_report(context), encoding="utf-8")
            summary.write_text(monitoring_summary(context), encoding="utf-8")
        window = Window(
            result=replace(result, retrained=decision.action == "retrain"),
            action=decision.action,
            reason=decision.reason,
            incidents=decision.incidents,
            trial=judged.trial if judged else None,
            comparison=judged.comparison if judged else None,
            retraining=retraining,
            figures=_figures(judged, decision, location),
            revision=revision,
        )
        tracker.log_point(run_id, metrics(window), step=12 * asked.year + asked.month, at=_moment(asked.end))
        with TemporaryDirectory() as scratch:
            # In MLflow a file is shown by its ending; the pipeline's artifacts have none.
            tracker.log_file(run_id, Path(shutil.copy(report, Path(scratch) / "report.html")), str(asked))
    history.record(window, report, summary)
    _publish(registry, window if newest else recorded[max(recorded)])
    return window


def _publish(registry: Registry, latest: Window | None) -> None:
    """Hand the latest window's figures to the service, and when monitoring last looked."""
    known = {"looked_at": datetime.now(UTC).timestamp()}
    if latest:
        known |= metrics(latest) | {"month_end": _moment(Month.parse(latest.month).end).timestamp()}
    registry.publish("monitoring", known)


def _moment(local: np.datetime64) -> datetime:
    """The moment of a New York local time."""
    return datetime.fromisoformat(str(local)).replace(tzinfo=_NEW_YORK)


def _next(
    history: History, recorded: Mapping[str, Window], champion: Version, source: Source, taxi: str
) -> Month | None:
    """The month to watch next: unfinished business first, then what came late or was mended, then what is new."""
    unfinished = next((window for window in recorded.values() if not history.is_done(window)), None)
    if unfinished:
        return Month.parse(unfinished.month)
    known = max([*recorded, _tested_on(champion)])
    if not known:
        raise InvalidRequest(
            f"Version {champion.number} does not say on which month it was judged (the tag tripcast.test_month), so no "
            "month is the next one: name the month to watch."
        )
    if recorded:
        first, last = Month.parse(min(recorded)), Month.parse(max(recorded))
        for month in [month for month in _from(first) if month < last][-_LATEST_MONTHS:] if first < last else []:
            window = recorded.get(str(month))
            if window is None or window.result.data_problem:
                revision = _revision(source, taxi, month)
                if revision is not None and (window is None or window.revision != revision):
                    return month
        window = recorded[str(last)]
        if window.result.data_problem and _revision(source, taxi, last) not in (None, window.revision):
            return last
    return next(
        (month for month in _from(Month.parse(known).next()) if _revision(source, taxi, month) is not None), None
    )


def _from(month: Month) -> Iterator[Month]:
    """A month and those after it that are over."""
    today = date.today()
    while month < Month(today.year, today.month):
        yield month
        month = month.next()


def _revision(source: Source, taxi: str, month: Month) -> str | None:
    """The edition of a month that its source has; None if it has none, or none yet."""
    try:
        return source.revision(taxi, month)
    except SourceUnreachable:
        raise
    except SourceError:
        return None


def _tested_on(version: Version) -> str:
    """The last month that a version has seen before it served."""
    return version.tags.get("tripcast.test_month", "")


def _check_order(month: Month, champion: Version, registry: Registry, newest: bool) -> None:
    today = date.today()
    if month >= Month(today.year, today.month):
        raise InvalidRequest(f"{month} is not over, and half a month looks like a changed one: watch it when it is.")
    if newest and str(month) <= _tested_on(champion):
        raise InvalidRequest(
            f"{registry.name} version {champion.number} has seen trips up to {_tested_on(champion)} before it served: "
            f"it cannot be watched on {month}. Choose a later month."
        )


def _result(month: str, serving: int, judged: Judged) -> WindowResult:
    """What the rule looks at, of the arm that answered most as the champion."""
    served = max(
        (quality for quality in judged.quality if quality.arm == "champion"),
        key=lambda quality: quality.trips,
        default=None,
    )
    return WindowResult(
        key=month,
        version=served.version if served else serving,
        expected_rmse=served.expected_rmse if served else None,
        rmse=served.rmse if served else None,
        interval_coverage=served.interval_coverage if served else None,
        psi=judged.drift.psi if judged.drift else {},
        volume_ratio=judged.drift.volume_ratio if judged.drift else None,
    )


def _judge(
    taxi: str,
    month: Month,
    trips: Trips,
    registry: Registry,
    traffic: Traffic,
    earlier: Sequence[Window],
    store: Store,
    rule: Rule,
    newest: bool,
) -> Judged:
    assert traffic.champion is not None
    champion = open_version(registry, traffic.champion)
    shift = None
    if champion.profile:
        # Of the whole city, like the reference: those who asked are others than those who travel.
        predicted = champion.answer(trips)["predicted_minutes"].to_numpy()
        shift = drift.compare(champion.profile, profile_trips([trips], [predicted]))

    def unseen(version: Version | None) -> Served | None:
        """A version that can be judged on the month, for it has not learned from it."""
        return open_version(registry, version) if version and str(month) > _tested_on(version) else None

    if str(month) <= _tested_on(champion.version):
        return Judged((), shift)
    challenger, previous = (unseen(version) for version in (traffic.challenger, registry.alias("previous")))
    logged = _logged(registry.name, taxi, month, store)
    evidence = Evidence.from_log(*logged) if logged else Evidence.from_published_trips(trips, champion, challenger)
    trial = comparison = None
    if newest and len(evidence.trips):
        answers = champion.answer(evidence.trips, metered=evidence.metered)
        if challenger:
            sums = DailySums.of(challenger.answer(evidence.trips, metered=evidence.metered), answers)
            trials = [window.trial for window in earlier if window.trial]
            trial = judge(challenger.number, champion.number, sums, trials, rule)
        if previous:
            sums = DailySums.of(answers, previous.answer(evidence.trips, metered=evidence.metered))
            first = not any(window.comparison and window.comparison.champion == champion.number for window in earlier)
            first = first and not (trial and trial.verdict == "promote")
            comparison = compare(champion.number, previous.number, sums, first=first)
    return Judged(
        measure(evidence.answers, _expectations(registry, evidence.answers)), shift, trial, comparison, evidence.counts
    )


def _expectations(registry: Registry, rows: pa.Table) -> dict[int, dict[str, Expectation]]:
    """What is to be expected of the versions that answered, in each way, as far as that is known."""
    answered = set(rows["version"].unique().to_pylist())
    return {
        version.number: read_expectations(version.tags[EXPECTATION], METERED)
        for version in registry.versions()
        if version.number in answered and EXPECTATION in version.tags
    }


def _logged(model: str, taxi: str, month: Month, store: Store) -> tuple[pa.Table, pa.Table, JoinCounts] | None:
    """The month's logged predictions, and how they found their truth; None where no truth was put in the store."""
    key = f"truth/{taxi}/{month}.parquet"
    if key not in store.list(key):
        return None
    truth = _read_truth(store, key)
    start, end = (pa.scalar(moment, pa.timestamp("us")) for moment in (month.start, month.end))
    begins_then = (pc.field("pickup_datetime") >= start) & (pc.field("pickup_datetime") < end)
    # Answers are filed by the moment they were given: some days before a trip, or later where the past is gone through.
    since = _moment(month.start) - timedelta(days=_ASKED_BEFORE)
    now = datetime.now(UTC) + timedelta(days=1)
    log = _with_ways(read_log(store, min(since, now), now, begins_then & (pc.field("model") == model), _LOGGED))
    return (log, *join(log, truth, (SHORTEST_MINUTES, LONGEST_MINUTES))) if len(log) else None


def _with_ways(log: pa.Table) -> pa.Table:
    """The log with the way of every row; answers of before there were ways say none."""
    if not log["way"].null_count:
        return log
    ways = pa.array(ways_of(asked_trips(log), metered=False), pa.string())
    return log.set_column(log.schema.get_field_index("way"), "way", pc.coalesce(log["way"], ways))


def _read_truth(store: Store, key: str) -> pa.Table:
    """True durations, whatever tool wrote them down.

    Raises:
        StorageError: If they cannot be fetched, or read as what they ought to be.
    """
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "truth.parquet"
        store.get(key, file)
        try:
            return pq.read_table(file, columns=_TRUTH.names).select(_TRUTH.names).cast(_TRUTH)
        except (pa.ArrowException, KeyError, OSError) as trouble:
            raise StorageError(
                f"{store.uri}/{key} holds no true durations ({trouble}). It has to be a parquet file with the columns "
                "prediction_id (text) and duration_minutes (a number). Store it again."
            ) from trouble


def choose_months(
    decision: Decision, results: Sequence[WindowResult], champion: Version, training_months: int
) -> Retraining:
    """On which months to train anew: the freshest sound ones; the latest is for the test.

    Args:
        decision: Says what gain is asked for.
        results: The windows, in order; the last one is the latest.
        champion: Its own months count among the sound ones.
        training_months: How many, at most.
    """
    broken = {result.key for result in results if result.data_problem}
    trained_on = champion.tags.get("tripcast.train_months")
    seen = {str(month) for month in parse_months(trained_on)} if trained_on else set()
    sound = sorted((seen | {_tested_on(champion)} | {result.key for result in results[:-1]}) - broken - {""})
    return Retraining(",".join(sound[-training_months:]), results[-1].key, decision.min_gain)


def metrics(window: Window) -> dict[str, float]:
    """The headline figures of a window, for a time series; minutes where the name says nothing else.

    Args:
        window: The record.
    """
    found: dict[str, float] = {}
    for quality in window.figures["quality"]:
        arm = quality["arm"]
        for name in ("rmse", "mae", "bias", "interval_coverage"):
            found[f"{arm}.{name}"] = quality[name]["value"]
        found[f"{arm}.version"] = quality["version"]
        found[f"{arm}.trips"] = quality["trips"]
        if quality["expected_rmse"]:
            found[f"{arm}.rmse_ratio"] = quality["rmse"]["value"] / quality["expected_rmse"]
        for way in quality["ways"]:
            found[f"{arm}.{way['way']}.rmse"] = way["rmse"]["value"]
            found[f"{arm}.{way['way']}.interval_coverage"] = way["interval_coverage"]["value"]
    found |= {f"psi.{feature}": psi for feature, psi in window.result.psi.items()}
    if window.result.volume_ratio is not None:
        found["volume_ratio"] = window.result.volume_ratio
    if window.trial:
        found["challenger.rmse_difference"] = window.trial.difference.value
    if window.comparison:
        found["previous.rmse"] = window.comparison.previous_rmse
    return found | {"incidents": len(window.incidents), "retrain": float(window.action == "retrain")}


def _figures(judged: Judged | None, decision: Decision, location: str) -> dict[str, Any]:
    """All that was measured, ready for JSON."""
    found: dict[str, Any] = {"location": location, "decision": asdict(decision), "quality": []}
    if judged:
        found["quality"] = [asdict(quality) for quality in judged.quality]
        found["drift"] = asdict(judged.drift) if judged.drift else None
        found["logged"] = asdict(judged.counts) if judged.counts else None
    return found


def write_record(window: Window | None, file: Path) -> dict[str, float]:
    """Write a window's record as JSON, empty where there is nothing new.

    Returns:
        Its headline figures.

    Raises:
        StorageError: If the file cannot be written.
    """
    with storage_errors(file):
        file.write_text(json.dumps(window.to_dict() if window else {}, indent=1) + "\n", encoding="utf-8")
    return metrics(window) if window else {}


def _write_empty_report(report: Path, summary: Path) -> None:
    sentence = "The next month is not published yet: there is nothing to watch."
    with storage_errors(report):
        report.write_text(f"<!doctype html><title>Nothing new</title><p>{sentence}</p>\n", encoding="utf-8")
        summary.write_text(f"{sentence}\n", encoding="utf-8")
