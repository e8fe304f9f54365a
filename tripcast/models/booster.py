"""Predictions of boosted trees by LightGBM's C library alone, without its Python package.

Importing the package costs a process two seconds and a hundred megabytes, for it brings scipy, and pandas and
scikit-learn where they are installed. Its C interface is documented and stable, and has a call for one row at a time
that the package does not offer: a tenth of the time of one that takes a matrix.

Source: https://lightgbm.readthedocs.io/en/stable/C-API.html
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

# Read when LightGBM's thread pool is loaded. Threads that wait for each other spin otherwise, and where anything else
# wants the cores, training takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Names and numbers of the C interface (LightGBM/c_api.h).
_C_API_DTYPE_FLOAT32 = 0
_C_API_PREDICT_NORMAL = 0
_C_API_PREDICT_CONTRIB = 3
_FIRST_TREE, _ALL_TREES = 0, -1
_ROW_MAJOR = 1

_SIGNATURES = {
    "LGBM_BoosterLoadModelFromString": [c_char_p, POINTER(c_int), POINTER(c_void_p)],
    "LGBM_BoosterFree": [c_void_p],
    "LGBM_BoosterPredictForMat": [
        *(c_void_p, c_void_p, c_int, c_int32, c_int32, c_int),
        *(c_int, c_int, c_int, c_char_p, POINTER(c_int64), c_void_p),
    ],
    "LGBM_BoosterPredictForMatSingleRowFastInit": [
        *(c_void_p, c_int, c_int, c_int, c_int, c_int32, c_char_p, POINTER(c_void_p)),
    ],
    "LGBM_BoosterPredictForMatSingleRowFast": [c_void_p, c_void_p, c_void_p, c_void_p],
    "LGBM_FastConfigFree": [c_void_p],
}


class Booster:
    """Boosted trees, ready to predict. Not for several threads at once: ``row`` is one.

    Args:
        text: The trees in LightGBM's text format.
        features: The names of the columns of the rows to come. The trees were grown on these, or on some of them, which
            are picked out.
        shares: Another booster for rows of the same columns, whose ``row`` is to be this one's, too.

    Attributes:
        text: The same text.
        row: float32 (features,), to be filled before ``predict_row``.

    Raises:
        ValueError: If the text cannot be read, or the trees look at other features.
    """

    def __init__(self, text: bytes, features: Sequence[str], shares: Booster | None = None) -> None:
        self.text = text
        # On a truncated text LightGBM ends the process.
        if not text.startswith(b"tree\n") or b"\nend of trees\n" not in text:
            raise ValueError("the trees are not LightGBM's text format, or not all of it")
        self._handle, fast = c_void_p(), c_void_p()
        _call("LGBM_BoosterLoadModelFromString", text, byref(c_int()), byref(self._handle))
        weakref.finalize(self, _call, "LGBM_BoosterFree", self._handle)
        names = _feature_names(text)
        unknown = sorted(set(names) - set(features))
        if unknown:
            raise ValueError(f"the trees look at other features: {', '.join(unknown)}")
        self._features = len(names)
        self._width = len(features)
        #: Where the trees' features are among the columns; None if they are these.
        self._columns = None if names == list(features) else np.array([features.index(name) for name in names])
        self._values: npt.NDArray[np.float32] = (
            np.zeros(len(features), np.float32) if shares is None else shares._values
        )
        self.row = cast("memoryview[float]", self._values.data)
        self._own = self._values if self._columns is None else np.zeros(len(names), np.float32)
        _call(
            "LGBM_BoosterPredictForMatSingleRowFastInit",
            *(self._handle, _C_API_PREDICT_NORMAL, _FIRST_TREE, _ALL_TREES),
            *(_C_API_DTYPE_FLOAT32, self._features, _parameters(threads=1), byref(fast)),
        )
        weakref.finalize(self, _call, "LGBM_FastConfigFree", fast)
        self._count, self._result = c_int64(), c_double()
        addresses = (c_void_p(self._own.ctypes.data), c_void_p(ctypes.addressof(self._count)))
        function = _library().LGBM_BoosterPredictForMatSingleRowFast
        self._predict_row: Callable[[], int] = partial(
            function, fast, *addresses, c_void_p(ctypes.addressof(self._result))
        )

    def predict(self, rows: npt.NDArray[np.float32], threads: int) -> npt.NDArray[np.float64]:
        """Predict many rows.

        Args:
            rows: Features, (n, features).
            threads: How many threads share the work; 0 for as many as ``OMP_NUM_THREADS`` allows.

        Returns:
            The sums over all trees, (n,).

        Raises:
            ValueError: If the rows are of another width.
        """
        found = np.empty(len(rows))
        self._predict(rows, _C_API_PREDICT_NORMAL, threads, found)
        return found

    def contributions(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """How much each feature adds to the prediction of each row: LightGBM's own SHAP values.

        They are exact for trees (Lundberg et al. 2020, From local explanations to global understanding with explainable
        AI for trees, Nature Machine Intelligence 2, 56-67) and take some hundred times as long as a prediction.

        Args:
            rows: Features, (n, features).

        Returns:
            (n, features + 1); the last column is the mean prediction, and a row's sum is its prediction. Features that
            the trees were not grown on add nothing.

        Raises:
            ValueError: If the rows are of another width.
        """
        found = np.empty((len(rows), self._features + 1))
        self._predict(rows, _C_API_PREDICT_CONTRIB, 1, found)
        if self._columns is None:
            return found
        of_all = np.zeros((len(rows), self._width + 1))
        of_all[:, [*self._columns, self._width]] = found
        return of_all

    def _predict(self, rows: npt.NDArray[np.float32], kind: int, threads: int, found: npt.NDArray[np.float64]) -> None:
        if rows.shape[1] != self._width:
            raise ValueError(f"{self._width} features are expected in a row, and not {rows.shape[1]}")
        rows = np.ascontiguousarray(rows if self._columns is None else rows[:, self._columns], np.float32)
        _call(
            "LGBM_BoosterPredictForMat",
            *(self._handle, rows.ctypes.data, _C_API_DTYPE_FLOAT32, *rows.shape, _ROW_MAJOR),
            *(kind, _FIRST_TREE, _ALL_TREES, _parameters(threads)),
            *(byref(self._count), found.ctypes.data),
        )

    def predict_row(self) -> float:
        """The sum over all trees for the features in ``row``."""
        if self._columns is not None:
            self._own[:] = self._values[self._columns]
        if self._predict_row():
            raise ValueError(_last_error())
        return self._result.value


@cache
def _library() -> ctypes.CDLL:
    package = find_spec("lightgbm")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent
    found = [file for place in ("lib", "bin") for file in sorted((folder / place).glob("lib_lightgbm.*"))]
    library = ctypes.CDLL(str(found[0]))
    library.LGBM_GetLastError.restype = c_char_p
    for name, types in _SIGNATURES.items():
        getattr(library, name).argtypes = types
    return library


def _call(name: str, *arguments: object) -> None:
    if getattr(_library(), name)(*arguments):
        raise ValueError(_last_error())


def _feature_names(text: bytes) -> list[str]:
    """The features that trees were grown on, in order."""
    found = re.search(rb"^feature_names=(.*)$", text, re.MULTILINE)
    if not found:
        raise ValueError("the trees do not say which features they look at")
    return found[1].decode().split(" ")


def _last_error() -> str:
    message: bytes = _library().LGBM_GetLastError()
    return " ".join(message.decode(errors="replace").split())


def _parameters(threads: int) -> bytes:
    return f"num_threads={threads} verbosity=-1".encode()
