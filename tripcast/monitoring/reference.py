"""What a model learned from, boiled down: the reference that later windows are compared with.

Trips are boiled down to a *profile*: for each feature, how many trips fell into each of its fixed cells. Profiles of
batches add up, so a month of any size is profiled in a few kilobytes, and the profile of the training trips, the
reference, travels with a model as a small JSON file.

A discrete feature has a cell for each value. Numbers have logarithmic cells, each 1 % wide, so a value is known to half
a percent, however large (the sketch of Masson, Rim & Lee, on a fixed range).

Source:
    Masson, Rim & Lee (2019), DDSketch, Proceedings of the VLDB Endowment 12(12), 2195-2205 (logarithmic cells).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tripcast.errors import ContractError, StorageError
from tripcast.storage.files import storage_errors

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Cells = npt.NDArray[np.intp]

#: The file beside a registered model that holds the profile of what it learned from.
PROFILE = "profile.json"

#: Format of a profile's JSON; a reader refuses later ones.
FORMAT = 1

#: The feature that holds what the model predicted.
PREDICTED = "predicted_minutes"

#: The cells of a number: each edge 1 % above the last. What lies outside counts in the first or the last cell.
_EDGES = 0.01 * 1.01 ** np.arange(1015)


@dataclass(frozen=True)
class Bins:
    """The fixed cells of one feature.

    Attributes:
        size: How many.
        continuous: Whether neighbours are alike, as the cells of ``value_cells`` are.
        missing: The cells of what has no value.
        places: Whether a cell is a place that has a name: those that come and go are worth naming.
    """

    size: int
    continuous: bool = False
    missing: tuple[int, ...] = ()
    places: bool = False


#: The cells of a positive number, see ``value_cells``.
VALUES = Bins(len(_EDGES), continuous=True, missing=(0,))


def value_cells(values: Floats, present: npt.NDArray[np.bool_]) -> Cells:
    """The cells of positive numbers among those of ``VALUES``, (n,); cell 0 where none is present.

    Args:
        values: (n,) the numbers.
        present: (n,) which of them there are.
    """
    return np.where(present, np.clip(np.searchsorted(_EDGES, values, side="right"), 1, len(_EDGES) - 1), 0)


@dataclass(frozen=True)
class Batch:
    """Some trips, as a profile sees them.

    Attributes:
        cells: Each trip's cell, (n,), by feature.
        start: datetime64 (n,), when they began, local time.
    """

    cells: Mapping[str, Cells]
    start: npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class Profile:
    """Trips and predictions, boiled down to counts.

    Attributes:
        bins: By feature.
        counts: int64 (cells,) by feature; predictions may be of other trips than the rest.
        days: Trips by the day on which they began, for example ``{"2021-02-10": 1234}``.
    """

    bins: Mapping[str, Bins] = field(repr=False)
    counts: Mapping[str, Counts]
    days: Mapping[str, int]

    @classmethod
    def of(cls, bins: Mapping[str, Bins], trips: Iterable[Batch], predicted: Iterable[Floats]) -> Profile:
        """Profile trips and predictions.

        The predictions of a reference have to be of trips that the model was not fitted to, those of its test month:
        what a model says of its own training trips is spread more widely than what it says of any others.

        Args:
            bins: By feature, ``PREDICTED`` among them.
            trips: Any number of trips at a time, with all other features.
            predicted: What was predicted, (n,) any number at a time; of these trips or of others.

        Raises:
            ContractError: If there are no trips, or no predictions at all.
        """
        counts = {feature: np.zeros(of_feature.size, np.int64) for feature, of_feature in bins.items()}
        days: Counter[str] = Counter()
        for batch in trips:
            for feature, cells in batch.cells.items():
                counts[feature] += np.bincount(cells, minlength=bins[feature].size)
            dates, numbers = np.unique(batch.start.astype("datetime64[D]"), return_counts=True)
            days.update(dict(zip(dates.astype(str).tolist(), numbers.tolist(), strict=True)))
        for values in predicted:
            cells = value_cells(values, np.isfinite(values))
            counts[PREDICTED] += np.bincount(cells, minlength=bins[PREDICTED].size)
        for what, exists in (("trips", bool(days)), ("predictions", counts[PREDICTED].any())):
            if not exists:
                raise ContractError(f"There are no {what} to profile: choose a month that has some.")
        return cls(bins, counts, dict(sorted(days.items())))

    @property
    def trips(self) -> int:
        """Number of trips."""
        return sum(self.days.values())

    @property
    def trips_per_day(self) -> float:
        """Trips of a usual day: the median over the days, each weighted by its trips.

        Trips dated years away by a wrong clock make days of their own, which weigh nothing.
        """
        volumes = np.sort(np.fromiter(self.days.values(), np.float64))
        cumulated = volumes.cumsum()
        return float(volumes[np.searchsorted(cumulated, cumulated[-1] / 2)])

    def to_json(self) -> str:
        """The profile as text, some 30 kB; empty cells are left out."""
        return json.dumps(
            {
                "format": FORMAT,
                "counts": {
                    feature: {str(cell): int(counts[cell]) for cell in np.flatnonzero(counts)}
                    for feature, counts in self.counts.items()
                },
                "days": self.days,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str, bins: Mapping[str, Bins]) -> Profile:
        """Read what ``to_json`` wrote.

        Args:
            text: The JSON.
            bins: By feature.

        Raises:
            KeyError: If an entry is missing.
            ValueError: If it is not JSON, of a later format, or has a cell that no feature has.
        """
        entries = json.loads(text)
        if entries["format"] > FORMAT:
            raise ValueError(f"it is of format {entries['format']}, and this tripcast reads up to {FORMAT}")
        counts = {feature: np.zeros(of_feature.size, np.int64) for feature, of_feature in bins.items()}
        for feature, of_feature in counts.items():
            for cell, count in entries["counts"][feature].items():
                if not 0 <= int(cell) < len(of_feature):
                    raise ValueError(f"{feature} has no cell {cell}")
                of_feature[int(cell)] = count
        return cls(bins, counts, entries["days"])

    def save(self, file: Path) -> None:
        """Write the profile as JSON.

        Raises:
            StorageError: If the file cannot be written.
        """
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.to_json() + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, file: Path, bins: Mapping[str, Bins]) -> Profile:
        """Read a profile.

        Args:
            file: Where it was saved.
            bins: By feature.

        Raises:
            StorageError: If there is none, it is damaged, or a later tripcast wrote it.
        """
        try:
            return cls.from_json(file.read_text(encoding="utf-8"), bins)
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as trouble:
            raise StorageError(
                f"{file} is not the profile of trips ({trouble}). Profile the training trips again."
            ) from trouble
