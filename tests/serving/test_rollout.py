"""The split of riders between two arms."""

import itertools
import subprocess
import sys
from math import sqrt

import pytest

from tripcast.serving.traffic_split import place, takes_part

RIDERS = [f"rider-{number}" for number in range(100_000)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_challenger_gets_its_share_of_the_riders(share):
    taking_part = sum(takes_part(rider, share, "tripcast-green/2") for rider in RIDERS)

    assert abs(taking_part - share * len(RIDERS)) < 3 * sqrt(len(RIDERS) * share * (1 - share))


def test_requests_without_a_rider_are_split_by_chance():
    taking_part = sum(takes_part(None, 0.3, "tripcast-green/2") for _ in RIDERS)

    assert abs(taking_part - 30_000) < 5 * sqrt(len(RIDERS) * 0.3 * 0.7)


def test_nobody_takes_part_at_a_share_of_nothing_and_everybody_at_all():
    assert not any(takes_part(rider, 0.0, "salt") for rider in [None, *RIDERS[:1000]])
    assert all(takes_part(rider, 1.0, "salt") for rider in [None, *RIDERS[:1000]])


def test_a_larger_share_only_adds_riders():
    shares = (0.05, 0.1, 0.3, 0.31, 0.8)
    parts = [{rider for rider in RIDERS if takes_part(rider, share, "tripcast-green/2")} for share in shares]

    for smaller, larger in itertools.pairwise(parts):
        assert smaller < larger


def test_the_next_challenger_is_tried_on_other_riders():
    first = {rider for rider in RIDERS if takes_part(rider, 0.1, "tripcast-green/2")}
    second = {rider for rider in RIDERS if takes_part(rider, 0.1, "tripcast-green/3")}

    assert abs(len(first & second) - 1000) < 3 * sqrt(1000)


def test_a_rider_has_the_same_place_in_every_process_and_release():
    code = "from tripcast.serving.traffic_split import place; print(place('rider-ü', 'tripcast-green/2'))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert float(elsewhere) == place("rider-ü", "tripcast-green/2")
    assert place("rider-1", "tripcast-green/2") == pytest.approx(0.893450013604741, abs=1e-15)
