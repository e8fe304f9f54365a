"""The taxi zones: where they lie."""

from math import dist

import pytest

from tripcast.taxi.zones import LAST_ZONE, PLACES, UNKNOWN_ZONE


def test_every_zone_that_is_a_place_has_one():
    assert set(range(1, LAST_ZONE + 1)) - set(PLACES) == {UNKNOWN_ZONE, LAST_ZONE}


@pytest.mark.parametrize(
    ("one", "other", "miles"),
    [
        (230, 161, 0.4),  # Times Square and Midtown Center are neighbours
        (132, 138, 10.5),  # the airports John F. Kennedy and LaGuardia
        (1, 132, 20.8),  # Newark Airport and John F. Kennedy
        (12, 153, 13.1),  # the two ends of Manhattan, but for Inwood
    ],
)
def test_zones_are_as_far_apart_as_on_any_map(one, other, miles):
    assert dist(PLACES[one], PLACES[other]) == pytest.approx(miles, rel=0.03)


def test_north_is_up_and_east_is_right():
    battery, harlem, kennedy, newark = PLACES[12], PLACES[42], PLACES[132], PLACES[1]
    assert harlem[1] > battery[1]
    assert kennedy[0] > newark[0]
