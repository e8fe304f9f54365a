"""The groups of trips with an interval of their own."""

import numpy as np
import pytest

from tests.conftest import make_trips
from tripcast.taxi.interval_groups import group_of, groups_of
from tripcast.taxi.trips import Trip

BRONX, MANHATTAN, QUEENS = 3, 41, 7


@pytest.mark.parametrize(
    ("zone", "miles", "metered", "group"),
    [
        (MANHATTAN, np.nan, False, "zones_only"),
        (QUEENS, np.nan, False, "zones_only/within a zone"),
        (BRONX, 0.0, False, "zones_only/Bronx"),
        (MANHATTAN, 0.4, False, "planned/far below"),
        (MANHATTAN, 1.0, False, "planned/usual"),
        (MANHATTAN, 2.0, False, "planned/far above"),
        (QUEENS, 2.0, False, "planned/within a zone"),
        (BRONX, 1.0, False, "planned/Bronx"),
        (MANHATTAN, 0.4, True, "metered/far below"),
        (MANHATTAN, 0.6, True, "metered/below"),
        (MANHATTAN, 1.0, True, "metered/usual"),
        (MANHATTAN, 1.5, True, "metered/above"),
        (MANHATTAN, 3.0, True, "metered/far above"),
        (QUEENS, 3.0, True, "metered/far above"),
        (BRONX, 3.0, True, "metered/Bronx"),
        (BRONX, 0.0, True, "zones_only/no reading"),
    ],
)
def test_a_group_is_a_way_and_what_makes_trips_hard_to_predict(zone, miles, metered, group):
    assert group_of(Trip(zone, QUEENS, miles, 0), metered, usual_miles=1.0) == group


def test_many_trips_are_grouped_as_one_is():
    trips = make_trips(200)
    trips.pickup_zone[::3] = BRONX
    trips.pickup_zone[::5] = trips.dropoff_zone[::5]
    trips.trip_distance_miles[::7] = 0
    usual = np.random.default_rng(0).uniform(0.5, 6, 200)
    for metered in (False, True):
        one_by_one = [
            group_of(Trip(pickup, dropoff, miles, 0), metered, miles_between)
            for pickup, dropoff, miles, miles_between in zip(
                trips.pickup_zone.tolist(),
                trips.dropoff_zone.tolist(),
                trips.trip_distance_miles.tolist(),
                usual.tolist(),
                strict=True,
            )
        ]
        assert groups_of(trips, metered, usual).tolist() == one_by_one
