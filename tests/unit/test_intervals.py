"""Prediction intervals: coverage, overall and where it is hard, and sensible ends everywhere."""

import numpy as np
import pytest

from tripcast.models.intervals import Interval


@pytest.fixture
def world():
    """Makes predictions and truths whose spread grows with the prediction and is skewed."""

    def draw(count: int, seed: int):
        random = np.random.default_rng(seed)
        predicted = random.uniform(3, 45, count)
        return predicted, predicted * random.lognormal(0, 0.3, count)

    return draw


def coverage(interval, predicted, actual) -> float:
    lower, upper = interval.around(predicted)
    return float(np.mean((lower <= actual) & (actual <= upper)))


def test_eight_of_ten_further_trips_end_within(world):
    interval = Interval.calibrate(*world(10_000, 0))
    assert coverage(interval, *world(20_000, 1)) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("shortest", "longest"), [(3, 10), (10, 25), (25, 45)])
def test_coverage_holds_for_short_and_for_long_trips(world, shortest, longest):
    predicted, actual = world(40_000, 1)
    rows = (predicted >= shortest) & (predicted < longest)
    interval = Interval.calibrate(*world(10_000, 0))
    assert coverage(interval, predicted[rows], actual[rows]) == pytest.approx(0.8, abs=0.03)


def test_the_interval_is_as_narrow_as_the_spread_allows(world):
    lower, upper = Interval.calibrate(*world(50_000, 0)).around(np.array([10.0, 30.0]))
    # The 10 % and 90 % quantiles of a lognormal(0, 0.3): 0.681 and 1.469.
    np.testing.assert_allclose(lower, [6.8, 20.4], rtol=0.06)
    np.testing.assert_allclose(upper, [14.7, 44.1], rtol=0.06)


def test_both_tails_are_of_the_same_weight(world):
    predicted, actual = world(20_000, 1)
    lower, upper = Interval.calibrate(*world(20_000, 0)).around(predicted)
    assert np.mean(actual < lower) == pytest.approx(0.1, abs=0.015)
    assert np.mean(actual > upper) == pytest.approx(0.1, abs=0.015)


def test_few_trips_make_a_wide_interval_of_one_group():
    predicted, actual = np.full(9, 10.0), np.arange(6.0, 15.0)
    interval = Interval.calibrate(predicted, actual)
    assert interval.predicted == [10.0]
    assert interval.lower[0] == pytest.approx(-4, rel=0.03)
    assert interval.upper[0] == pytest.approx(4, rel=0.03)


def test_predictions_beyond_all_seen_take_the_nearest_spread(world):
    interval = Interval.calibrate(*world(10_000, 0))
    lower, upper = interval.around(np.array([-5.0, 1e6]))
    np.testing.assert_allclose(lower, [-5 + interval.lower[0], 1e6 + interval.lower[-1]])
    np.testing.assert_allclose(upper, [-5 + interval.upper[0], 1e6 + interval.upper[-1]])


def test_the_order_of_the_trips_does_not_matter(world):
    predicted, actual = world(1000, 0)
    assert Interval.calibrate(predicted[::-1], actual[::-1]) == Interval.calibrate(predicted, actual)
