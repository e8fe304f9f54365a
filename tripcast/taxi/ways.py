"""The ways in which a prediction is asked for, by what is known of the trip's length.

- ``zones_only``: nothing, as for most riders; also where the distance given cannot be one.
- ``planned``: the length of a route, known before the trip begins and somewhat wrong.
- ``metered``: the meter's reading, known when the trip has ended. No rider can give it; records of ended trips have it,
  and the notebook whose figures tripcast reproduces was judged with it.

Of a feed that says nothing of distances there is the first way alone.

Each way has an error of its own, and an interval of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tripcast.taxi.features import PLAUSIBLE_MILES, has_plausible_distance, have_distances
from tripcast.taxi.trips import Trips

Floats = npt.NDArray[np.float64]

ZONES_ONLY, PLANNED, METERED = "zones_only", "planned", "metered"

#: All ways, from what is known least of a trip to what is known most.
WAYS = (ZONES_ONLY, PLANNED, METERED)

#: What is known of a trip, for people.
MEANING = {
    ZONES_ONLY: "with zones and time alone",
    PLANNED: "with a planned distance, 20 % off",
    METERED: "with the meter's distance",
}

#: How far a plan is from what the meter will show: the standard deviation of the log of their quotient.
PLANNING_ERROR = 0.2


def way_of(trip_distance_miles: float, metered: bool) -> str:
    """In which way one trip is asked for.

    Args:
        trip_distance_miles: Miles; NaN where not known.
        metered: Whether the miles, if they are plausible, were read from the meter.
    """
    if 0 < trip_distance_miles <= PLAUSIBLE_MILES:
        return METERED if metered else PLANNED
    return ZONES_ONLY


def ways_of(trips: Trips, metered: bool) -> npt.NDArray[np.str_]:
    """In which way each trip is asked for, (n,), as ``way_of`` tells of one."""
    return np.where(has_plausible_distance(trips), METERED if metered else PLANNED, ZONES_ONLY)


def recorded_way(trips: Trips) -> str:
    """In which way recorded trips are known: with the meter, or by zones and time where their feed has no distances."""
    return METERED if have_distances(trips) else ZONES_ONLY


def as_asked(trips: Trips) -> dict[str, Trips]:
    """The same recorded trips as they would have been asked for in each way, by the way; the last is the recorded one.

    Args:
        trips: Ended trips, n, with metered distances; one that is implausible stays as it is.
    """
    if recorded_way(trips) == ZONES_ONLY:
        return {ZONES_ONLY: trips}
    unknown = replace(trips, trip_distance_miles=np.full(len(trips), np.nan))
    return {ZONES_ONLY: unknown, PLANNED: planned(trips), METERED: trips}


def planned(trips: Trips) -> Trips:
    """The same recorded trips with the distances that a planner would have given, as ``as_asked``.

    A plan is the recorded distance times a lognormal error that depends on the trip alone, so that the same trip has
    the same plan wherever and whenever it is looked at.
    """
    return replace(trips, trip_distance_miles=trips.trip_distance_miles * np.exp(PLANNING_ERROR * _normal(trips)))


def _normal(trips: Trips) -> Floats:
    """A number for each trip that depends on nothing but the trip and is standard normal over trips, (n,).

    Two uniform numbers are hashed from the trip and turned into a normal one (Box & Muller 1958, A note on the
    generation of random normal deviates, Annals of Mathematical Statistics 29, 610-611).
    """
    pickup = trips.pickup_datetime.astype("datetime64[us]").view(np.uint64)
    zones = trips.pickup_zone.astype(np.uint64) << np.uint64(32) | trips.dropoff_zone.astype(np.uint64)
    key = _mixed(_mixed(pickup) ^ zones) ^ trips.trip_distance_miles.astype(np.float64).view(np.uint64)
    first, second = ((_mixed(key ^ np.uint64(salt)) >> np.uint64(11)) * 2.0**-53 for salt in (1, 2))
    normal: Floats = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
    return normal


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators)."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
