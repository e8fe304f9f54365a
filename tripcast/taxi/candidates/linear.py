"""The yardstick: the linear regression of the well-known duration-prediction notebook.

One coefficient for each pair of zones seen in training (the notebook's one-hot ``PU_DO``), one for the distance as
recorded, and an intercept. A pair that was not seen adds nothing. The notebook is never asked without a distance; where
this model is, the pair's mean distance stands in. Where no trip that it learned from has one, zones are all there is.

The solver is part of the yardstick. On a sparse matrix scikit-learn's LinearRegression is LSQR, and absurd distances
make it stop short of the least squares: on 2021-01 and 2021-02 an exact solution has an RMSE of 7.48 minutes where the
notebook has 7.76.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from tripcast.models.model import Search
from tripcast.models.workers import Workers
from tripcast.taxi.features import has_plausible_distance
from tripcast.taxi.trips import Trip, TripBatches, Trips, sample
from tripcast.taxi.ways import way_of, ways_of

Floats = npt.NDArray[np.float64]

_FILE = "coefficients.csv"

#: The regression is fitted to at most this many trips: more would hardly move a yardstick, and take memory.
_MOST_TRIPS = 5_000_000

#: Room for each pair of int16 zone numbers that can occur: 0 stands for a number that is not a zone.
_ZONES = 266


@dataclass(frozen=True)
class Linear:
    """The fitted regression.

    Attributes:
        intercept: Minutes.
        per_mile: Minutes per recorded mile.
        pairs: The seen pairs, pickup zone times 266 plus dropoff zone, rising, (p,).
        minutes: The coefficient of each, (p,).
        miles: The mean plausible distance of each, (p,): it stands in for one that is not known.
        typical_miles: The median distance of all trips, where the pair was not seen.
    """

    intercept: float
    per_mile: float
    pairs: npt.NDArray[np.int64]
    minutes: Floats
    miles: Floats
    typical_miles: float

    def predict(self, trips: Trips, metered: bool = False) -> Floats:
        """Durations in minutes, (n,); they may be negative, as the notebook's may."""
        pairs = _pair(trips)
        place = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        seen = self.pairs[place] == pairs
        usual = np.where(seen, self.miles[place], self.typical_miles)
        miles = np.where(np.isfinite(trips.trip_distance_miles), trips.trip_distance_miles, usual)
        return np.where(seen, self.minutes[place], 0) + self.per_mile * miles + self.intercept

    def predict_one(self, trip: Trip, metered: bool = False) -> tuple[float, str]:
        """The duration of one trip in minutes, as ``predict`` computes it, and its interval group.

        The time of the pickup is not looked at.
        """
        pickup_zone, dropoff_zone, miles, _ = trip
        start = pickup_zone if 0 < pickup_zone < _ZONES else 0
        end = dropoff_zone if 0 < dropoff_zone < _ZONES else 0
        minutes, usual = self._of_pair.get(start * _ZONES + end, (0.0, self.typical_miles))
        minutes += self.per_mile * (miles if isfinite(miles) else usual) + self.intercept
        return minutes, way_of(miles, metered)

    def groups(self, trips: Trips, metered: bool) -> npt.NDArray[np.str_]:
        """The interval group of each trip, (n,): its way of asking."""
        return ways_of(trips, metered)

    @cached_property
    def _of_pair(self) -> dict[int, tuple[float, float]]:
        """Coefficient and mean distance, by pair."""
        values = zip(self.minutes.tolist(), self.miles.tolist(), strict=True)
        return dict(zip(self.pairs.tolist(), values, strict=True))

    def files(self) -> dict[str, bytes]:
        """One table of terms, their coefficients and usual distances; pairs are named as the notebook names them."""
        text = StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("term", "minutes", "miles"))
        table.writerow(("intercept", repr(self.intercept), ""))
        table.writerow(("trip_distance", repr(self.per_mile), repr(self.typical_miles)))
        for pair, (minutes, miles) in self._of_pair.items():
            table.writerow((f"PU_DO={pair // _ZONES}_{pair % _ZONES}", repr(minutes), repr(miles)))
        return {_FILE: text.getvalue().encode()}


def _pair(trips: Trips) -> npt.NDArray[np.int64]:
    pickup, dropoff = (
        np.where((zones > 0) & (zones < _ZONES), zones, 0).astype(np.int64)
        for zones in (trips.pickup_zone, trips.dropoff_zone)
    )
    return pickup * _ZONES + dropoff


def fit_holdout(earlier: Trips, later: Trips, search: Search) -> tuple[Linear, dict[str, Any]]:
    """Fit to the earlier trips; there is nothing to choose."""
    return fit(earlier, {}), {}


def fit(trips: TripBatches, parameters: Mapping[str, Any], workers: Workers | None = None) -> Linear:
    """Fit to trips; there are no parameters, and no work for several machines."""
    from scipy.sparse import csr_array
    from sklearn.linear_model import LinearRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    trips = sample(trips, _MOST_TRIPS)
    pairs = _pair(trips)
    seen = np.flatnonzero(np.bincount(pairs))
    # Two entries a row, its pair's one and its distance: the sparse matrix is written down directly, since turning
    # each trip into a dictionary (scikit-learn's DictVectorizer) takes ten times as long.
    values = np.column_stack([np.ones(len(trips)), np.nan_to_num(trips.trip_distance_miles)])
    columns = np.column_stack([np.searchsorted(seen, pairs), np.full(len(trips), len(seen))]).astype(np.int32)
    starts = np.arange(0, 2 * len(trips) + 1, 2, dtype=np.int32)
    matrix = csr_array((values.ravel(), columns.ravel(), starts), shape=(len(trips), len(seen) + 1))
    # Where LSQR stops turns on the last bits of its sums, and these on the number of threads: one, then, always.
    with threadpool_limits(1):
        regression = LinearRegression().fit(matrix, trips.duration_minutes)
    per_pair, per_mile = regression.coef_[:-1], float(regression.coef_[-1])
    return Linear(float(regression.intercept_), per_mile, seen, per_pair, *_usual_miles(trips, seen))


def _usual_miles(trips: Trips, pairs: npt.NDArray[np.int64]) -> tuple[Floats, float]:
    """The mean plausible distance of each pair, (p,), and the median of all; that, where a pair has none."""
    trips = trips[has_plausible_distance(trips)]
    typical = float(np.median(trips.trip_distance_miles)) if len(trips) else 0.0
    place = np.searchsorted(pairs, _pair(trips))
    count = np.bincount(place, minlength=len(pairs))
    total = np.bincount(place, trips.trip_distance_miles, len(pairs))
    return np.where(count > 0, np.round(total / np.maximum(count, 1), 3), typical), typical


def load(files: Mapping[str, bytes], parameters: Mapping[str, Any]) -> Linear:
    """Read the table of coefficients.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is not such a table.
    """
    _, (_, intercept, *_), (_, per_mile, *typical), *rows = csv.reader(StringIO(files[_FILE].decode()))
    zones = (term.removeprefix("PU_DO=").split("_") for term, *_ in rows)
    pairs = np.array([int(pickup) * _ZONES + int(dropoff) for pickup, dropoff in zones], np.int64)
    minutes = np.array([float(minutes) for _, minutes, *_ in rows])
    if not typical:  # model format 1, where no distance counted as none
        return Linear(float(intercept), float(per_mile), pairs, minutes, np.zeros(len(pairs)), 0.0)
    miles = np.array([float(miles) for _, _, miles in rows])
    return Linear(float(intercept), float(per_mile), pairs, minutes, miles, float(typical[0]))
