"""Gradient-boosted trees on the features of a trip: the candidate to beat."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Read when LightGBM's thread pool is loaded. Threads that wait for each other spin otherwise, and where anything else
# wants the cores, training takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightgbm
import numpy as np
import numpy.typing as npt

from tripcast.features import FEATURES, FeatureTables, OutOfFold
from tripcast.models.model import Search
from tripcast.trips import LONGEST_MINUTES, SHORTEST_MINUTES, Trips

Floats = npt.NDArray[np.float64]

#: The parameters that a search may change: the number of rounds, and others by LightGBM's names. The rounds are not
#: found by early stopping: the later trips are few and behind the traffic to come, and would stop it too soon. Twice
#: the rounds at half the rate gain 0.4 % of the error, and cost twice the time in training and in service.
DEFAULTS: dict[str, Any] = {
    "rounds": 200,
    "learning_rate": 0.1,
    "num_leaves": 63,
    "min_child_samples": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "lambda_l2": 5.0,
}

#: The rest. Column by column, and each tree's sums in one order, so that the model is the same however many threads
#: there are. How many is the environment's to say (``OMP_NUM_THREADS``): LightGBM writes parameters into the model.
_FIXED: dict[str, Any] = {
    "objective": "regression",
    "metric": "rmse",
    "bagging_freq": 1,
    "deterministic": True,
    "force_col_wise": True,
    "feature_pre_filter": False,  # a search tries several sizes of leaves on one dataset
    "seed": 42,
    "verbose": -1,
}

#: How much of the later trips' surplus over predictions is taken to last. Traffic drifts for weeks on end, so that a
#: model is behind from its first day; but part of what the last days show passes, and the fit to all trips sees them.
_LASTING = 0.5

#: Rows from which the boundaries of the histograms' bins are chosen; LightGBM's own default.
_BIN_ROWS = 200_000
#: Rows of features that exist at a time.
_BATCH_ROWS = 500_000

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
    booster: lightgbm.Booster
    level: float

    def predict(self, trips: Trips) -> Floats:
        """Durations in minutes, (n,), within the contract's 1 to 60."""
        threads = 1 if len(trips) < _ALONE else 0
        minutes = self.booster.predict(self.tables(trips), num_threads=threads) if len(trips) else np.empty(0)
        return np.clip(self.level * np.asarray(minutes, np.float64), SHORTEST_MINUTES, LONGEST_MINUTES)

    def files(self) -> dict[str, bytes]:
        """The booster in its native text, and the tables."""
        return {_BOOSTER: self.booster.model_to_string().encode(), **self.tables.files()}


class _Rows(lightgbm.Sequence):
    """Hands the features of training trips to LightGBM batch by batch, so that they never exist all at once."""

    batch_size = _BATCH_ROWS

    def __init__(self, features: OutOfFold) -> None:
        self._features = features

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:  # type: ignore[override]  # never asked for one row
        return self._features[rows]

    def __len__(self) -> int:
        return len(self._features)


@dataclass(frozen=True)
class Rehearsal:
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
    def of(cls, earlier: Trips, later: Trips) -> Rehearsal:
        """Compute the features once."""
        features = OutOfFold(earlier)
        assert later.duration_minutes is not None
        data = _dataset(features, earlier.duration_minutes)
        return cls(features.tables, data, features.tables(later), later.duration_minutes)

    def play(self, parameters: Mapping[str, Any]) -> tuple[Boosted, float]:
        """Fit to the earlier trips and judge on the later ones.

        Args:
            parameters: As ``DEFAULTS``.

        Returns:
            The predictor, and its RMSE on the later trips in minutes. That leaves the predictor's level aside, which
            the later trips themselves decide.
        """
        booster = _boost(self.earlier, parameters)
        predicted = np.asarray(booster.predict(self.later), np.float64)
        surplus = float(predicted @ self.actual / (predicted @ predicted)) - 1
        rmse = float(np.sqrt(np.mean((predicted - self.actual) ** 2)))
        return Boosted(self.tables, booster, round(1 + _LASTING * surplus, 4)), rmse


def rehearse(earlier: Trips, later: Trips, search: Search) -> tuple[Boosted, dict[str, Any]]:
    """Fit to the earlier trips; choose the level on the later ones."""
    predictor, _ = Rehearsal.of(earlier, later).play(DEFAULTS)
    return predictor, {**DEFAULTS, "level": predictor.level}


def fit(trips: Trips, parameters: Mapping[str, Any]) -> Boosted:
    """Fit to trips with parameters from ``rehearse``."""
    features = OutOfFold(trips)
    boosting = {name: value for name, value in parameters.items() if name != "level"}
    booster = _boost(_dataset(features, trips.duration_minutes), boosting)
    return Boosted(features.tables, booster, parameters["level"])


def load(files: Mapping[str, bytes], parameters: Mapping[str, Any]) -> Boosted:
    """Read the booster and the tables.

    Raises:
        KeyError: If one is missing.
        ValueError: If one cannot be read.
    """
    try:
        booster = lightgbm.Booster(model_str=files[_BOOSTER].decode())
    except lightgbm.basic.LightGBMError as trouble:
        raise ValueError(str(trouble)) from trouble
    if booster.feature_name() != list(FEATURES):
        raise ValueError("it was trained on other features than this tripcast computes")
    return Boosted(FeatureTables.load(files), booster, parameters["level"])


def _boost(data: lightgbm.Dataset, parameters: Mapping[str, Any]) -> lightgbm.Booster:
    boosting = {name: value for name, value in parameters.items() if name != "rounds"}
    return lightgbm.train({**_FIXED, **boosting}, data, num_boost_round=parameters["rounds"])


def _dataset(features: OutOfFold, minutes: Floats | None) -> lightgbm.Dataset:
    # LightGBM would ask a Sequence for its sample row by row. It takes the bins of another dataset instead.
    count = min(len(features), _BIN_ROWS)
    sample = features[np.linspace(0, len(features) - 1, count).astype(np.intp)]
    names = list(FEATURES)
    bins = lightgbm.Dataset(sample, feature_name=names, params=_FIXED)
    return lightgbm.Dataset(
        _Rows(features), minutes, reference=bins.construct(), feature_name=names, params=_FIXED
    ).construct()
