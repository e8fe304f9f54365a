"""Gradient-boosted trees on the features of a trip: the candidate to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tripcast.models.booster import Booster
from tripcast.models.model import Search
from tripcast.taxi.features import FEATURES, FeatureTables, OutOfFold
from tripcast.taxi.trips import LONGEST_MINUTES, SHORTEST_MINUTES, Trip, Trips

if TYPE_CHECKING:
    import lightgbm

Floats = npt.NDArray[np.float64]

#: The parameters that a search may change: the number of rounds, and others by LightGBM's names. The rounds are not
#: found by early stopping: the later trips are few and behind the traffic to come, and would stop it too soon. Twice
#: the rounds at half the rate gain 0.3 % of the error, and cost twice the time in training and in service. Twice the
#: rounds with half the leaves gain nothing, and cost half as much again.
DEFAULTS: dict[str, Any] = {
    "rounds": 100,
    "learning_rate": 0.1,
    "num_leaves": 127,
    "min_child_samples": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "lambda_l2": 5.0,
}

#: How much of the later trips' surplus over predictions is taken to last. Traffic drifts for weeks on end, so that a
#: model is behind from its first day; but part of what the last days show passes, and the fit to all trips sees them.
_LASTING = 0.5

#: Fewer trips than this are predicted by one thread: starting others would take longer than the work. More are by as
#: many as ``OMP_NUM_THREADS`` allows.
_ALONE = 10_000

_BOOSTER = "booster.txt"


@dataclass(frozen=True)
class Boosted:
    """A booster with the tables that its features come from.

    Attributes:
        tables: Compute the features.
        booster: Predicts minutes from them.
        level: Factor on its predictions.
    """

    tables: FeatureTables
    booster: Booster
    level: float

    def predict(self, trips: Trips) -> Floats:
        """Durations in minutes, (n,), within the contract's 1 to 60."""
        minutes = self.booster.predict(self.tables(trips), threads=1 if len(trips) < _ALONE else 0)
        return np.clip(self.level * minutes, SHORTEST_MINUTES, LONGEST_MINUTES)

    def predict_one(self, trip: Trip) -> float:
        """The duration of one trip in minutes, as ``predict`` computes it. For one thread: the booster has one row."""
        self.tables.write_row(self.booster.row, trip)
        minutes = self.level * self.booster.predict_row()
        if minutes < SHORTEST_MINUTES:
            return float(SHORTEST_MINUTES)
        return minutes if minutes < LONGEST_MINUTES else float(LONGEST_MINUTES)

    def files(self) -> dict[str, bytes]:
        """The booster in its native text, and the tables."""
        return {_BOOSTER: self.booster.text, **self.tables.files()}


@dataclass(frozen=True)
class HoldoutFit:
    """The earlier and the later training trips as LightGBM takes them, to try parameters on.

    Attributes:
        tables: Learned from the earlier trips.
        earlier: What to fit to.
        later: Features of the later trips, (m, 17).
        actual: Their true durations, minutes, (m,).
    """

    tables: FeatureTables
    earlier: lightgbm.Dataset
    later: npt.NDArray[np.float32]
    actual: Floats

    @classmethod
    def of(cls, earlier: Trips, later: Trips) -> HoldoutFit:
        """Compute the features once."""
        from tripcast.taxi.candidates import boosting

        assert earlier.duration_minutes is not None
        assert later.duration_minutes is not None
        features = OutOfFold(earlier)
        data = boosting.dataset(features, earlier.duration_minutes)
        return cls(features.tables, data, features.tables(later), later.duration_minutes)

    def run(self, parameters: Mapping[str, Any]) -> tuple[Boosted, float]:
        """Fit to the earlier trips and judge on the later ones.

        Args:
            parameters: As ``DEFAULTS``.

        Returns:
            The predictor, and its RMSE on the later trips in minutes. That leaves the predictor's level aside, which
            the later trips themselves decide.
        """
        from tripcast.taxi.candidates import boosting

        booster = Booster(boosting.boost(self.earlier, parameters), FEATURES)
        predicted = booster.predict(self.later, threads=0)
        surplus = float(predicted @ self.actual / (predicted @ predicted)) - 1
        rmse = float(np.sqrt(np.mean((predicted - self.actual) ** 2)))
        return Boosted(self.tables, booster, round(1 + _LASTING * surplus, 4)), rmse


def fit_holdout(earlier: Trips, later: Trips, search: Search) -> tuple[Boosted, dict[str, Any]]:
    """Fit to the earlier trips; choose the level on the later ones."""
    predictor, _ = HoldoutFit.of(earlier, later).run(DEFAULTS)
    return predictor, {**DEFAULTS, "level": predictor.level}


def fit(trips: Trips, parameters: Mapping[str, Any]) -> Boosted:
    """Fit to trips with parameters from ``fit_holdout``."""
    from tripcast.taxi.candidates import boosting

    assert trips.duration_minutes is not None
    features = OutOfFold(trips)
    grown_with = {name: value for name, value in parameters.items() if name != "level"}
    trees = boosting.boost(boosting.dataset(features, trips.duration_minutes), grown_with)
    return Boosted(features.tables, Booster(trees, FEATURES), parameters["level"])


def load(files: Mapping[str, bytes], parameters: Mapping[str, Any]) -> Boosted:
    """Read the booster and the tables.

    Raises:
        KeyError: If one is missing.
        ValueError: If one cannot be read.
    """
    return Boosted(FeatureTables.load(files), Booster(files[_BOOSTER], FEATURES), parameters["level"])
