"""Judge predictions on trips whose duration is known: overall, slice by slice, and against the champion's.

Every candidate and the champion are judged on the very same trips, and all intervals are those of
``tripcast.evaluation.confidence``: a day is what is drawn by chance, the same day for both models.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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


@dataclass(frozen=True)
class Batch:
    """Some of the trips to judge on, and what was predicted for them.

    Attributes:
        minutes: How long they took, (n,).
        pickup: When they began, local time, (n,).
        slicing: Into which slices they fall; the labels are the same for all batches.
        predictions: Each candidate's predictions, by the candidate's name.
        champion: The predictions of the model now in service.
    """

    minutes: Floats
    pickup: npt.NDArray[np.datetime64]
    slicing: Slicing
    predictions: Mapping[str, Prediction]
    champion: Prediction | None = None


def evaluate(batches: Iterable[Batch]) -> Evaluation:
    """Judge candidates, and the champion, on the same trips, of which one batch at a time is looked at.

    Args:
        batches: Of the trips of the test month; none of them empty.

    Raises:
        ContractError: If there are no trips to judge on.
        ValueError: If a prediction is not of the trips' number.
    """
    trips = _SlicedTrips()
    models: dict[str | None, _Measured] = {}  # None is the champion
    for batch in batches:
        cells = trips.add(batch)
        for name, prediction in (*batch.predictions.items(), (None, batch.champion)):
            if prediction:
                models.setdefault(name, _Measured()).add(prediction, batch, cells)
    if not trips.number:
        raise ContractError("The test month has no trips to judge on: choose a month that has some.")
    problems = {name: model.problem(trips.number) for name, model in models.items()}
    champion = models[None] if None in models and not problems[None] else None
    scores = {
        name: trips.score(model, champion) for name, model in models.items() if name is not None and not problems[name]
    }
    return Evaluation(
        trips=trips.number,
        days=len(trips.days),
        slicing=trips.slicing,
        candidates=dict(sorted(scores.items(), key=lambda item: item[1].rmse)),
        champion=trips.score(champion) if champion else None,
        disqualified={name: problem for name, problem in problems.items() if name is not None and problem},
        champion_problem=problems.get(None),
    )


@dataclass(frozen=True)
class _Cells:
    """The slices and days of a batch's trips: sums over them. The first slice is all trips."""

    days: npt.NDArray[np.datetime64]
    day: npt.NDArray[np.intp]
    slicing: Slicing

    def add(self, to: _ByDay, *quantities: Floats | None) -> None:
        """Add the sums of quantities over the trips of each slice and day; None is their number."""
        sums = np.stack([self._sum(values) for values in quantities])
        for place, day in enumerate(self.days.astype(np.int64).tolist()):
            to[day] = to.get(day, 0.0) + sums[..., place]

    def _sum(self, values: Floats | None) -> Floats:
        sums = [np.bincount(self.day, values)[np.newaxis]]
        for dimension, labels in self.slicing.labels.items():
            cell = self.day * len(labels) + self.slicing.codes[dimension]
            sums.append(np.bincount(cell, values, len(self.days) * len(labels)).reshape(-1, len(labels)).T)
        return np.vstack(sums).astype(np.float64)


#: Sums of quantities by slice, (quantities, slices), by the day's number since 1970.
_ByDay = dict[int, Floats]


class _Measured:
    """What is measured of one model, batch by batch.

    Attributes:
        sums: Of the squared, absolute and signed error, of trips within their interval, and of its width.
    """

    def __init__(self) -> None:
        self.sums: _ByDay = {}
        self._missing = 0
        self._errors: list[npt.NDArray[np.float32]] = []
        self._density = np.zeros(DENSITY_MINUTES**2, np.int64)

    def add(self, prediction: Prediction, batch: Batch, cells: _Cells) -> None:
        self._missing += _missing(prediction, len(batch.minutes))
        if self._missing:
            return
        error = prediction.minutes - batch.minutes
        covered = (prediction.lower <= batch.minutes) & (batch.minutes <= prediction.upper)
        absolute, width = np.abs(error), prediction.upper - prediction.lower
        cells.add(self.sums, error**2, absolute, error, covered.astype(np.float64), width)
        self._errors.append(absolute.astype(np.float32))
        bins = _whole_minutes(batch.minutes) * DENSITY_MINUTES + _whole_minutes(prediction.minutes)
        self._density += np.bincount(bins, minlength=DENSITY_MINUTES**2)

    def problem(self, trips: int) -> str | None:
        """Why the model cannot be judged, as a sentence; None if it can."""
        if not self._missing:
            return None
        return f"It gives no plausible number of minutes for {self._missing:,} of {trips:,} trips."

    @property
    def p90_error(self) -> float:
        return float(np.quantile(np.concatenate(self._errors), 0.9, overwrite_input=True))

    @property
    def density(self) -> npt.NDArray[np.int64]:
        return self._density.reshape(DENSITY_MINUTES, DENSITY_MINUTES)


def _missing(prediction: Prediction, trips: int) -> int:
    """For how many trips a prediction is none."""
    shapes = {values.shape for values in (prediction.minutes, prediction.lower, prediction.upper)}
    if shapes != {(trips,)}:
        raise ValueError(f"Predictions for {trips:,} trips are wanted, but their shapes are {sorted(shapes)}.")
    plausible = np.ones(trips, np.bool_)
    for values in (prediction.minutes, prediction.lower, prediction.upper):
        plausible &= np.abs(values) < MAX_MINUTES  # false for NaN, too
    return trips - int(np.count_nonzero(plausible))


class _SlicedTrips:
    """The trips that all models are judged on, by slice and day; slices without trips are left out."""

    slicing: Slicing

    def __init__(self) -> None:
        self.number = 0
        self._counts: _ByDay = {}
        self._moments = np.zeros(2)

    def add(self, batch: Batch) -> _Cells:
        """Take in a batch, and say in which cells its trips are."""
        days, day = np.unique(batch.pickup.astype("datetime64[D]"), return_inverse=True)
        cells = _Cells(days, day, batch.slicing)
        self.number += len(batch.minutes)
        self.slicing = batch.slicing
        cells.add(self._counts, None)
        self._moments += batch.minutes.sum(), (batch.minutes**2).sum()
        return cells

    @cached_property
    def days(self) -> list[int]:
        """The days on which trips began, in order."""
        return sorted(self._counts)

    def _total(self, sums: _ByDay) -> Floats:
        """Sums by slice and day, (quantities, slices, days)."""
        return np.stack([sums[day] for day in self.days], axis=-1)

    @cached_property
    def _trips(self) -> Floats:
        trips: Floats = self._total(self._counts)[0]
        return trips

    def score(self, model: _Measured, champion: _Measured | None = None) -> Scores:
        """One model's scores, with its difference to the champion where there is one."""
        sums, others = self._total(model.sums), self._total(champion.sums) if champion else None
        names = [("all", "all trips")]
        names += [(dimension, label) for dimension, labels in self.slicing.labels.items() for label in labels]
        whole, *slices = (
            self._score_slice(name, trips, sums[:, place], None if others is None else others[0, place])
            for place, (name, trips) in enumerate(zip(names, self._trips, strict=True))
            if trips.any()
        )
        return Scores(
            trips=whole.trips,
            rmse=whole.rmse,
            rmse_interval=confidence.rmse(sums[0, 0], self._trips[0]).interval,
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

    def _score_slice(self, name: tuple[str, str], trips: Floats, sums: Floats, champion: Floats | None) -> SliceScores:
        """The scores on a slice, by its sums on each day: (days,), (quantities, days), and the champion's squares."""
        mean_square, mae, bias, coverage, width = (float(of_days.sum() / trips.sum()) for of_days in sums)
        difference = None if champion is None else confidence.rmse_difference(sums[0], champion, trips)
        return SliceScores(*name, int(trips.sum()), math.sqrt(mean_square), mae, bias, coverage, width, difference)

    def _r2(self, rmse: float) -> float:
        """1 - mean squared error / variance; where all durations are equal, 1 if all are met and 0 if not."""
        mean, squares = (float(moment) for moment in self._moments / self.number)
        variance = squares - mean**2
        if variance > 1e-12 * squares:  # the rest is rounding
            return 1 - rmse**2 / variance
        return 0.0 if rmse else 1.0


def _whole_minutes(minutes: Floats) -> npt.NDArray[np.int64]:
    return np.clip(minutes, 0, DENSITY_MINUTES - 1).astype(np.int64)
