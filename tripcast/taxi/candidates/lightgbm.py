"""Gradient-boosted trees on the features of a trip: the candidate to beat.

There are two boosters, for a distance says so much that trees grown with it hardly look at anything else. One looks at
the distance as the meter shows it. The other looks at zones and time alone, and answers those who know no distance.
Those who plan a distance are answered by both: a plan may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tripcast.models.booster import Booster
from tripcast.models.model import Search
from tripcast.taxi.features import (
    FEATURES,
    PLAUSIBLE_MILES,
    USUAL_MILES,
    FeatureTables,
    OutOfFold,
    has_plausible_distance,
)
from tripcast.taxi.interval_groups import group_of, groups_of
from tripcast.taxi.trips import LONGEST_MINUTES, SHORTEST_MINUTES, Trip, Trips

if TYPE_CHECKING:
    import lightgbm

Floats = npt.NDArray[np.float64]

#: The parameters that a search may change: the number of rounds, and others by LightGBM's names. The rounds are not
#: found by early stopping: the later trips are few and behind the traffic to come, and would stop it too soon. Half as
#: many rounds again, with fewer leaves and smaller steps than LightGBM's default of 0.1, gain 0.4 % of the error; twice
#: the rounds at half the step gain 0.1 % more, and cost twice the time.
DEFAULTS: dict[str, Any] = {
    "rounds": 150,
    "learning_rate": 0.07,
    "num_leaves": 95,
    "min_child_samples": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "lambda_l2": 5.0,
}

#: Those of the booster of zones and time: there is less to learn, so fewer and smaller trees do.
_ZONES_DEFAULTS: dict[str, Any] = {**DEFAULTS, "rounds": 40, "learning_rate": 0.15, "num_leaves": 63}

#: How much the booster of zones and time counts where the distance is a plan. Chosen within January and February, 2021
#: and 2022, with plans that are wrong by 20 %.
_DOUBT_OF_PLANS = 0.3

#: How much of the later trips' surplus over predictions is taken to last. Traffic drifts for weeks on end, so that a
#: model is behind from its first day; but part of what the last days show passes, and the fit to all trips sees them.
_LASTING = 0.5

#: Fewer trips than this are predicted by one thread: starting others would take longer than the work. More are by as
#: many as ``OMP_NUM_THREADS`` allows.
_ALONE = 10_000

_BOOSTER, _ZONES_BOOSTER = "booster.txt", "zones_booster.txt"


@dataclass(frozen=True)
class Boosted:
    """Two boosters with the tables that their features come from.

    Attributes:
        tables: Compute the features.
        booster: Predicts minutes from them where the distance is metered.
        level: Factor on its predictions.
        zones_booster: Predicts minutes from those that do not depend on the distance.
        zones_level: Factor on its predictions.
    """

    tables: FeatureTables
    booster: Booster
    level: float
    zones_booster: Booster
    zones_level: float

    def predict(self, trips: Trips, metered: bool = False) -> Floats:
        """Durations in minutes, (n,), within the contract's 1 to 60."""
        rows = self.tables(trips)
        threads = 1 if len(trips) < _ALONE else 0
        if metered:
            minutes = self.level * self.booster.predict(rows, threads)
        else:
            minutes = self.zones_level * self.zones_booster.predict(rows, threads)
            planned = has_plausible_distance(trips)
            minutes[planned] *= _DOUBT_OF_PLANS
            minutes[planned] += (1 - _DOUBT_OF_PLANS) * self.level * self.booster.predict(rows[planned], threads)
        return np.clip(minutes, SHORTEST_MINUTES, LONGEST_MINUTES)

    def predict_one(self, trip: Trip, metered: bool = False) -> float:
        """The duration of one trip in minutes, as ``predict`` computes it. For one thread: there is one row."""
        self.tables.write_row(self.booster.row, trip)
        if metered:
            minutes = self.level * self.booster.predict_row()
        else:
            minutes = self.zones_level * self.zones_booster.predict_row()
            if 0 < trip.trip_distance_miles <= PLAUSIBLE_MILES:
                minutes *= _DOUBT_OF_PLANS
                minutes += (1 - _DOUBT_OF_PLANS) * self.level * self.booster.predict_row()
        if minutes < SHORTEST_MINUTES:
            return float(SHORTEST_MINUTES)
        return minutes if minutes < LONGEST_MINUTES else float(LONGEST_MINUTES)

    def groups(self, trips: Trips, metered: bool) -> npt.NDArray[np.str_]:
        """The interval group of each trip, (n,)."""
        return groups_of(trips, metered, self.tables.usual_miles(trips))

    def group_of(self, trip: Trip, metered: bool) -> str:
        """The interval group of the trip that was predicted last."""
        return group_of(trip, metered, self.booster.row[USUAL_MILES])

    def contributions(self, trip: Trip) -> Floats:
        """How many minutes each feature adds to the prediction of a trip that has not begun yet, (24,).

        The last is the mean prediction, and all add up to what is predicted before it is kept within bounds.
        """
        trips = Trips.of([trip])
        rows = self.tables(trips)
        doubt = np.where(has_plausible_distance(trips), _DOUBT_OF_PLANS, 1.0)
        minutes: Floats = (
            doubt * self.zones_level * self.zones_booster.contributions(rows)[0]
            + (1 - doubt) * self.level * self.booster.contributions(rows)[0]
        )
        return minutes

    def files(self) -> dict[str, bytes]:
        """The boosters in their native text, and the tables."""
        boosters = {_BOOSTER: self.booster.text}
        if self.zones_booster is not self.booster:
            boosters[_ZONES_BOOSTER] = self.zones_booster.text
        return {**boosters, **self.tables.files()}


@dataclass(frozen=True)
class HoldoutFit:
    """The earlier and the later training trips as LightGBM takes them, to try parameters on.

    Attributes:
        tables: Learned from the earlier trips.
        earlier: What to fit to.
        later: Features of the later trips, (m, 23).
        actual: Their true durations, minutes, (m,).
        zones_booster: That of zones and time, fitted to the earlier trips; its parameters are not searched for.
        zones_level: Its level, chosen on the later trips.
    """

    tables: FeatureTables
    earlier: lightgbm.Dataset
    later: npt.NDArray[np.float32]
    actual: Floats
    zones_booster: bytes
    zones_level: float

    @classmethod
    def of(cls, earlier: Trips, later: Trips) -> HoldoutFit:
        """Compute the features once."""
        from tripcast.taxi.candidates import boosting

        assert earlier.duration_minutes is not None
        assert later.duration_minutes is not None
        features = OutOfFold(earlier)
        data = boosting.dataset(features, earlier.duration_minutes)
        rows, actual = features.tables(later), later.duration_minutes
        zones_booster = boosting.boost_without_distance(data, _ZONES_DEFAULTS)
        predicted = Booster(zones_booster, FEATURES).predict(rows, threads=0)
        return cls(features.tables, data, rows, actual, zones_booster, _level(predicted, actual))

    def run(self, parameters: Mapping[str, Any]) -> tuple[Boosted, float]:
        """Fit to the earlier trips and judge on the later ones.

        Args:
            parameters: As ``DEFAULTS``.

        Returns:
            The predictor, and its RMSE on the later trips in minutes where their distance is metered. That leaves the
            predictor's level aside, which the later trips themselves decide.
        """
        from tripcast.taxi.candidates import boosting

        trees = boosting.boost(self.earlier, parameters)
        predictor = _boosted(self.tables, trees, 1.0, self.zones_booster, self.zones_level)
        predicted = predictor.booster.predict(self.later, threads=0)
        rmse = float(np.sqrt(np.mean((predicted - self.actual) ** 2)))
        return replace(predictor, level=_level(predicted, self.actual)), rmse


def _level(predicted: Floats, actual: Floats) -> float:
    surplus = float(predicted @ actual / (predicted @ predicted)) - 1
    return round(1 + _LASTING * surplus, 4)


def _boosted(tables: FeatureTables, trees: bytes, level: float, zones_trees: bytes, zones_level: float) -> Boosted:
    booster = Booster(trees, FEATURES)
    return Boosted(tables, booster, level, Booster(zones_trees, FEATURES, shares=booster), zones_level)


def fit_holdout(earlier: Trips, later: Trips, search: Search) -> tuple[Boosted, dict[str, Any]]:
    """Fit to the earlier trips; choose the levels on the later ones."""
    predictor, _ = HoldoutFit.of(earlier, later).run(DEFAULTS)
    return predictor, {**DEFAULTS, "level": predictor.level, "zones_level": predictor.zones_level}


def fit(trips: Trips, parameters: Mapping[str, Any]) -> Boosted:
    """Fit to trips with parameters from ``fit_holdout``."""
    from tripcast.taxi.candidates import boosting

    assert trips.duration_minutes is not None
    features = OutOfFold(trips)
    data = boosting.dataset(features, trips.duration_minutes)
    grown_with = {name: parameters[name] for name in DEFAULTS}
    return _boosted(
        features.tables,
        boosting.boost(data, grown_with),
        parameters["level"],
        boosting.boost_without_distance(data, _ZONES_DEFAULTS),
        parameters["zones_level"],
    )


def load(files: Mapping[str, bytes], parameters: Mapping[str, Any]) -> Boosted:
    """Read the boosters and the tables.

    Raises:
        KeyError: If one is missing.
        ValueError: If one cannot be read.
    """
    tables = FeatureTables.load(files)
    if _ZONES_BOOSTER not in files:  # model format 1 had one booster for trips with a distance and without
        booster = Booster(files[_BOOSTER], FEATURES)
        return Boosted(tables, booster, parameters["level"], booster, parameters["level"])
    return _boosted(tables, files[_BOOSTER], parameters["level"], files[_ZONES_BOOSTER], parameters["zones_level"])
