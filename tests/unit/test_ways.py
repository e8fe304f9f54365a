"""The ways of asking: what is known of a trip's length, and the same trips asked for in each of them."""

import numpy as np
import pytest

from tests.conftest import make_trips
from tripcast.taxi.ways import METERED, PLANNED, WAYS, ZONES_ONLY, as_asked, way_of, ways_of


@pytest.mark.parametrize("miles", [np.nan, -1.0, 0.0, 60.01, 244_152.01, np.inf])
def test_a_distance_that_cannot_be_one_leaves_the_zones_alone(miles):
    assert way_of(miles, metered=False) == way_of(miles, metered=True) == ZONES_ONLY


@pytest.mark.parametrize("miles", [0.01, 3.0, 60.0])
def test_a_distance_is_a_plan_unless_a_meter_showed_it(miles):
    assert way_of(miles, metered=False) == PLANNED
    assert way_of(miles, metered=True) == METERED


def test_many_trips_are_told_apart_as_one_is():
    trips = make_trips(6)
    trips.trip_distance_miles[:] = [np.nan, 0.0, 0.01, 3.0, 60.0, 60.01]
    for metered in (False, True):
        one_by_one = [way_of(miles, metered) for miles in trips.trip_distance_miles.tolist()]
        assert ways_of(trips, metered).tolist() == one_by_one


def test_recorded_trips_are_asked_for_without_distance_with_a_plan_and_with_the_meter():
    trips = make_trips(20_000)
    asked = as_asked(trips)
    assert tuple(asked) == WAYS
    assert np.isnan(asked[ZONES_ONLY].trip_distance_miles).all()
    assert asked[METERED] is trips
    error = np.log(asked[PLANNED].trip_distance_miles / trips.trip_distance_miles)
    assert error.mean() == pytest.approx(0, abs=0.01)
    assert error.std() == pytest.approx(0.2, abs=0.005)
    assert np.mean(np.abs(error) < 0.2) == pytest.approx(0.683, abs=0.01)
    assert abs(np.corrcoef(error, trips.trip_distance_miles)[0, 1]) < 0.03


def test_the_plan_of_a_trip_depends_on_the_trip_alone():
    trips = make_trips(500)
    order = np.random.default_rng(0).permutation(500)[:100]
    np.testing.assert_array_equal(
        as_asked(trips[order])[PLANNED].trip_distance_miles, as_asked(trips)[PLANNED].trip_distance_miles[order]
    )


def test_a_distance_that_is_no_plan_stays_none():
    trips = make_trips(3)
    trips.trip_distance_miles[:] = [0.0, np.nan, np.inf]
    np.testing.assert_array_equal(as_asked(trips)[PLANNED].trip_distance_miles, trips.trip_distance_miles)
