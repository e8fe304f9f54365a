"""Growing boosted trees with LightGBM's Python package, which training needs and predicting does not.

To be imported after ``tripcast.models.booster``, which says how LightGBM's threads wait for each other.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from tripcast.models.booster import Booster
from tripcast.taxi.candidates.boosted import ASKED, COLUMNS, LEVELS, Boosted, boosters
from tripcast.taxi.features import FEATURES, FeatureTables, OutOfFold
from tripcast.taxi.trips import TripBatches, Trips, sample
from tripcast.taxi.ways import METERED, PLANNED, as_asked, planned

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

#: By the way whose trips they are of, the boundaries of the bins in which LightGBM counts.
Bins = Callable[[str], lightgbm.Dataset]

#: The features of training trips, float32 (n, 23).
Features = Callable[[Trips], Matrix]

#: The parameters that no search changes. Column by column, and each tree's sums in one order, so that the model is the
#: same however many threads there are. How many is the environment's to say (``OMP_NUM_THREADS``): LightGBM writes
#: parameters into the model. No tree leaves out trips: that gains nothing, and its account takes eight bytes a trip.
_FIXED: dict[str, Any] = {
    "objective": "regression",
    "metric": "rmse",
    "deterministic": True,
    "force_col_wise": True,
    "max_bin": 127,
    "feature_pre_filter": False,  # a search tries several sizes of leaves on one dataset
    "seed": 42,
    "verbose": -1,
}

#: What a tree's text says of how it was grown. Neither predictions nor contributions look at it, and it is a third of
#: the text. The sizes of the trees' texts, which LightGBM can do without, go with it.
_OF_GROWING = re.compile(rb"^(?:split_gain|internal_value|internal_weight|leaf_weight|tree_sizes)=.*\n", re.MULTILINE)

#: Numbers that are written with all digits of a float64, which is half of what is left. Nine tell features apart, which
#: are float32, and are more than enough of a minute.
_NUMBERS = re.compile(rb"^(threshold|leaf_value)=(.*)$", re.MULTILINE)
_DIGITS = "{:.9g}"

#: How much of the later trips' surplus over predictions is taken to last. Traffic drifts for weeks on end, so that a
#: model is behind from its first day; but part of what the last days show passes, and the fit to all trips sees them.
_LASTING = 0.5

#: Rows from which the boundaries of the histograms' bins are chosen; LightGBM's own default.
_BIN_ROWS = 200_000


def load_bins(file: Path) -> lightgbm.Dataset:
    """Boundaries from a file that LightGBM wrote, see ``lightgbm.Dataset.save_binary``."""
    return lightgbm.Dataset(str(file), params=_FIXED).construct()


def _places(columns: Sequence[str]) -> list[int]:
    return [FEATURES.index(name) for name in columns]


def dataset(features: Features, trips: TripBatches, boundaries: lightgbm.Dataset) -> lightgbm.Dataset:
    """Training trips as LightGBM takes them: a byte a feature and trip, whose features never exist all at once.

    Args:
        features: Computes them.
        trips: With durations.
        boundaries: See ``bins_of``.
    """
    if boundaries.num_data() == len(trips) < _BIN_ROWS:
        return boundaries  # they are of all trips
    minutes = np.empty(len(trips), np.float32)
    sizes: list[int] = []
    for batch in trips.batches():
        start = sum(sizes)
        minutes[start : start + len(batch)] = batch.duration_minutes
        sizes.append(len(batch))
    columns = boundaries.get_feature_name()
    places = _places(columns)
    rows = (features(batch)[:, places] for batch in trips.batches())
    data = lightgbm.Dataset(
        [_Batch(rows, size) for size in sizes],
        reference=boundaries,
        feature_name=columns,
        params=_FIXED,
    ).construct()
    data.set_field("label", minutes)  # as an argument it would be kept, and another copy with it
    _give_back_memory()
    return data


def _give_back_memory() -> None:
    """Let the C library return what it keeps of freed batches: six bytes a trip. Only that of GNU can be asked to."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def boost(data: lightgbm.Dataset, parameters: Mapping[str, Any]) -> bytes:
    """Grow trees.

    Args:
        data: What to fit to.
        parameters: The number of rounds, and others by LightGBM's names.

    Returns:
        The trees in LightGBM's text format, without what only growing looks at, and with shorter numbers.
    """
    boosting = {name: value for name, value in parameters.items() if name != "rounds"}
    booster = lightgbm.train({**_FIXED, **boosting}, data, num_boost_round=parameters["rounds"])
    text: str = booster.model_to_string()
    return _NUMBERS.sub(_shorten, _OF_GROWING.sub(b"", text.encode()))


def _shorten(line: re.Match[bytes]) -> bytes:
    numbers = " ".join(_DIGITS.format(float(number)) for number in line[2].split())
    return line[1] + b"=" + numbers.encode()


class _Batch(lightgbm.Sequence):
    """Hands LightGBM the features of the next batch of trips, when it comes to them."""

    def __init__(self, rows: Iterator[Matrix], trips: int) -> None:
        self._rows = rows
        self._trips = trips
        self.batch_size = trips

    def __getitem__(self, rows: slice) -> Matrix:  # type: ignore[override]  # asked for once, for all of it
        return next(self._rows)

    def __len__(self) -> int:
        return self._trips


@dataclass(frozen=True)
class HoldoutFit:
    """The earlier and the later training trips as LightGBM takes them, to try parameters on.

    Attributes:
        tables: Learned from the earlier trips.
        earlier: What to fit to.
        later: Features of the later trips, (m, 23).
        actual: Their true durations, minutes, (m,).
        others: The trees of the other ways, fitted to the earlier trips; their parameters are not searched for.
        levels: The levels of these, chosen on the later trips.
    """

    tables: FeatureTables
    earlier: lightgbm.Dataset
    later: npt.NDArray[np.float32]
    actual: Floats
    others: Mapping[str, bytes]
    levels: Mapping[str, float]

    @classmethod
    def of(cls, earlier: Trips, later: Trips) -> HoldoutFit:
        """Compute the features once."""
        assert later.duration_minutes is not None
        features, actual = OutOfFold(earlier), later.duration_minutes
        bins = bins_of(features, earlier)
        others = grow(features, earlier, others_of(features), bins)
        asked = as_asked(later)
        levels = {
            way: _level(Booster(trees, FEATURES).predict(features.tables(asked[way]), threads=0), actual)
            for way, trees in others.items()
        }
        data = dataset(features, earlier, bins(METERED))
        return cls(features.tables, data, features.tables(later), actual, others, levels)

    def run(self, parameters: Mapping[str, Any]) -> tuple[Boosted, float]:
        """Fit to the earlier trips and judge on the later ones.

        Args:
            parameters: As ``DEFAULTS``.

        Returns:
            The predictor, and its RMSE on the later trips in minutes where their distance is metered. That leaves the
            predictor's level aside, which the later trips themselves decide.
        """
        trees = boost(self.earlier, parameters)
        predicted = Booster(trees, FEATURES).predict(self.later, threads=0)
        rmse = float(np.sqrt(np.mean((predicted - self.actual) ** 2)))
        levels = {**dict.fromkeys(LEVELS, _level(predicted, self.actual)), **self.levels}
        return Boosted(self.tables, boosters({METERED: trees, **self.others}), levels), rmse


def _level(predicted: Floats, actual: Floats) -> float:
    surplus = float(predicted @ actual / (predicted @ predicted)) - 1
    return round(1 + _LASTING * surplus, 4)


def bins_of(features: OutOfFold, trips: TripBatches) -> Bins:
    """The boundaries of the bins for trips as they are asked for in a way: datasets of some of them, or of all few.

    Args:
        features: Computes the features of trips.
        trips: With durations.
    """

    def of_way(way: str) -> lightgbm.Dataset:
        known, columns = sample(trips, _BIN_ROWS), COLUMNS[way]
        rows = _asked(features, way)(known)[:, _places(columns)]
        data = lightgbm.Dataset(rows, known.duration_minutes, feature_name=list(columns), params=_FIXED)
        return data.construct()

    return of_way


def _asked(features: OutOfFold, way: str) -> Callable[[Trips], npt.NDArray[np.float32]]:
    return (lambda batch: features(planned(batch))) if way == PLANNED else features


def grow(
    features: OutOfFold,
    trips: TripBatches,
    parameters: Mapping[str, Mapping[str, Any]],
    bins: Bins,
    network: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Grow trees, those of one way after those of another.

    Args:
        features: Computes the features of the trips.
        trips: What to fit to.
        parameters: By the ways whose trees to grow, as ``DEFAULTS``.
        bins: The boundaries of the bins.
        network: Further parameters of LightGBM, where other processes grow the same trees to other trips.
    """
    return {
        way: boost(dataset(_asked(features, way), trips, bins(way)), {**of_way, **(network or {})})
        for way, of_way in parameters.items()
    }


def others_of(features: OutOfFold) -> Mapping[str, Mapping[str, Any]]:
    """The parameters of the ways that riders ask in; none where trips are recorded as riders ask for them."""
    return ASKED if features.distances else {}
