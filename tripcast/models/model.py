"""A trained model: the predictor of its candidate, a calibrated interval, and a manifest, in a folder of open formats.

The folder holds ``manifest.json`` and the candidate's own files, which the manifest lists with their hashes. So a
damaged folder is noticed, and the hash of the manifest stands for the whole: it is the identity of the model. Nothing
in the folder depends on when or where it was made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from tripcast.errors import StorageError
from tripcast.models.interpolation import interpolator
from tripcast.models.intervals import Interval
from tripcast.models.workers import Workers
from tripcast.storage.files import storage_errors

Floats = npt.NDArray[np.float64]

#: What is predicted, one of it and many, in whatever form the candidates take.
Trip = Any
Trips = Any

#: The package that has the candidates: its ``CANDIDATES`` names the module of each, which keeps to ``Candidate``.
CANDIDATES_PACKAGE = "tripcast.taxi.candidates"

#: Format of the model folder; a reader refuses folders of a later one.
FORMAT = 2

#: Which interval of a folder of format 1 is for which way: it knew trips with a plausible distance, and those without.
_INTERVALS_OF_FORMAT_1 = {"zones_only": "unmeasured", "planned": "measured", "metered": "measured"}
#: Between which durations its intervals kept, in minutes.
_BOUNDS_OF_FORMAT_1 = (1.0, 60.0)

#: No prediction is shorter, whatever the candidate computed: six seconds.
_FLOOR = 0.1

_MANIFEST = "manifest.json"

#: The file beside a registered model that tells people what it is, see ``tripcast.reports.model_card``.
MODEL_CARD = "model_card.html"

#: Called when a trial of a search has ended, with its number, its parameters and its error (RMSE in minutes).
OnTrial = Callable[[int, dict[str, Any], float], None]


@dataclass(frozen=True)
class Search:
    """How to search for parameters, for candidates that do.

    Attributes:
        trials: How many parameter sets to try; at least 1.
        on_trial: Called after each trial.
    """

    trials: int
    on_trial: OnTrial | None


class Predictor(Protocol):
    """A fitted candidate."""

    def predict(self, trips: Trips, metered: bool = False) -> Floats:
        """Durations in minutes, (n,), finite for any trips; arguments as ``Model.predict``."""

    def predict_one(self, trip: Trip, metered: bool = False) -> tuple[float, str]:
        """The duration of one trip in minutes, and its group: the same as ``predict`` and ``groups`` compute."""

    def groups(self, trips: Trips, metered: bool) -> npt.NDArray[np.str_]:
        """To which group each trip belongs, (n,): the trips of a group share an interval.

        A group is named by its way of asking, or by that, a slash and what sets it apart.
        """

    def files(self) -> dict[str, bytes]:
        """All that is needed to load it again, by file name."""


class Candidate(Protocol):
    """A module that can fit and load one kind of predictor."""

    def fit_holdout(self, earlier: Trips, later: Trips, search: Search) -> tuple[Predictor, dict[str, Any]]:
        """Fit to the earlier trips and choose parameters on the later ones; both are training trips.

        Returns:
            The predictor, and the parameters (ready for JSON) with which to fit to all training trips.
        """

    def fit(self, trips: Trips, parameters: Mapping[str, Any], workers: Workers | None = None) -> Predictor:
        """Fit to trips, which may be too many for memory, by several workers if there are some.

        Raises:
            WorkerError: If a worker dies.
        """

    def load(self, files: Mapping[str, bytes], parameters: Mapping[str, Any]) -> Predictor:
        """Make a predictor again from its files.

        Raises:
            KeyError: If a file is missing.
            ValueError: If a file cannot be read.
        """


def known_candidates() -> Mapping[str, str]:
    """The candidates by name, and the module of each, which is imported when used."""
    candidates: Mapping[str, str] = import_module(CANDIDATES_PACKAGE).CANDIDATES
    return candidates


def open_candidate(name: str) -> Candidate:
    """Import the module of a candidate.

    Raises:
        KeyError: If there is none of that name.
    """
    return cast(Candidate, import_module(known_candidates()[name]))


@dataclass(frozen=True)
class Prediction:
    """What a model says about n trips, in minutes; float64 (n,) each, with 0 < lower <= minutes <= upper."""

    minutes: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class Calibration:
    """How the model did on the later training trips, fitted to the earlier ones: what to expect of it in service.

    Attributes:
        trips: How many trips that were.
        rmse: Root mean squared error, minutes.
        mae: Mean absolute error, minutes.
        bias: Mean of prediction minus truth, minutes.
        interval_minutes: Mean width of the interval, minutes.
    """

    trips: int
    rmse: float
    mae: float
    bias: float
    interval_minutes: float


@dataclass(frozen=True)
class Manifest:
    """What a model is and what it was made from.

    Attributes:
        format: Format of the folder.
        candidate: Which candidate, for example ``lightgbm``.
        taxi: Which kind of trips, for example ``green``.
        parameters: Those that the candidate was fitted with.
        data: SHA-256 of each training month's data, by month.
        trips: How many trips it was fitted to.
        first_pickup: ISO time of the earliest of them, New York local time.
        last_pickup: ISO time of the latest.
        intervals: The 10-90 % interval by the way in which a trip is asked for, and by group of trips within it.
        bounds: Between which durations the intervals keep, in minutes.
        calibration: How it did on held-out trips, asked for with their metered distances.
        files: SHA-256 of each further file in the folder, by name.
        loads_as: Which candidate loads the files, in manifests of 0.1 whose own was brought by a package; else None.
    """

    format: int
    candidate: str
    taxi: str
    parameters: dict[str, Any]
    data: dict[str, str]
    trips: int
    first_pickup: str
    last_pickup: str
    intervals: dict[str, Interval]
    calibration: Calibration
    files: dict[str, str]
    bounds: tuple[float, float] = _BOUNDS_OF_FORMAT_1
    loads_as: str | None = None

    @property
    def loader(self) -> str:
        """Which candidate loads the files."""
        return self.loads_as or self.candidate

    def interval_of(self, group: str) -> Interval:
        """The interval of a group of trips (``Predictor.groups``): that of its whole way if it has none of its own.

        Of a way that no training trip could be asked for in, that of the way in which least is known.
        """
        way = group.partition("/")[0]
        if self.format == 1:
            return self.intervals[_INTERVALS_OF_FORMAT_1[way]]
        return self.intervals.get(group) or self.intervals.get(way) or next(iter(self.intervals.values()))

    @property
    def train_months(self) -> list[str]:
        """The training months, in time order."""
        return sorted(self.data)

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        entries = asdict(self)
        if self.loads_as is None:
            del entries["loads_as"]
        if self.format == 1:
            del entries["bounds"]
        return json.dumps(entries, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of ``manifest.json``.

        Raises:
            KeyError: If an entry is missing.
            TypeError: If an entry is of another kind, missing or unknown.
            ValueError: If it is not JSON.
        """
        entries = json.loads(text)
        entries["intervals"] = {name: Interval(**interval) for name, interval in entries["intervals"].items()}
        entries["calibration"] = Calibration(**entries["calibration"])
        entries["bounds"] = tuple(entries.get("bounds", _BOUNDS_OF_FORMAT_1))
        return cls(**entries)


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        manifest: What it is.
        predictor: What computes its durations.
    """

    manifest: Manifest
    predictor: Predictor

    def predict(self, trips: Trips, metered: bool = False) -> Prediction:
        """Predict durations.

        Args:
            trips: Any trips; zones that do not exist count as never seen, implausible distances as unknown.
            metered: Whether their distances are a meter's readings, and not plans.

        Returns:
            The durations as the candidate computes them, no shorter than six seconds, and their 10-90 % intervals,
            which keep to the manifest's bounds unless the duration itself lies outside.
        """
        groups = self.predictor.groups(trips, metered)
        minutes = self.predictor.predict(trips, metered)
        return with_interval(self.manifest.interval_of, groups, minutes, self.manifest.bounds)

    def predict_one(self, trip: Trip, metered: bool = False) -> tuple[float, float, float]:
        """Predict one trip, in a few microseconds: the same as ``predict``, to the precision of float32 features.

        Not for several threads at once: predictors keep the trip in a place of their own.

        Args:
            trip: Any trip, as with ``predict``.
            metered: Whether its distance is a meter's reading, and not a plan.

        Returns:
            The duration and the lower and upper end of its 10-90 % interval, in minutes.
        """
        minutes, group = self.predictor.predict_one(trip, metered)
        # Comparisons: min and max take ten times as long, a fifth of the whole.
        minutes = _FLOOR if minutes < _FLOOR else minutes  # what is no number stays none
        below, above = self._ends[group]
        lower, upper = minutes + below(minutes), minutes + above(minutes)
        shortest, longest = self.manifest.bounds
        lower = lower if lower > shortest else shortest
        upper = upper if upper < longest else longest
        return minutes, lower if lower < minutes else minutes, upper if upper > minutes else minutes

    @cached_property
    def _ends(self) -> _Ends:
        return _Ends(self.manifest)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content of the model folder: the identity of the model."""
        return sha256(self.manifest.to_json().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the model folder.

        Args:
            folder: Made if missing.

        Raises:
            StorageError: If it cannot be written.
        """
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in self.predictor.files().items():
                (folder / name).write_bytes(content)
            # Last, so that a folder with a manifest is whole.
            (folder / _MANIFEST).write_text(self.manifest.to_json(), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read a model folder.

        Raises:
            StorageError: If there is none, it is damaged, or a later tripcast wrote it.
        """
        manifest = _read_manifest(folder / _MANIFEST)
        files = {name: _read(folder / name) for name in manifest.files}
        for name, content in files.items():
            if sha256(content).hexdigest() != manifest.files[name]:
                raise StorageError(
                    f"{folder / name} is not the file that the model was saved with. Fetch or train the model again."
                )
        try:
            predictor = open_candidate(manifest.loader).load(files, manifest.parameters)
        except (KeyError, ValueError) as trouble:
            raise StorageError(
                f"The model in {folder} cannot be read ({trouble}). Fetch or train the model again."
            ) from trouble
        return cls(manifest, predictor)


class _Ends(dict[str, tuple[Callable[[float], float], Callable[[float], float]]]):
    """What to add to a predicted duration for either end of its interval, by group of trips."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self._manifest = manifest

    def __missing__(self, group: str) -> tuple[Callable[[float], float], Callable[[float], float]]:
        of = self._manifest.interval_of(group)
        self[group] = interpolator(of.predicted, of.lower), interpolator(of.predicted, of.upper)
        return self[group]


def with_interval(
    interval_of: Callable[[str], Interval],
    groups: npt.NDArray[np.str_],
    minutes: Floats,
    bounds: tuple[float, float],
) -> Prediction:
    """Put the intervals around predicted durations.

    Args:
        interval_of: The interval of a group.
        groups: The group of each trip, (n,).
        minutes: What the candidate computed for the trips, (n,).
        bounds: Between which durations the intervals keep, in minutes.
    """
    shortest, longest = bounds
    minutes = np.maximum(minutes, _FLOOR)
    lower, upper = np.empty_like(minutes), np.empty_like(minutes)
    names, place = np.unique(groups, return_inverse=True)
    for number, name in enumerate(names.tolist()):
        rows = place == number
        lower[rows], upper[rows] = interval_of(name).around(minutes[rows])
    # The ends keep to the bounds, and around the duration even where that does not.
    lower = np.minimum(np.maximum(lower, shortest), minutes)
    upper = np.maximum(np.minimum(upper, longest), minutes)
    return Prediction(minutes, lower, upper)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as trouble:
        raise StorageError(
            f"{file} cannot be read: {trouble.strerror or trouble}. A model folder holds {_MANIFEST} and the files "
            "that it lists; fetch or train the model again."
        ) from trouble


def _read_manifest(file: Path) -> Manifest:
    text = _read(file)
    try:
        found = json.loads(text)["format"]
        if found > FORMAT:
            raise StorageError(
                f"{file} is of model format {found}, and this tripcast reads up to {FORMAT}. Use a later tripcast."
            )
        manifest = Manifest.from_json(text.decode())
    except (KeyError, TypeError, ValueError) as trouble:
        raise StorageError(
            f"{file} is not the manifest of a model ({trouble}). Fetch or train the model again."
        ) from trouble
    if manifest.loader not in known_candidates():
        raise StorageError(
            f"{file} names the candidate '{manifest.loader}', and this tripcast knows {', '.join(known_candidates())}. "
            "Use the tripcast that trained it."
        )
    return manifest
