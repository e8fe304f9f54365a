"""Growing boosted trees with LightGBM's Python package, which training needs and predicting does not.

To be imported after ``tripcast.models.booster``, which says how LightGBM's threads wait for each other.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from tripcast.taxi.features import FEATURES
from tripcast.taxi.trips import TripFiles, Trips, sample

Matrix = npt.NDArray[np.float32]

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

#: Rows from which the boundaries of the histograms' bins are chosen; LightGBM's own default.
_BIN_ROWS = 200_000


def bins(features: Features, trips: Trips | TripFiles, columns: Sequence[str]) -> lightgbm.Dataset:
    """The boundaries of the bins in which LightGBM counts, as a dataset of some trips, or of all where they are few.

    Args:
        features: Computes the features of trips.
        trips: With durations.
        columns: Which of them the trees may look at.
    """
    known = sample(trips, _BIN_ROWS)
    rows = features(known)[:, _places(columns)]
    return lightgbm.Dataset(rows, known.duration_minutes, feature_name=list(columns), params=_FIXED).construct()


def load_bins(file: Path) -> lightgbm.Dataset:
    """Boundaries from a file that LightGBM wrote, see ``lightgbm.Dataset.save_binary``."""
    return lightgbm.Dataset(str(file), params=_FIXED).construct()


def _places(columns: Sequence[str]) -> list[int]:
    return [FEATURES.index(name) for name in columns]


def dataset(features: Features, trips: Trips | TripFiles, boundaries: lightgbm.Dataset) -> lightgbm.Dataset:
    """Training trips as LightGBM takes them: a byte a feature and trip, whose features never exist all at once.

    Args:
        features: Computes them.
        trips: With durations.
        boundaries: See ``bins``.
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
