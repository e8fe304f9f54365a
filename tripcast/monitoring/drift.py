"""Drift: how far the trips of a window, and what was predicted for them, are from those that a model learned from.

It is a comparison of two profiles (``tripcast.monitoring.reference``), and sees no trip.

With ``p_i`` and ``q_i`` the shares of the reference and of the window in bin ``i``, ::

    PSI = sum_i (q_i - p_i) ln(q_i / p_i)

The bins of the population stability index (PSI) are the reference's deciles where a feature is continuous, with one
more bin for missing values, and its values where it is discrete. By custom
a PSI below 0.1 is no drift worth a look and one above 0.2 or 0.25 is a shift. Few trips in many zones look like a
shift by chance alone: ``psi_chance`` is what chance exceeds in one window of a hundred. It is found by drawing pairs of
samples from both sides together. The asymptotic law, ``(1/n + 1/m) chi2``, holds where every bin has many trips; with
the hundred zones that have few, it is so high that chance exceeds it in one window of 1,600.

Sources:
    Siddiqi (2006), Credit Risk Scorecards, chapter 9 (PSI, its bins and its custom). Yurdakul & Naranjo (2020),
    Statistical properties of the population stability index, Journal of Risk Model Validation 14(4) (its distribution).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tripcast.monitoring.reference import Counts, Profile

Floats = npt.NDArray[np.float64]

#: No share counts as smaller: an empty bin would make the PSI infinite.
_LEAST_SHARE = 1e-4

#: How sure it is that a PSI above ``psi_chance`` is no chance, from how many draws that is known, and their seed: the
#: same window has the same figure.
_CONFIDENCE = 0.99
_DRAWS = 2_000
_SEED = 42

#: A place is gone if it has no trip and the reference would have had this many: chance does that once in 10^8.
_EXPECTED_OF_A_PLACE = 20


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature has moved.

    Attributes:
        feature: Its name.
        psi: Population stability index.
        psi_chance: What chance alone exceeds in one window of a hundred.
        missing_share: Share of trips without a value.
        reference_missing_share: The same of the reference.
    """

    feature: str
    psi: float
    psi_chance: float
    missing_share: float
    reference_missing_share: float


@dataclass(frozen=True)
class Drift:
    """How far a window is from the reference.

    Attributes:
        trips: Trips of the window.
        reference_trips: Trips of the reference.
        features: Each of the profiles'.
        new_places: How often the window's trips have each place that the reference has none of, by its cell.
        gone_places: Places that the window's trips never have, and the reference's would have had twenty times.
        days: Trips by day.
        trips_per_day: Trips of a usual day.
        reference_trips_per_day: Trips of a usual day of the reference.
    """

    trips: int
    reference_trips: int
    features: tuple[FeatureDrift, ...]
    new_places: Mapping[int, int]
    gone_places: tuple[int, ...]
    days: Mapping[str, int]
    trips_per_day: float
    reference_trips_per_day: float

    @property
    def psi(self) -> dict[str, float]:
        """The PSI of each feature that has moved by more than chance; 0 of the others."""
        return {part.feature: part.psi if part.psi > part.psi_chance else 0.0 for part in self.features}

    @property
    def volume_ratio(self) -> float:
        """Trips of a usual day, as a multiple of the reference's."""
        return self.trips_per_day / self.reference_trips_per_day


def compare(reference: Profile, window: Profile) -> Drift:
    """Measure how far a window is from the reference.

    Args:
        reference: The profile of the training trips, and of the served model's predictions for its test month.
        window: The profile of the window's trips, with the same model's predictions; of the same features.
    """
    new, gone = _places(reference, window)
    return Drift(
        trips=window.trips,
        reference_trips=reference.trips,
        features=tuple(_feature_drift(feature, reference, window) for feature in reference.bins),
        new_places=new,
        gone_places=gone,
        days=window.days,
        trips_per_day=window.trips_per_day,
        reference_trips_per_day=reference.trips_per_day,
    )


def _places(reference: Profile, window: Profile) -> tuple[dict[int, int], tuple[int, ...]]:
    """The places that came and went, over all features that are places: the same cell is the same place."""
    features = [feature for feature, bins in reference.bins.items() if bins.places]
    if not features:
        return {}, ()
    before, after = (np.sum([side.counts[feature] for feature in features], axis=0) for side in (reference, window))
    expected = before * (window.trips / reference.trips)
    new, gone = (before == 0) & (after > 0), (expected >= _EXPECTED_OF_A_PLACE) & (after == 0)
    new[0] = gone[0] = False  # what has no place
    return {place: int(after[place]) for place in np.flatnonzero(new).tolist()}, tuple(np.flatnonzero(gone).tolist())


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


def _feature_drift(feature: str, reference: Profile, window: Profile) -> FeatureDrift:
    before, after = reference.counts[feature], window.counts[feature]
    bins = reference.bins[feature]
    groups = _decile_bins(before) if bins.continuous else np.arange(bins.size)
    binned_before, binned_after = (np.bincount(groups, counts).astype(np.int64) for counts in (before, after))
    missing = list(bins.missing)
    return FeatureDrift(
        feature=feature,
        psi=psi(binned_before, binned_after),
        psi_chance=_psi_by_chance(binned_before, binned_after),
        missing_share=int(after[missing].sum()) / int(after.sum()),
        reference_missing_share=int(before[missing].sum()) / int(before.sum()),
    )


def _decile_bins(counts: Counts) -> npt.NDArray[np.intp]:
    """The bin of each cell of a continuous feature: 0 for what is missing, then the deciles, as near as cells allow."""
    cumulated = counts[1:].cumsum()
    ends = np.unique(np.searchsorted(cumulated, cumulated[-1] * np.arange(1, 10) / 10))
    bins: npt.NDArray[np.intp] = np.concatenate(([0], 1 + np.searchsorted(ends, np.arange(len(cumulated)))))
    return bins
