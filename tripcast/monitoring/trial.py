"""The trial of a challenger, and the relapse of a champion: two versions compared on live truth.

The gate has judged a challenger on a month before it served. The trial judges it on what came after: both versions
predict the same trips, all those that have ended since the trial began, and the difference of their RMSE has its
confidence interval.

- Better, with the whole interval below zero: it becomes the champion.
- Worse, with the whole interval above zero: it is withdrawn.
- Neither: it stays on trial, until it has had its windows; then it is withdrawn.

The trial looks once a window, at most ``trial_windows`` times. A version that is no better would be promoted by one of
the looks sooner or later, so each look has its part of the error (Bonferroni): over all looks together, an equal
version is promoted in at most 2.5 % of trials. A window keeps the sums of its days, so pooling needs no trip again.

A window whose data breaks its contract proves nothing and does not count.

Source:
    Pocock (1977), Group sequential methods in the design and analysis of clinical trials, Biometrika 64(2), 191-199
    (why repeated looks need narrower error rates; his are a little less strict than Bonferroni's, and need looks of
    equal size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from tripcast.evaluation.confidence import CONFIDENCE, Measure, rmse_difference
from tripcast.monitoring.rule import DEFAULT_RULE, Rule


@dataclass(frozen=True)
class DailySums:
    """Squared errors of two versions on the same trips, by day of pickup: all that their comparison needs.

    Attributes:
        trips: Number of trips of each day, (days,).
        squared: Sum of the squared errors of the one, square minutes, (days,).
        others: The same of the other.
    """

    trips: tuple[int, ...] = ()
    squared: tuple[float, ...] = ()
    others: tuple[float, ...] = ()

    @classmethod
    def of(cls, rows: pa.Table, others: pa.Table) -> DailySums:
        """Add up the errors on the same trips.

        Args:
            rows: Predictions of the one, in ``quality.judged_schema``; at least one.
            others: Predictions of the other for the same trips, in the same order.
        """
        days, day = np.unique(rows["pickup_datetime"].to_numpy().astype("datetime64[D]"), return_inverse=True)
        squared = (
            np.bincount(day, (table["predicted_minutes"].to_numpy() - table["true_minutes"].to_numpy()) ** 2, len(days))
            for table in (rows, others)
        )
        return cls(
            tuple(np.bincount(day).tolist()),
            *(tuple(np.round(sums, 4).tolist()) for sums in squared),
        )

    def __add__(self, other: DailySums) -> DailySums:
        """The days of both."""
        return DailySums(self.trips + other.trips, self.squared + other.squared, self.others + other.others)

    def difference(self, confidence: float = CONFIDENCE) -> Measure:
        """How much higher the RMSE of the one is, minutes."""
        squared, others, trips = (np.array(sums, np.float64) for sums in (self.squared, self.others, self.trips))
        return rmse_difference(squared, others, trips, confidence=confidence)

    def rmse(self) -> tuple[float, float]:
        """RMSE of the one and of the other, minutes."""
        trips = sum(self.trips)
        return (sum(self.squared) / trips) ** 0.5, (sum(self.others) / trips) ** 0.5


@dataclass(frozen=True)
class Trial:
    """What a window said of a challenger.

    Attributes:
        challenger: The version on trial.
        champion: The version that it is to replace.
        trips: Trips on which both were judged, since the trial began.
        difference: The challenger's RMSE less the champion's on these trips, minutes; the interval is that of one look.
        verdict: Promote it, withdraw it, or wait for another window.
        reason: Why, as a sentence.
        sums: Of this window alone; none in records of 0.1.0.
    """

    challenger: int
    champion: int
    trips: int
    difference: Measure
    verdict: Literal["promote", "withdraw", "wait"]
    reason: str
    sums: DailySums = DailySums()


@dataclass(frozen=True)
class Comparison:
    """The version that serves beside the one before it, on the same trips.

    Attributes:
        champion: The version that serves.
        previous: The champion before it, which a rollback would restore.
        trips: Trips on which both were judged.
        rmse: The champion's, minutes.
        previous_rmse: The other's, minutes.
        difference: The champion's RMSE less the other's, minutes: negative where the promotion has paid.
        relapse: Why the champion goes back, as a sentence; empty if it does not.
    """

    champion: int
    previous: int
    trips: int
    rmse: float
    previous_rmse: float
    difference: Measure
    relapse: str = ""

    @property
    def sentence(self) -> str:
        """What the last promotion has saved so far, for people."""
        saved = 1 - self.rmse / self.previous_rmse if self.previous_rmse else 0.0
        return (
            f"On the same {self.trips:,} trips, RMSE of version {self.champion} is {self.rmse:.2f} minutes, and of "
            f"version {self.previous}, which served before it, {self.previous_rmse:.2f}: its promotion "
            f"{'saves' if saved >= 0 else 'costs'} {abs(saved):.1%}."
        )


def judge(
    challenger: int, champion: int, sums: DailySums, earlier: Sequence[Trial] = (), rule: Rule = DEFAULT_RULE
) -> Trial:
    """Judge a challenger by all windows since its trial began.

    Args:
        challenger: The version on trial.
        champion: The version that it is to replace.
        sums: Of the latest window: the challenger's errors and the champion's.
        earlier: The trials of earlier windows, of any versions.
        rule: Says how many windows a trial has.
    """
    before = [trial for trial in earlier if (trial.challenger, trial.champion) == (challenger, champion)]
    pooled, windows = sums, 1 + len(before)
    for trial in before:
        pooled = trial.sums + pooled
    difference = pooled.difference(1 - (1 - CONFIDENCE) / rule.trial_windows)
    trips = sum(pooled.trips)
    compared = (
        f"Version {challenger} is {abs(difference.value):.3f} minutes {'worse' if difference.value >= 0 else 'better'} "
        f"than version {champion} in RMSE on {trips:,} live trips"
    )
    low, high = difference.low, difference.high
    if low is not None and high is not None:
        looks = "the one look" if rule.trial_windows == 1 else f"all {rule.trial_windows} looks"
        compared += f" (95 % interval over {looks} {low:+.3f} to {high:+.3f})"
    verdict: Literal["promote", "withdraw", "wait"]
    if high is not None and high < 0:
        verdict, reason = "promote", f"{compared}: it becomes the champion."
    elif low is not None and low > 0:
        verdict, reason = "withdraw", f"{compared}: it is withdrawn."
    elif windows >= rule.trial_windows:
        verdict, reason = "withdraw", f"{compared}: {windows} windows have not proven it better, and it is withdrawn."
    else:
        verdict, reason = "wait", f"{compared}, which may be chance: its trial goes on."
    return Trial(challenger, champion, trips, difference, verdict, reason, sums)


def compare(champion: int, previous: int, sums: DailySums, *, first: bool) -> Comparison:
    """Hold a champion against the one before it.

    Args:
        champion: The version that serves.
        previous: The champion before it.
        sums: The champion's errors and the other's on the window's trips.
        first: Whether this is the first window that the champion is judged on: then it goes back if it is clearly
            worse. Later ones have nothing new to say of that promotion.
    """
    difference, (rmse, previous_rmse) = sums.difference(), sums.rmse()
    relapse = ""
    if first and difference.low is not None and difference.low > 0:
        relapse = (
            f"Version {champion} is {difference.value:.3f} minutes worse than version {previous} in RMSE on the first "
            f"{sum(sums.trips):,} trips after its promotion (95 % interval {difference.low:+.3f} to "
            f"{difference.high:+.3f}): version {previous} serves again."
        )
    return Comparison(champion, previous, sum(sums.trips), rmse, previous_rmse, difference, relapse)
