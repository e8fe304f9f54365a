"""The groups of trips that have an interval of their own: what is known of them says how far predictions are off.

One interval for all trips holds eight of ten, but too few of those that are hard to predict: trips whose distance is
far from the usual miles between their zones, trips within a zone, trips without a meter's reading, and trips from the
Bronx. A group is named by its way of asking, and by what sets it apart.

Source: Boström & Johansson (2020), Mondrian conformal regressors, Proceedings of Machine Learning Research 128,
114-133.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from tripcast.taxi.trips import Trip, Trips
from tripcast.taxi.ways import METERED, PLANNED, WAYS, ZONES_ONLY, way_of, ways_of
from tripcast.taxi.zones import ZONES

_BRONX = frozenset(zone.number for zone in ZONES if zone.borough == "Bronx")
_IN_BRONX = np.isin(np.arange(1 << 16), list(_BRONX))

#: Miles, planned or metered, over usual ones, where one group ends and the next begins.
_RATIOS = (0.5, 0.8, 1.25, 2.0)

_OF_RATIO = {
    way: tuple(f"{way}/{name}" for name in ("far below", "below", "usual", "above", "far above"))
    for way in (PLANNED, METERED)
}
_BRONX_OF_WAY = {way: f"{way}/Bronx" for way in WAYS}
#: From a zone to itself: a few streets, or there and back; the meter tells which.
_WITHIN_ZONE = {way: f"{way}/within a zone" for way in (ZONES_ONLY, PLANNED)}
#: Of trips that have ended, and whose meter shows nothing that can be.
_UNMETERED = f"{ZONES_ONLY}/no reading"


def group_of(trip: Trip, metered: bool, usual_miles: float) -> str:
    """The group of one trip, for its pair of zones' usual miles, as ``groups_of`` tells of many."""
    way = way_of(trip.trip_distance_miles, metered)
    if metered and way == ZONES_ONLY:
        return _UNMETERED
    if trip.pickup_zone in _BRONX:
        return _BRONX_OF_WAY[way]
    if trip.pickup_zone == trip.dropoff_zone and not metered:
        return _WITHIN_ZONE[way]
    if way == ZONES_ONLY:
        return way
    return _OF_RATIO[way][bisect_right(_RATIOS, trip.trip_distance_miles / usual_miles)]


def groups_of(trips: Trips, metered: bool, usual_miles: npt.NDArray[np.floating]) -> npt.NDArray[np.str_]:
    """The group of each trip, (n,).

    Args:
        trips: The trips, n.
        metered: Whether their distances are a meter's readings.
        usual_miles: Of each trip's pair of zones, (n,).
    """
    ways = ways_of(trips, metered)
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = trips.trip_distance_miles / usual_miles
    by_ratio = np.array(_OF_RATIO[METERED if metered else PLANNED])[np.searchsorted(_RATIOS, ratio, side="right")]
    groups = np.where(ways == ZONES_ONLY, ways, by_ratio)
    if not metered:
        groups = np.where(trips.pickup_zone == trips.dropoff_zone, np.char.add(ways, "/within a zone"), groups)
    groups = np.where(_IN_BRONX[trips.pickup_zone.astype(np.uint16)], np.char.add(ways, "/Bronx"), groups)
    return np.where(ways == ZONES_ONLY, _UNMETERED, groups) if metered else groups
