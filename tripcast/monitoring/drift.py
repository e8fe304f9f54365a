"""Drift: how far the trips of a window, and what was predicted for them, are from those that a model learned from.

Trips are boiled down to a *profile*: for each feature, how many trips fell into each of its fixed cells. Profiles of
batches add up, so a month of any size is profiled in a few kilobytes, and the profile of the training trips, the
*reference*, travels with a model as a small JSON file. Drift is a comparison of two profiles, and sees no trip.

Zones, hours and weekdays have a cell for each value. Distances and predictions have logarithmic cells, each 1 % wide,
so a value is known to half a percent, however large (the sketch of Masson, Rim & Lee, on a fixed range).

With ``p_i`` and ``q_i`` the shares of the reference and of the window in bin ``i``, and ``F`` and ``G`` the cumulated
ones, ::

    PSI = sum_i (q_i - p_i) ln(q_i / p_i)        KS = max |F - G|        W = integral |F - G| / sigma

The bins of the population stability index (PSI) are the reference's deciles where a feature is continuous, with one
more bin for missing values, and its values where it is discrete; sigma is the reference's standard deviation. By custom
a PSI below 0.1 is no drift worth a look and one above 0.2 or 0.25 is a shift. Few trips in many zones look like a
shift by chance alone: ``psi_chance`` is what chance exceeds in one window of a hundred. It is found by drawing pairs of
samples from both sides together. The asymptotic law, ``(1/n + 1/m) chi2``, holds where every bin has many trips; with
the hundred zones that have few, it is so high that chance exceeds it in one window of 1,600.

Sources:
    Siddiqi (2006), Credit Risk Scorecards, chapter 9 (PSI, its bins and its custom). Yurdakul & Naranjo (2020),
    Statistical properties of the population stability index, Journal of Risk Model Validation 14(4) (its distribution).
    Masson, Rim & Lee (2019), DDSketch, Proceedings of the VLDB Endowment 12(12), 2195-2205 (logarithmic cells).
    Distances are ``scipy.stats.wasserstein_distance``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tripcast.errors import ContractError, StorageError
from tripcast.storage.files import storage_errors
from tripcast.taxi.features import has_plausible_distance
from tripcast.taxi.trips import Trips
from tripcast.taxi.zones import LAST_ZONE, UNKNOWN_ZONE

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

#: Format of a profile's JSON; a reader refuses later ones.
FORMAT = 1

#: The cells of a continuous feature: miles or minutes, each edge 1 % above the last. What lies outside counts in the
#: first or the last cell.
_EDGES = 0.01 * 1.01 ** np.arange(1015)
_MIDDLES = (_EDGES[:-1] + _EDGES[1:]) / 2

#: Cell 0 of every feature but hour and weekday holds what is missing: no zone, no believable distance, no number.
_CELLS = {
    "pickup_zone": LAST_ZONE + 1,
    "dropoff_zone": LAST_ZONE + 1,
    "trip_distance_miles": len(_EDGES),
    "hour_of_day": 24,
    "weekday": 7,
    "predicted_minutes": len(_EDGES),
}
FEATURES = tuple(_CELLS)
_CONTINUOUS = ("trip_distance_miles", "predicted_minutes")
_ZONES = ("pickup_zone", "dropoff_zone")

#: No share counts as smaller: an empty bin would make the PSI infinite.
_LEAST_SHARE = 1e-4

#: How sure it is that a PSI above ``psi_chance`` is no chance, from how many draws that is known, and their seed: the
#: same window has the same figure.
_CONFIDENCE = 0.99
_DRAWS = 2_000
_SEED = 42

#: A zone is gone if it has no trip and the reference would have had this many: chance does that once in 10^8.
_EXPECTED_OF_A_ZONE = 20


@dataclass(frozen=True)
class Profile:
    """Trips and predictions, boiled down to counts.

    Attributes:
        counts: int64 (cells,) by feature, all of ``FEATURES``; predictions may be of other trips than the rest.
        days: Trips by day of pickup, for example ``{"2021-02-10": 1234}``.
        last_pickups: The last pickup of each day, ISO time to the second, New York local time.
    """

    counts: Mapping[str, Counts]
    days: Mapping[str, int]
    last_pickups: Mapping[str, str]

    @classmethod
    def of(cls, trips: Iterable[Trips], predicted: Iterable[Floats]) -> Profile:
        """Profile trips and predictions.

        The predictions of a reference have to be of trips that the model was not fitted to, those of its test month:
        what a model says of its own training trips is spread more widely than what it says of any others.

        Args:
            trips: Any number of trips at a time.
            predicted: Predicted minutes, (n,) any number at a time; of these trips or of others.

        Raises:
            ContractError: If there are no trips, or no predictions at all.
        """
        counts = {feature: np.zeros(cells, np.int64) for feature, cells in _CELLS.items()}
        days: Counter[str] = Counter()
        last_pickups: dict[str, str] = {}
        for batch in trips:
            for feature, cells in _cells(batch).items():
                counts[feature] += np.bincount(cells, minlength=_CELLS[feature])
            dates, order = np.unique(batch.pickup_datetime.astype("datetime64[D]"), return_inverse=True)
            last = dates.astype("datetime64[s]")
            np.maximum.at(last, order, batch.pickup_datetime.astype("datetime64[s]"))
            names = dates.astype(str).tolist()
            days.update(dict(zip(names, np.bincount(order).tolist(), strict=True)))
            for day, moment in zip(names, last.astype(str).tolist(), strict=True):
                last_pickups[day] = max(moment, last_pickups.get(day, ""))
        for minutes in predicted:
            cells = _value_cells(minutes, np.isfinite(minutes))
            counts["predicted_minutes"] += np.bincount(cells, minlength=_CELLS["predicted_minutes"])
        for what, there in (("trips", bool(days)), ("predictions", counts["predicted_minutes"].any())):
            if not there:
                raise ContractError(f"There are no {what} to profile: choose a month that has some.")
        return cls(counts, dict(sorted(days.items())), dict(sorted(last_pickups.items())))

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
                "last_pickups": self.last_pickups,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Read what ``to_json`` wrote.

        Raises:
            KeyError: If an entry is missing.
            ValueError: If it is not JSON, of a later format, or has a cell that no feature has.
        """
        entries = json.loads(text)
        if entries["format"] > FORMAT:
            raise ValueError(f"it is of format {entries['format']}, and this tripcast reads up to {FORMAT}")
        counts = {feature: np.zeros(cells, np.int64) for feature, cells in _CELLS.items()}
        for feature, of_feature in counts.items():
            for cell, count in entries["counts"][feature].items():
                if not 0 <= int(cell) < len(of_feature):
                    raise ValueError(f"{feature} has no cell {cell}")
                of_feature[int(cell)] = count
        return cls(counts, entries["days"], entries["last_pickups"])

    def save(self, file: Path) -> None:
        """Write the profile as JSON.

        Raises:
            StorageError: If the file cannot be written.
        """
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.to_json() + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, file: Path) -> Profile:
        """Read a profile.

        Raises:
            StorageError: If there is none, it is damaged, or a later tripcast wrote it.
        """
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as trouble:
            raise StorageError(
                f"{file} is not the profile of trips ({trouble}). Profile the training trips again."
            ) from trouble


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature has moved.

    Attributes:
        feature: One of ``FEATURES``.
        psi: Population stability index.
        psi_chance: What chance alone exceeds in one window of a hundred.
        wasserstein: Wasserstein distance in standard deviations of the reference; None for a discrete feature, and
            where one side has no value.
        ks: Kolmogorov-Smirnov statistic, 0 to 1; None likewise.
        missing_share: Share of trips without a value: no known zone, no believable distance.
        reference_missing_share: The same of the reference.
    """

    feature: str
    psi: float
    psi_chance: float
    wasserstein: float | None
    ks: float | None
    missing_share: float
    reference_missing_share: float


@dataclass(frozen=True)
class Drift:
    """How far a window is from the reference.

    Attributes:
        trips: Trips of the window.
        reference_trips: Trips of the reference.
        features: Each of ``FEATURES``.
        new_zones: How many ends of trips the window has in each zone where the reference has none.
        gone_zones: Zones where the window has no end of a trip, and the reference would have had at least twenty.
        days: Trips by day.
        trips_per_day: Trips of a usual day.
        reference_trips_per_day: Trips of a usual day of the reference.
        newest_pickup: The latest pickup until now, ISO time, New York local time; None if all are later than now.
        hours_since_newest: Hours from it to now.
    """

    trips: int
    reference_trips: int
    features: tuple[FeatureDrift, ...]
    new_zones: Mapping[int, int]
    gone_zones: tuple[int, ...]
    days: Mapping[str, int]
    trips_per_day: float
    reference_trips_per_day: float
    newest_pickup: str | None
    hours_since_newest: float | None

    @property
    def psi(self) -> dict[str, float]:
        """The PSI of each feature that has moved by more than chance; 0 of the others."""
        return {part.feature: part.psi if part.psi > part.psi_chance else 0.0 for part in self.features}

    @property
    def volume_ratio(self) -> float:
        """Trips of a usual day, as a multiple of the reference's."""
        return self.trips_per_day / self.reference_trips_per_day

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(self), "new_zones": {str(zone): trips for zone, trips in self.new_zones.items()}}


def compare(reference: Profile, window: Profile, *, now: np.datetime64) -> Drift:
    """Measure how far a window is from the reference.

    Args:
        reference: The profile of the training trips, and of the served model's predictions for its test month.
        window: The profile of the window's trips, with the same model's predictions.
        now: New York local time, from which freshness counts. Pickups after it are errors of clocks.
    """
    before, after = (side.counts["pickup_zone"] + side.counts["dropoff_zone"] for side in (reference, window))
    expected = before * (window.trips / reference.trips)
    new, gone = (before == 0) & (after > 0), (expected >= _EXPECTED_OF_A_ZONE) & (after == 0)
    new[0] = gone[0] = False
    newest = max((moment for moment in window.last_pickups.values() if np.datetime64(moment) <= now), default=None)
    return Drift(
        trips=window.trips,
        reference_trips=reference.trips,
        features=tuple(_feature_drift(feature, reference, window) for feature in FEATURES),
        new_zones={zone: int(after[zone]) for zone in np.flatnonzero(new).tolist()},
        gone_zones=tuple(np.flatnonzero(gone).tolist()),
        days=window.days,
        trips_per_day=window.trips_per_day,
        reference_trips_per_day=reference.trips_per_day,
        newest_pickup=newest,
        hours_since_newest=None if newest is None else float((now - np.datetime64(newest)) / np.timedelta64(1, "h")),
    )


def psi(reference: Counts, window: Counts) -> float:
    """Population stability index of two counts over the same bins, (bins,); each has at least one trip."""
    return float(_psi(reference, window))


def _psi(reference: Counts, window: Counts) -> Floats:
    """The same of many pairs at once, (..., bins)."""
    p, q = (np.maximum(counts / counts.sum(-1, keepdims=True), _LEAST_SHARE) for counts in (reference, window))
    found: Floats = np.sum((q - p) * np.log(q / p), axis=-1)
    return found


def _psi_by_chance(reference: Counts, window: Counts) -> float:
    """What the index exceeds in one of a hundred windows that are drawn from the same law as the reference."""
    pooled = reference + window
    shares = pooled[pooled > 0] / pooled.sum()
    chance = np.random.default_rng(_SEED)
    drawn = [chance.multinomial(side.sum(), shares, size=_DRAWS) for side in (reference, window)]
    return float(np.quantile(_psi(*drawn), _CONFIDENCE))


def _cells(trips: Trips) -> dict[str, npt.NDArray[np.intp]]:
    """Each trip's cell in every feature of trips, (n,)."""
    hour = trips.pickup_datetime.astype("datetime64[h]").astype(np.int64)
    return {
        "pickup_zone": _zone_cells(trips.pickup_zone),
        "dropoff_zone": _zone_cells(trips.dropoff_zone),
        "trip_distance_miles": _value_cells(trips.trip_distance_miles, has_plausible_distance(trips)),
        "hour_of_day": hour % 24,
        "weekday": (hour // 24 + 3) % 7,  # Monday is 0; 1970-01-01, from which numpy counts, was a Thursday
    }


def _zone_cells(zones: npt.NDArray[np.int16]) -> npt.NDArray[np.intp]:
    return np.where((zones >= 1) & (zones <= LAST_ZONE), zones, 0).astype(np.intp)


def _value_cells(values: Floats, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    return np.where(present, np.clip(np.searchsorted(_EDGES, values, side="right"), 1, len(_MIDDLES)), 0)


def _feature_drift(feature: str, reference: Profile, window: Profile) -> FeatureDrift:
    from scipy.stats import wasserstein_distance

    before, after = reference.counts[feature], window.counts[feature]
    n, m = int(before.sum()), int(after.sum())
    distance = ks = None
    bins = np.arange(len(before))
    if feature in _CONTINUOUS:
        bins = _decile_bins(before)
        p, q = before[1:], after[1:]
        if p.any() and q.any():
            spread = _standard_deviation(p)
            # A reference of one value has no spread to measure a distance in.
            distance = float(wasserstein_distance(_MIDDLES, _MIDDLES, p, q)) / spread if spread else None
            ks = float(np.abs(p.cumsum() / p.sum() - q.cumsum() / q.sum()).max())
    binned_before, binned_after = (np.bincount(bins, counts).astype(np.int64) for counts in (before, after))
    missing = [0, UNKNOWN_ZONE] if feature in _ZONES else [0] if feature in _CONTINUOUS else []
    return FeatureDrift(
        feature=feature,
        psi=psi(binned_before, binned_after),
        psi_chance=_psi_by_chance(binned_before, binned_after),
        wasserstein=distance,
        ks=ks,
        missing_share=int(after[missing].sum()) / m,
        reference_missing_share=int(before[missing].sum()) / n,
    )


def _decile_bins(counts: Counts) -> npt.NDArray[np.intp]:
    """The bin of each cell of a continuous feature: 0 for what is missing, then the deciles, as near as cells allow."""
    cumulated = counts[1:].cumsum()
    ends = np.unique(np.searchsorted(cumulated, cumulated[-1] * np.arange(1, 10) / 10))
    bins: npt.NDArray[np.intp] = np.concatenate(([0], 1 + np.searchsorted(ends, np.arange(len(_MIDDLES)))))
    return bins


def _standard_deviation(counts: Counts) -> float:
    mean = np.average(_MIDDLES, weights=counts)
    return math.sqrt(np.average((_MIDDLES - mean) ** 2, weights=counts))
