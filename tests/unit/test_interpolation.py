"""Interpolation at one point: the same as numpy's for many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripcast.models.interpolation import interpolator

#: Minutes and the like: no closer to each other than a slope can tell.
NUMBERS = st.integers(-(10**6), 10**6).map(lambda thousandths: thousandths / 1000)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8, unique_by=lambda point: point[0]), NUMBERS)
def test_it_is_what_numpy_computes(points, at):
    x, y = np.array(sorted(points)).T
    interpolate = interpolator(x, y)
    for place in (at, *x):
        expected = np.interp(place, x, y)
        assert interpolate(float(place)) == pytest.approx(expected, rel=1e-12, abs=1e-12 * np.abs(y).max())


@pytest.mark.parametrize(("at", "value"), [(0.0, 5.0), (1.0, 5.0), (1.5, 6.0), (2.0, 9.0), (2.5, 10.0), (99.0, 11.0)])
def test_between_points_it_is_linear_beyond_them_constant_and_of_equal_ones_the_last_counts(at, value):
    assert interpolator([1, 2, 2, 3], [5, 7, 9, 11])(at) == value
