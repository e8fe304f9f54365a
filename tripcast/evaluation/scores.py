"""Judge predictions on trips whose duration is known: overall, slice by slice, and against the champion's.

Every candidate and the champion are judged on the very same trips. Whether a candidate is better is then a question
about a difference, and trips within an hour share their traffic, so they are not independent witnesses. The answer is a
paired cluster bootstrap: whole hours are drawn with replacement, the same hours for both models. With, for hour ``b``,
``n_b`` trips and ``Q_b = sum((prediction - truth)^2)``, replicate ``r`` draws how often each of the ``B`` hours counts,
``w_r ~ Multinomial(B; 1/B, ..., 1/B)``, and yields ::

    RMSE_r = sqrt(sum_b w_rb Q_b / sum_b w_rb n_b)        difference_r = RMSE_r(candidate) - RMSE_r(champion)

whose 2.5 % and 97.5 % quantiles are the interval. Only the sums of hours enter, so all replicates of all slices are one
matrix product, ``(replicates x hours) @ (hours x slices)``, whatever the number of trips.

The hours of one day are not wholly independent either. Days as clusters make intervals 1.2 to 1.9 times as wide (green
taxis, 2021-02), but a month has only four of each weekday, too few to draw from; the gate's minimum gain stands in.

Sources:
    Cameron, Gelbach & Miller (2008), Bootstrap-based improvements for inference with clustered errors, Review of
    Economics and Statistics 90(3), 414-427 (resampling whole clusters, "pairs cluster bootstrap"; too few clusters
    make intervals too narrow). Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13 (percentiles).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tripcast.errors import ContractError
from tripcast.models import Prediction
from tripcast.taxi.trips import Trips
from tripcast.taxi.zones import AIRPORTS, LAST_ZONE, ZONES

Floats = npt.NDArray[np.float64]

#: The share of trips that should end within a prediction interval of 10 % to 90 %.
NOMINAL_COVERAGE = 0.8

#: The confidence of every bootstrap interval.
CONFIDENCE = 0.95

#: Bootstrap replicates: with 2,000 the ends of an interval move by a few hundredths of its width between seeds.
REPLICATES = 2_000

#: A slice seen in fewer hours than this gets no interval: its few clusters would make one that is much too narrow.
MIN_HOURS = 10

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
BOROUGHS = ("Manhattan", "Brooklyn", "Queens", "Bronx", "Staten Island", "EWR", "Outside", "Unknown")

#: Upper ends in miles, inclusive. The first band holds what the meter did not measure, the last what nobody believes.
DISTANCE_EDGES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 100.0)
DISTANCE_BANDS = (
    "unmetered",
    "up to 1 mile",
    "1 to 2 miles",
    "2 to 5 miles",
    "5 to 10 miles",
    "10 to 20 miles",
    "20 to 100 miles",
    "over 100 miles",
)

#: The slices of each dimension, in reading order. The trips of each dimension's slices add up to all trips.
SLICES = {
    "all": ("all trips",),
    "hour": tuple(f"{hour:02d}:00" for hour in range(24)),
    "weekday": WEEKDAYS,
    "borough": BOROUGHS,
    "distance": DISTANCE_BANDS,
    "airport": ("city", "airport"),
}

#: Durations and predictions are counted in bins of one minute from 0 to this; what lies beyond counts in the last.
DENSITY_MINUTES = 60


#: No number beyond this, some two years, is taken for a prediction; nor is NaN.
MAX_MINUTES = 1e6


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval at ``CONFIDENCE``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SliceScores:
    """How one model did on the trips of one slice.

    Attributes:
        dimension: A key of ``SLICES``.
        label: The slice's name within its dimension.
        trips: Number of trips.
        rmse: Root mean squared error, minutes.
        mae: Mean absolute error, minutes.
        bias: Mean of prediction minus truth, minutes: positive where trips are predicted too long.
        interval_coverage: Share of trips that ended within their prediction interval.
        interval_width: Mean width of the prediction intervals, minutes.
        difference: RMSE minus the champion's, minutes; None without a champion, or with fewer than ``MIN_HOURS`` hours.
    """

    dimension: str
    label: str
    trips: int
    rmse: float
    mae: float
    bias: float
    interval_coverage: float
    interval_width: float
    difference: Estimate | None


@dataclass(frozen=True)
class Scores:
    """How one model did on all trips, and on each slice.

    Attributes:
        trips: Number of trips.
        rmse: Root mean squared error, minutes.
        rmse_interval: The bootstrap interval of ``rmse``; None with fewer than ``MIN_HOURS`` hours.
        mae: Mean absolute error, minutes.
        r2: Coefficient of determination: 1 is perfect, 0 is no better than always saying the mean.
        p90_error: The absolute error that nine trips in ten stay below, minutes.
        bias: Mean of prediction minus truth, minutes.
        interval_coverage: Share of trips that ended within their prediction interval.
        interval_width: Mean width of the prediction intervals, minutes.
        difference: RMSE minus the champion's, minutes; None without a champion, or with fewer than ``MIN_HOURS`` hours.
        slices: Every slice that has trips, in the order of ``SLICES``.
        density: Trips by minute of truth (rows) and of prediction (columns), for drawing one against the other.
    """

    trips: int
    rmse: float
    rmse_interval: tuple[float, float] | None
    mae: float
    r2: float
    p90_error: float
    bias: float
    interval_coverage: float
    interval_width: float
    difference: Estimate | None
    slices: tuple[SliceScores, ...]
    density: npt.NDArray[np.int64] = field(repr=False, compare=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The headline figures by name, as a tracking server or a table wants them."""
        return {
            "rmse": self.rmse,
            "mae": self.mae,
            "r2": self.r2,
            "p90_error": self.p90_error,
            "bias": self.bias,
            "interval_coverage": self.interval_coverage,
            "interval_width": self.interval_width,
        }

    def slices_of(self, dimension: str) -> tuple[SliceScores, ...]:
        """The slices of one dimension that have trips, in reading order."""
        return tuple(part for part in self.slices if part.dimension == dimension)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the density, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "density"}


@dataclass(frozen=True)
class Evaluation:
    """All models on the same trips.

    Attributes:
        trips: Number of trips.
        hours: Number of distinct hours in which they began: the bootstrap's clusters.
        candidates: Scores by name, lowest RMSE first.
        champion: Scores of the model now in service, if there is one that can be judged.
        disqualified: Candidates that cannot be judged, with the reason.
        champion_problem: Why the champion cannot be judged, if it cannot.
    """

    trips: int
    hours: int
    candidates: dict[str, Scores]
    champion: Scores | None = None
    disqualified: dict[str, str] = field(default_factory=dict)
    champion_problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the densities, ready for JSON."""
        return {
            "trips": self.trips,
            "hours": self.hours,
            "candidates": {name: scores.to_dict() for name, scores in self.candidates.items()},
            "champion": self.champion.to_dict() if self.champion else None,
            "disqualified": self.disqualified,
            "champion_problem": self.champion_problem,
        }


def evaluate(
    truth: Trips, predictions: Mapping[str, Prediction], champion: Prediction | None = None, *, seed: int = 0
) -> Evaluation:
    """Judge candidates, and the champion, on the same trips.

    Args:
        truth: The test month's trips with their durations.
        predictions: Each candidate's predictions for these trips, by the candidate's name.
        champion: The predictions of the model now in service for these trips.
        seed: Of the bootstrap; the same seed gives the same intervals.

    Raises:
        ContractError: If there are no trips to judge on.
        ValueError: If the trips have no durations, or a prediction is not of their number.
    """
    if truth.duration_minutes is None:
        raise ValueError("The trips to judge on have no durations.")
    if not len(truth):
        raise ContractError("The test month has no trips to judge on: choose a month that has some.")
    problems = {name: _problem(prediction, len(truth)) for name, prediction in predictions.items()}
    champion_problem = champion and _problem(champion, len(truth))
    bench = _SlicedErrors(truth, truth.duration_minutes, seed)
    reference = bench.measure(champion) if champion and not champion_problem else None
    candidates = {
        name: bench.score(bench.measure(prediction), reference)
        for name, prediction in predictions.items()
        if not problems[name]
    }
    return Evaluation(
        trips=len(truth),
        hours=bench.hours,
        candidates=dict(sorted(candidates.items(), key=lambda item: item[1].rmse)),
        champion=bench.score(reference) if reference else None,
        disqualified={name: problem for name, problem in problems.items() if problem},
        champion_problem=champion_problem or None,
    )


def _problem(prediction: Prediction, trips: int) -> str | None:
    """Why a prediction cannot be judged, as a sentence; None if it can."""
    shapes = {values.shape for values in (prediction.minutes, prediction.lower, prediction.upper)}
    if shapes != {(trips,)}:
        raise ValueError(f"Predictions for {trips:,} trips are wanted, but their shapes are {sorted(shapes)}.")
    believable = np.ones(trips, np.bool_)
    for values in (prediction.minutes, prediction.lower, prediction.upper):
        believable &= np.abs(values) < MAX_MINUTES  # false for NaN, too
    missing = trips - np.count_nonzero(believable)
    return f"It gives no believable number of minutes for {missing:,} of {trips:,} trips." if missing else None


@dataclass(frozen=True)
class _ModelErrors:
    """What was measured of one model: means by slice, (slices,), the bootstrap, (replicates, slices), and the rest."""

    rmse: Floats
    mae: Floats
    bias: Floats
    coverage: Floats
    width: Floats
    rmse_replicates: Floats
    p90_error: float
    density: npt.NDArray[np.int64]


class _SlicedErrors:
    """The trips that all models are judged on, sorted once into hours and slices.

    A trip's cell is its hour, pickup borough, distance band and airport. There are some 100,000 cells however many
    trips there are, and every slice of every hour is a sum of cells (the hour of day and the weekday are the hour's
    own). So a quantity is summed over the trips once, for all slices and all hours, and the bootstrap sees no trip.
    Slices without trips are left out.
    """

    def __init__(self, trips: Trips, minutes: Floats, seed: int) -> None:
        hour_of_trip = trips.pickup_datetime.astype("datetime64[h]")
        hours = np.unique(hour_of_trip)
        # 1970-01-01, from which numpy counts, was a Thursday: weekday 3.
        self._hour_of_day = np.eye(24)[hours.astype(np.int64) % 24]
        self._weekday = np.eye(7)[(hours.astype(np.int64) // 24 + 3) % 7]
        self._shape = (len(hours), len(BOROUGHS), len(DISTANCE_BANDS), 2)

        borough = np.zeros(LAST_ZONE + 1, np.int8)
        airport = np.zeros(LAST_ZONE + 1, np.int8)
        for zone in ZONES:
            borough[zone.number] = BOROUGHS.index(zone.borough)
            airport[zone.number] = zone.number in AIRPORTS
        self._cell = np.searchsorted(hours, hour_of_trip)
        for codes, size in (
            (borough[trips.pickup_zone], len(BOROUGHS)),
            (np.searchsorted(DISTANCE_EDGES, trips.trip_distance_miles), len(DISTANCE_BANDS)),
            (airport[trips.pickup_zone] | airport[trips.dropoff_zone], 2),
        ):
            self._cell *= size
            self._cell += codes

        self._minutes = minutes
        self._whole_minutes = _whole_minutes(minutes)
        self._variance = float(np.var(minutes))

        trips_by_hour = self._sums_by_hour(None)
        self._occupied = np.flatnonzero(trips_by_hour.any(axis=0))
        trips_by_hour = trips_by_hour[:, self._occupied]
        names = [(dimension, label) for dimension, labels in SLICES.items() for label in labels]
        self._names = [names[index] for index in self._occupied]
        self._trips = trips_by_hour.sum(axis=0)
        self._enough_hours = [np.count_nonzero(column) >= MIN_HOURS for column in trips_by_hour.T]
        self.hours = len(hours)
        draw = np.random.default_rng(seed).multinomial(self.hours, np.full(self.hours, 1 / self.hours), REPLICATES)
        self._draw = draw.astype(np.float64)
        self._trips_replicates = self._draw @ trips_by_hour

    def _sums_by_hour(self, values: Floats | None) -> Floats:
        """Sums of a quantity over trips, or the number of trips: (hours, slices), slices in the order of ``SLICES``."""
        cells = (
            np.bincount(self._cell, values, minlength=math.prod(self._shape)).reshape(self._shape).astype(np.float64)
        )
        total = cells.sum(axis=(1, 2, 3))[:, np.newaxis]
        return np.hstack(
            [
                total,
                total * self._hour_of_day,
                total * self._weekday,
                cells.sum(axis=(2, 3)),
                cells.sum(axis=(1, 3)),
                cells.sum(axis=(1, 2)),
            ]
        )

    def _means(self, values: Floats) -> Floats:
        means: Floats = self._sums_by_hour(values)[:, self._occupied].sum(axis=0) / self._trips
        return means

    def measure(self, prediction: Prediction) -> _ModelErrors:
        """Sum one model's errors; at most three arrays of the trips' number are made at a time."""
        error = prediction.minutes - self._minutes
        bias = self._means(error)
        squared_by_hour = self._sums_by_hour(error**2)[:, self._occupied]
        np.abs(error, out=error)
        mae = self._means(error)
        p90_error = float(np.quantile(error, 0.9, overwrite_input=True))
        del error
        covered = (prediction.lower <= self._minutes) & (self._minutes <= prediction.upper)
        bins = self._whole_minutes * DENSITY_MINUTES + _whole_minutes(prediction.minutes)
        with np.errstate(
            invalid="ignore"
        ):  # a replicate may hold no hour of a rare slice: 0/0, left out of its interval
            rmse_replicates = np.sqrt((self._draw @ squared_by_hour) / self._trips_replicates)
        return _ModelErrors(
            rmse=np.sqrt(squared_by_hour.sum(axis=0) / self._trips),
            mae=mae,
            bias=bias,
            coverage=self._means(covered.astype(np.float64)),
            width=self._means(prediction.upper - prediction.lower),
            rmse_replicates=rmse_replicates,
            p90_error=p90_error,
            density=np.bincount(bins, minlength=DENSITY_MINUTES**2).reshape(DENSITY_MINUTES, DENSITY_MINUTES),
        )

    def score(self, model: _ModelErrors, champion: _ModelErrors | None = None) -> Scores:
        """One model's scores, with its difference to the champion where there is one."""
        differences: list[Estimate | None] = [None] * len(self._names)
        if champion:
            values = model.rmse - champion.rmse
            intervals = self._intervals(model.rmse_replicates - champion.rmse_replicates)
            differences = [
                Estimate(value, *interval) if interval else None
                for value, interval in zip(values.tolist(), intervals, strict=True)
            ]
        columns = (self._trips.astype(np.int64), model.rmse, model.mae, model.bias, model.coverage, model.width)
        rows = zip(*(column.tolist() for column in columns), differences, strict=True)
        whole, *slices = (SliceScores(*name, *row) for name, row in zip(self._names, rows, strict=True))
        return Scores(
            trips=whole.trips,
            rmse=whole.rmse,
            rmse_interval=self._intervals(model.rmse_replicates)[0],
            mae=whole.mae,
            r2=self._r2(whole.rmse),
            p90_error=model.p90_error,
            bias=whole.bias,
            interval_coverage=whole.interval_coverage,
            interval_width=whole.interval_width,
            difference=whole.difference,
            slices=tuple(slices),
            density=model.density,
        )

    def _intervals(self, replicates: Floats) -> list[tuple[float, float] | None]:
        """The percentile interval of each slice; None where its hours are too few."""
        columns = zip(replicates.T, self._enough_hours, strict=True)
        return [_percentiles(column) if enough else None for column, enough in columns]

    def _r2(self, rmse: float) -> float:
        """1 - mean squared error / variance; where all durations are equal, 1 if all are met and 0 if not."""
        if self._variance:
            return 1 - rmse**2 / self._variance
        return 0.0 if rmse else 1.0


def _whole_minutes(minutes: Floats) -> npt.NDArray[np.int64]:
    return np.clip(minutes, 0, DENSITY_MINUTES - 1).astype(np.int64)


def _percentiles(replicates: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates[np.isfinite(replicates)], [tail, 1 - tail])
    return float(low), float(high)
