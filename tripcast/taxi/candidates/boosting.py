"""Growing boosted trees with LightGBM's Python package, which training needs and predicting does not.

To be imported after ``tripcast.models.booster``, which says how LightGBM's threads wait for each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from tripcast.taxi.features import FEATURES, MILES_FEATURES, OutOfFold

Floats = npt.NDArray[np.float64]

#: The parameters that no search changes. Column by column, and each tree's sums in one order, so that the model is the
#: same however many threads there are. How many is the environment's to say (``OMP_NUM_THREADS``): LightGBM writes
#: parameters into the model.
_FIXED: dict[str, Any] = {
    "objective": "regression",
    "metric": "rmse",
    "bagging_freq": 1,
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
#: Rows of features that exist at a time.
_BATCH_ROWS = 500_000


def dataset(features: OutOfFold, minutes: Floats) -> lightgbm.Dataset:
    """Training trips as LightGBM takes them.

    Args:
        features: Of the trips.
        minutes: Their true durations, (n,).
    """
    names = list(FEATURES)
    if len(features) <= _BIN_ROWS:
        return lightgbm.Dataset(features[:], minutes, feature_name=names, params=_FIXED).construct()
    # LightGBM would ask a Sequence for its sample row by row. It takes the bins of another dataset instead.
    sample = features[np.linspace(0, len(features) - 1, _BIN_ROWS).astype(np.intp)]
    bins = lightgbm.Dataset(sample, feature_name=names, params=_FIXED)
    return lightgbm.Dataset(
        _Rows(features), minutes, reference=bins.construct(), feature_name=names, params=_FIXED
    ).construct()


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


def boost_for_plans(data: lightgbm.Dataset, parameters: Mapping[str, Any]) -> bytes:
    """Grow trees by which more miles never mean fewer minutes; otherwise as ``boost``.

    For given zones and a given time, all that is said of the distance rises with it.
    """
    rising = [int(name in MILES_FEATURES) for name in FEATURES]
    return boost(data, {**parameters, "monotone_constraints": rising})


def boost_without_distance(data: lightgbm.Dataset, parameters: Mapping[str, Any]) -> bytes:
    """Grow trees that look at nothing that is said of the distance; otherwise as ``boost``."""
    allowed = [place for place, name in enumerate(FEATURES) if name not in MILES_FEATURES]
    return boost(data, {**parameters, "interaction_constraints": [allowed]})


class _Rows(lightgbm.Sequence):
    """Hands the features of training trips to LightGBM batch by batch, so that they never exist all at once."""

    batch_size = _BATCH_ROWS

    def __init__(self, features: OutOfFold) -> None:
        self._features = features

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:  # type: ignore[override]  # never asked for one row
        return self._features[rows]

    def __len__(self) -> int:
        return len(self._features)
