"""Judge predictions on trips whose duration is known: overall, slice by slice, and against the champion's.

Every candidate and the champion are judged on the very same trips, and all intervals are those of
``tripcast.evaluation.confidence``: a day is what is drawn by chance, the same day for both models.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tripcast.errors import ContractError
from tripcast.evaluation import confidence
from tripcast.evaluation.confidence import Measure
from tripcast.models import Prediction

Floats = npt.NDArray[np.float64]

#: The share of trips that should end within a prediction interval of 10 % to 90 %.
NOMINAL_COVERAGE = 0.8

#: Durations and predictions are counted in bins of one minute from 0 to this; what lies beyond counts in the last.
DENSITY_MINUTES = 60

#: No number beyond this, some two years, is taken for a prediction; nor is NaN.
MAX_MINUTES = 1e6


@dataclass(frozen=True)
class Slicing:
    """Into which slices trips fall, along one or more dimensions; those of each dimension add up to all trips.

    Attributes:
        labels: The names of each dimension's slices, in reading order.
        codes: Each trip's place among these, (n,), for each dimension.
        series: The dimensions whose slices follow each other in time, to be drawn as a curve.
    """

    labels: Mapping[str, Sequence[str]]
    codes: Mapping[str, npt.NDArray[np.integer[Any]]]
    series: Collection[str] = ()


@dataclass(frozen=True)
class SliceScores:
    """How one model did on the trips of one slice.

    Attributes:
        dimension: One of the slicing's.
        label: The slice's name within its dimension.
        trips: Number of trips.
        rmse: Root mean squared error, minutes.
        mae: Mean absolute error, minutes.
        bias: Mean of prediction minus truth, minutes: positive where trips are predicted too long.
        interval_coverage: Share of trips that ended within their prediction interval.
        interval_width: Mean width of the prediction intervals, minutes.
        difference: RMSE minus the champion's, minutes; None without a champion.
    """

    dimension: str
    label: str
    trips: int
    rmse: float
    mae: float
    bias: float
    interval_coverage: float
    interval_width: float
    difference: Measure | None


@dataclass(frozen=True)
class Scores:
    """How one model did on all trips, and on each slice.

    Attributes:
        trips: Number of trips.
        rmse: Root mean squared error, minutes.
        rmse_interval: The confidence interval of ``rmse``; None where all trips are of one day.
        mae: Mean absolute error, minutes.
        r2: Coefficient of determination: 1 is perfect, 0 is no better than always saying the mean.
        p90_error: The absolute error that nine trips in ten stay below, minutes.
        bias: Mean of prediction minus truth, minutes.
        interval_coverage: Share of trips that ended within their prediction interval.
        interval_width: Mean width of the prediction intervals, minutes.
        difference: RMSE minus the champion's, minutes; None without a champion.
        slices: Every slice that has trips, in the slicing's order.
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
    difference: Measure | None
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
        days: Number of days on which they began.
        slicing: Into which slices they fall.
        candidates: Scores by name, lowest RMSE first.
        champion: Scores of the model now in service, if there is one that can be judged.
        disqualified: Candidates that cannot be judged, with the reason.
        champion_problem: Why the champion cannot be judged, if it cannot.
    """

    trips: int
    days: int
    slicing: Slicing = field(repr=False, compare=False)
    candidates: dict[str, Scores]
    champion: Scores | None = None
    disqualified: dict[str, str] = field(default_factory=dict)
    champion_problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the densities and the slicing, ready for JSON."""
        return {
            "trips": self.trips,
            "days": self.days,
            "candidates": {name: scores.to_dict() for name, scores in self.candidates.items()},
            "champion": self.champion.to_dict() if self.champion else None,
            "disqualified": self.disqualified,
            "champion_problem": self.champion_problem,
        }


def evaluate(
    minutes: Floats,
    pickup: npt.NDArray[np.datetime64],
    slicing: Slicing,
    predictions: Mapping[str, Prediction],
    champion: Prediction | None = None,
) -> Evaluation:
    """Judge candidates, and the champion, on the same trips.

    Args:
        minutes: How long the test month's trips took, (n,).
        pickup: When they began, local time, (n,).
        slicing: Into which slices they fall.
        predictions: Each candidate's predictions for these trips, by the candidate's name.
        champion: The predictions of the model now in service for these trips.

    Raises:
        ContractError: If there are no trips to judge on.
        ValueError: If a prediction is not of the trips' number.
    """
    if not len(minutes):
        raise ContractError("The test month has no trips to judge on: choose a month that has some.")
    problems = {name: _problem(prediction, len(minutes)) for name, prediction in predictions.items()}
    champion_problem = champion and _problem(champion, len(minutes))
    trips = _SlicedTrips(minutes, pickup, slicing)
    reference = trips.measure(champion) if champion and not champion_problem else None
    candidates = {
        name: trips.score(trips.measure(prediction), reference)
        for name, prediction in predictions.items()
        if not problems[name]
    }
    return Evaluation(
        trips=len(minutes),
        days=trips.days,
        slicing=slicing,
        candidates=dict(sorted(candidates.items(), key=lambda item: item[1].rmse)),
        champion=trips.score(reference) if reference else None,
        disqualified={name: problem for name, problem in problems.items() if problem},
        champion_problem=champion_problem or None,
    )


def _problem(prediction: Prediction, trips: int) -> str | None:
    """Why a prediction cannot be judged, as a sentence; None if it can."""
    shapes = {values.shape for values in (prediction.minutes, prediction.lower, prediction.upper)}
    if shapes != {(trips,)}:
        raise ValueError(f"Predictions for {trips:,} trips are wanted, but their shapes are {sorted(shapes)}.")
    plausible = np.ones(trips, np.bool_)
    for values in (prediction.minutes, prediction.lower, prediction.upper):
        plausible &= np.abs(values) < MAX_MINUTES  # false for NaN, too
    missing = trips - np.count_nonzero(plausible)
    return f"It gives no plausible number of minutes for {missing:,} of {trips:,} trips." if missing else None


@dataclass(frozen=True)
class _ModelErrors:
    """What was measured of one model: sums by slice and day, (slices, days), and of all trips."""

    squared: Floats
    absolute: Floats
    signed: Floats
    covered: Floats
    width: Floats
    p90_error: float
    density: npt.NDArray[np.int64]


class _SlicedTrips:
    """The trips that all models are judged on, by slice and day.

    The first slice is all trips. Slices without trips are left out.
    """

    def __init__(self, minutes: Floats, pickup: npt.NDArray[np.datetime64], slicing: Slicing) -> None:
        days, self._day = np.unique(pickup.astype("datetime64[D]"), return_inverse=True)
        self.days = len(days)
        self._slicing = slicing
        self._minutes = minutes
        self._whole_minutes = _whole_minutes(minutes)
        self._variance = float(np.var(minutes))
        names = [("all", "all trips")]
        names += [(dimension, label) for dimension, labels in slicing.labels.items() for label in labels]
        trips = self._sum(None)
        self._occupied = np.flatnonzero(trips.any(axis=1))
        self._names = [names[place] for place in self._occupied]
        self._trips = trips[self._occupied]

    def _sum(self, values: Floats | None) -> Floats:
        """Sums of a quantity over the trips of each slice and day, or their number: (slices, days)."""
        sums = [np.bincount(self._day, values)[np.newaxis]]
        for dimension, labels in self._slicing.labels.items():
            cell = self._day * len(labels) + self._slicing.codes[dimension]
            sums.append(np.bincount(cell, values, self.days * len(labels)).reshape(self.days, len(labels)).T)
        return np.vstack(sums).astype(np.float64)

    def measure(self, prediction: Prediction) -> _ModelErrors:
        """Sum one model's errors; at most three arrays of the trips' number are made at a time."""
        error = prediction.minutes - self._minutes
        signed, squared = self._sum(error), self._sum(error**2)
        np.abs(error, out=error)
        absolute = self._sum(error)
        p90_error = float(np.quantile(error, 0.9, overwrite_input=True))
        del error
        covered = (prediction.lower <= self._minutes) & (self._minutes <= prediction.upper)
        bins = self._whole_minutes * DENSITY_MINUTES + _whole_minutes(prediction.minutes)
        return _ModelErrors(
            squared=squared[self._occupied],
            absolute=absolute[self._occupied],
            signed=signed[self._occupied],
            covered=self._sum(covered.astype(np.float64))[self._occupied],
            width=self._sum(prediction.upper - prediction.lower)[self._occupied],
            p90_error=p90_error,
            density=np.bincount(bins, minlength=DENSITY_MINUTES**2).reshape(DENSITY_MINUTES, DENSITY_MINUTES),
        )

    def score(self, model: _ModelErrors, champion: _ModelErrors | None = None) -> Scores:
        """One model's scores, with its difference to the champion where there is one."""
        whole, *slices = (self._score_slice(place, model, champion) for place in range(len(self._names)))
        return Scores(
            trips=whole.trips,
            rmse=whole.rmse,
            rmse_interval=confidence.rmse(model.squared[0], self._trips[0]).interval,
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

    def _score_slice(self, place: int, model: _ModelErrors, champion: _ModelErrors | None) -> SliceScores:
        trips = self._trips[place]
        mean_square, mae, bias, coverage, width = (
            float(sums[place].sum() / trips.sum())
            for sums in (model.squared, model.absolute, model.signed, model.covered, model.width)
        )
        difference = None
        if champion:
            difference = confidence.rmse_difference(model.squared[place], champion.squared[place], trips)
        return SliceScores(
            *self._names[place], int(trips.sum()), math.sqrt(mean_square), mae, bias, coverage, width, difference
        )

    def _r2(self, rmse: float) -> float:
        """1 - mean squared error / variance; where all durations are equal, 1 if all are met and 0 if not."""
        if self._variance:
            return 1 - rmse**2 / self._variance
        return 0.0 if rmse else 1.0


def _whole_minutes(minutes: Floats) -> npt.NDArray[np.int64]:
    return np.clip(minutes, 0, DENSITY_MINUTES - 1).astype(np.int64)
