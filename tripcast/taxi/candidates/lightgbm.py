"""Gradient-boosted trees on the features of a trip, grown by LightGBM: the candidate to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tripcast.models.model import Search
from tripcast.models.workers import Workers
from tripcast.taxi.candidates.boosted import DEFAULTS, LEVELS, Boosted, boosters, load
from tripcast.taxi.features import OutOfFold
from tripcast.taxi.trips import TripBatches, Trips
from tripcast.taxi.ways import METERED

__all__ = ["fit", "fit_holdout", "load"]


def fit_holdout(earlier: Trips, later: Trips, search: Search) -> tuple[Boosted, dict[str, Any]]:
    """Fit to the earlier trips; choose the levels on the later ones."""
    from tripcast.taxi.candidates.boosting import HoldoutFit

    predictor, _ = HoldoutFit.of(earlier, later).run(DEFAULTS)
    return predictor, {**DEFAULTS, **predictor.chosen()}


def fit(trips: TripBatches, parameters: Mapping[str, Any], workers: Workers | None = None) -> Boosted:
    """Fit to trips with parameters from ``fit_holdout``.

    Raises:
        WorkerError: If a worker dies.
    """
    from tripcast.taxi.candidates import boosting, distributed

    features = OutOfFold(trips)
    grown_with = {**boosting.others_of(features), METERED: {name: parameters[name] for name in DEFAULTS}}
    bins = boosting.bins_of(features, trips)
    if workers:
        trees = distributed.grow_by_workers(features, trips, grown_with, bins, workers)
    else:
        trees = boosting.grow(features, trips, grown_with, bins)
    levels = {way: parameters[name] for way, name in LEVELS.items()}
    return Boosted(features.tables, boosters(trees), levels)
