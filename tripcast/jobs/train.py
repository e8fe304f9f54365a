"""Training: fit a candidate to months of trips, choose and calibrate on the later of them, never on a test month.

In two acts. A rehearsal fits to the earlier trips; what there is to choose is chosen on the later ones, and their
errors calibrate the prediction interval. Then the candidate is fitted to all trips with what was chosen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tripcast.errors import InvalidRequest
from tripcast.models.intervals import Interval
from tripcast.models.model import (
    FORMAT,
    Calibration,
    Manifest,
    Model,
    OnTrial,
    Predictor,
    Search,
    known_candidates,
    open_candidate,
    with_interval,
)
from tripcast.models.workers import Workers
from tripcast.storage.files import storage_errors
from tripcast.taxi.trip_files import TripFiles
from tripcast.taxi.trips import LONGEST_MINUTES, SHORTEST_MINUTES, TripBatches, Trips, sample
from tripcast.taxi.ways import METERED, as_asked

#: The file beside a model that holds the trials of its search.
TRIALS = "trials.json"

#: With fewer trips there is nothing to learn, and nothing to calibrate on.
MIN_TRIPS = 500

#: The share of the trips, by time, that the rehearsal learns from.
_EARLIER = 0.85

#: The rehearsal takes no more than this many trips, the latest: more would hardly change what is chosen.
_HOLDOUT_TRIPS = 300_000

#: Between which durations the intervals keep, in minutes: those of the contract.
_BOUNDS = (float(SHORTEST_MINUTES), float(LONGEST_MINUTES))

#: Groups of fewer held-out trips than this have no interval of their own.
_ENOUGH = 150


def train(
    candidate: str,
    trips: TripBatches,
    *,
    taxi: str,
    data: Mapping[str, str],
    trials: int = 20,
    on_trial: OnTrial | None = None,
    workers: Workers | None = None,
) -> Model:
    """Train a candidate.

    Args:
        candidate: Its name, see ``tripcast.models.model.CANDIDATES_PACKAGE``.
        trips: The training trips, in any order, with durations; files of them are read a batch at a time.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        data: SHA-256 of each training month's data, by month.
        trials: How many parameter sets a search tries; candidates that do not search ignore it.
        on_trial: Called after each trial of a search.
        workers: Those that fit to all trips together; None to do so here.

    Returns:
        The model; the same trips (in the same order) and arguments give the same one, to the last bit.

    Raises:
        InvalidRequest: If the candidate is unknown, or there are too few trips or trials.
        WorkerError: If a worker dies.
    """
    _check(candidate, len(trips), trials)
    recipe = open_candidate(candidate)
    earlier, later = _split(trips)
    holdout_fit, parameters = recipe.fit_holdout(earlier, later, Search(trials, on_trial))
    return _fit(candidate, taxi, parameters, trips, holdout_fit, later, data, workers)


def refit(
    model: Model,
    trips: TripBatches,
    later: TripBatches,
    *,
    data: Mapping[str, str],
) -> Model:
    """Fit the candidate of a model to other trips, with the settings that were chosen for the model.

    Args:
        model: What it was trained to.
        trips: To fit to, with durations.
        later: Those of them that the model has not seen: its errors on some of them calibrate the intervals.
        data: SHA-256 of each training month's data, by month.
    """
    fitted = model.manifest
    some = sample(later, _HOLDOUT_TRIPS)
    return _fit(fitted.candidate, fitted.taxi, fitted.parameters, trips, model.predictor, some, data, None)


def _fit(
    candidate: str,
    taxi: str,
    parameters: dict[str, Any],
    trips: TripBatches,
    holdout_fit: Predictor,
    later: Trips,
    data: Mapping[str, str],
    workers: Workers | None,
) -> Model:
    """Fit to all trips; the intervals are those of a predictor that has not seen the later ones."""
    intervals, calibration = _calibrate(holdout_fit, later)
    predictor = open_candidate(candidate).fit(trips, parameters, workers)
    pickups = [(batch.pickup_datetime.min(), batch.pickup_datetime.max()) for batch in trips.batches()]
    manifest = Manifest(
        format=FORMAT,
        candidate=candidate,
        taxi=taxi,
        parameters=parameters,
        data=dict(sorted(data.items())),
        trips=len(trips),
        first_pickup=str(min(pickups)[0].astype("datetime64[s]")),
        last_pickup=str(max(last for _, last in pickups).astype("datetime64[s]")),
        intervals=intervals,
        calibration=calibration,
        files=_digests(predictor),
        bounds=_BOUNDS,
    )
    return Model(manifest, predictor)


def train_from_files(
    candidate: str, trips: Path, folder: Path, *, taxi: str, data: Mapping[str, str], trials: int, workers: int = 1
) -> float:
    """Train a candidate on a folder of good trips, and write its model folder.

    The trials of a search are written beside the model, as ``trials.json``.

    Args:
        candidate: Its name.
        trips: Folder of parquet files, a file a month.
        folder: Where the model folder goes.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        data: SHA-256 of each training month's data, by month.
        trials: How many parameter sets a search tries.
        workers: How many machines, or processes on this one, fit to all trips together.

    Returns:
        The seconds that training took.

    Raises:
        InvalidRequest: As ``train``.
        WorkerError: As ``train``.
        StorageError: If the folder cannot be written.
    """
    record: list[dict[str, Any]] = []

    def on_trial(number: int, parameters: dict[str, Any], rmse: float) -> None:
        print(f"Trial {number}: RMSE {rmse:.4f} minutes with {parameters}", flush=True)
        record.append({"number": number, "parameters": parameters, "rmse": rmse})

    started = time.perf_counter()
    files = TripFiles(sorted(trips.glob("*.parquet")))
    model = train(
        candidate,
        files,
        taxi=taxi,
        data=data,
        trials=trials,
        on_trial=on_trial,
        workers=Workers(workers) if workers > 1 else None,
    )
    seconds = time.perf_counter() - started
    model.save(folder)
    if record:
        with storage_errors(folder / TRIALS):
            (folder / TRIALS).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return round(seconds, 2)


def _check(candidate: str, trips: int, trials: int) -> None:
    if candidate not in known_candidates():
        raise InvalidRequest(f"There is no candidate '{candidate}': choose among {', '.join(known_candidates())}.")
    if trips < MIN_TRIPS:
        raise InvalidRequest(
            f"{trips:,} good trips are too few to train on: at least {MIN_TRIPS:,} are needed. Add training months."
        )
    if trials < 1:
        raise InvalidRequest(f"A search of {trials} trials finds nothing: ask for at least 1.")


def _digests(predictor: Predictor) -> dict[str, str]:
    return {name: sha256(content).hexdigest() for name, content in predictor.files().items()}


def _split(trips: TripBatches) -> tuple[Trips, Trips]:
    """The earlier and the later of the latest trips, each in time order."""
    latest: Trips | None = None
    for batch in trips.batches():
        among = Trips.joined([latest, batch]) if latest else batch
        latest = among[np.argsort(among.pickup_datetime, kind="stable")[-_HOLDOUT_TRIPS:]]
    assert latest is not None  # there are trips
    cut = int(_EARLIER * len(latest))
    return latest[:cut], latest[cut:]


def _calibrate(predictor: Predictor, trips: Trips) -> tuple[dict[str, Interval], Calibration]:
    """The interval of each way of asking for the trips, and how the predictor did when asked with the meter."""
    actual = trips.duration_minutes
    assert actual is not None
    intervals: dict[str, Interval] = {}
    for way, asked in as_asked(trips).items():
        predicted, groups = predictor.predict(asked, way == METERED), predictor.groups(asked, way == METERED)
        intervals[way] = Interval.calibrate(predicted, actual)
        for group in np.unique(groups).tolist():
            rows = groups == group
            if group not in intervals and rows.sum() >= _ENOUGH:
                intervals[group] = Interval.calibrate(predicted[rows], actual[rows])
    # The last of the ways is that with the meter.
    prediction = with_interval(
        lambda group: intervals.get(group) or intervals[group.partition("/")[0]], groups, predicted, _BOUNDS
    )
    errors = prediction.minutes - actual
    return intervals, Calibration(
        trips=len(trips),
        rmse=round(float(np.sqrt(np.mean(errors**2))), 4),
        mae=round(float(np.mean(np.abs(errors))), 4),
        bias=round(float(np.mean(errors)), 4),
        interval_minutes=round(float(np.mean(prediction.upper - prediction.lower)), 4),
    )
