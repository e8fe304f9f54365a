"""The one confidence interval: of a mean over trips, and of the difference between two models on the same trips.

Trips of one day share its weather and traffic, so a day is what is drawn by chance, not a trip. With ``S_d`` the sum of
a quantity over the ``n_d`` trips of day ``d`` and D days, ::

    mean = sum S_d / sum n_d        se^2 = D / (D - 1) sum_d (S_d - mean n_d)^2 / (sum n_d)^2

and the interval is ``mean -+ t se``, t the 97.5 % quantile of Student's distribution with D - 1 degrees of freedom: the
cluster-robust variance of a ratio, by the delta method. That of the RMSE is the root of the mean squared error's. It
needs no random numbers, so a run repeated has the same figures, and holds for the thirty days of a month, where
percentiles of a bootstrap would be too narrow. A difference between two models on the same trips is measured in the
same way, from what each trip contributes to it, so that most of what a day does to both cancels out.

Source:
    Cameron & Miller (2015), A Practitioner's Guide to Cluster-Robust Inference, Journal of Human Resources 50(2),
    317-372 (the variance, its factor D / (D - 1), Student's t with D - 1 degrees of freedom for few clusters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: The confidence of every interval that says no other.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measure:
    """A mean over trips with its confidence interval; no interval, None, where all trips are of one day."""

    value: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval; None if there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def mean(sums: Floats, trips: Floats, confidence: float = CONFIDENCE) -> Measure:
    """The mean of a quantity over all trips.

    Args:
        sums: Of the quantity over the trips of each day, (days,).
        trips: Number of trips of each day, (days,), at least one in all; a day without any does not count.
        confidence: Of the interval.
    """
    from scipy.special import stdtrit  # 0.3 s, which commands that only state a rule would wait for

    days, total = np.count_nonzero(trips), trips.sum()
    value = float(sums.sum() / total)
    if days < 2:
        return Measure(value, None, None)
    error = math.sqrt(days / (days - 1) * np.sum((sums - value * trips) ** 2)) / total
    reach = float(stdtrit(days - 1, (1 + confidence) / 2) * error)
    return Measure(value, value - reach, value + reach)


def rmse(squared: Floats, trips: Floats) -> Measure:
    """The root mean squared error over all trips.

    Args:
        squared: Sum of the squared errors of each day, (days,).
        trips: Number of trips of each day, (days,), at least one in all.
    """
    of_squares = mean(squared, trips)
    low, high = (None if end is None else math.sqrt(max(end, 0.0)) for end in (of_squares.low, of_squares.high))
    return Measure(math.sqrt(of_squares.value), low, high)


def rmse_difference(squared: Floats, others: Floats, trips: Floats, *, confidence: float = CONFIDENCE) -> Measure:
    """How much higher the RMSE of one model is than another's on the same trips; negative if it is lower.

    A trip contributes ``(e^2 - Q) / (2 sqrt Q)`` to its model's RMSE, the root of Q (delta method).

    Args:
        squared: Sum of the one model's squared errors of each day, (days,).
        others: Sum of the other's, (days,).
        trips: Number of trips of each day, (days,), at least one in all.
        confidence: Of the interval.
    """
    difference, contributions = 0.0, np.zeros(len(trips))
    for sign, sums in ((1, squared), (-1, others)):
        mean_square = sums.sum() / trips.sum()
        root = math.sqrt(mean_square)
        difference += sign * root
        if root:
            contributions += sign * (sums - mean_square * trips) / (2 * root)
    around_zero = mean(contributions, trips, confidence)
    if around_zero.interval is None:
        return Measure(difference, None, None)
    low, high = around_zero.interval
    return Measure(difference, difference + low, difference + high)
