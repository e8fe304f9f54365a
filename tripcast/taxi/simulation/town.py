"""The map of the simulated city: its zones, what the seed makes of each, and the ways between them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tripcast.taxi.zones import AIRPORTS, LAST_ZONE, PLACES, ZONES

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Arrays indexed by zone number have an unused place 0.
NUMBERS = LAST_ZONE + 1


class _Bridge(NamedTuple):
    """A crossing between two lands, and where it touches each: miles east and north."""

    lands: tuple[str, str]
    ends: tuple[tuple[float, float], tuple[float, float]]


#: The land of each borough: no river divides it.
_LANDS = {
    "Manhattan": "Manhattan",
    "Bronx": "mainland",
    "Queens": "Long Island",
    "Brooklyn": "Long Island",
    "Staten Island": "Staten Island",
    "EWR": "New Jersey",
    "Unknown": "Manhattan",
    "Outside": "mainland",
}
#: Where the two zones lie that are not places: in the middle of the taxis' trips, and in the suburbs.
_ELSEWHERE = {264: (2.0, 4.0), 265: (9.0, 15.0)}

_BRIDGES = {
    "Brooklyn Bridge": _Bridge(("Manhattan", "Long Island"), ((-1.0, -3.3), (-0.2, -4.2))),
    "Williamsburg Bridge": _Bridge(("Manhattan", "Long Island"), ((-0.1, -2.9), (1.3, -3.4))),
    "Queensboro Bridge": _Bridge(("Manhattan", "Long Island"), ((1.1, 0.1), (2.3, -0.6))),
    "Triborough Bridge": _Bridge(("Manhattan", "Long Island"), ((2.8, 2.9), (3.3, 0.9))),
    "Triborough Bridge, Bronx": _Bridge(("mainland", "Long Island"), ((3.3, 3.1), (3.3, 0.9))),
    "Third Avenue Bridge": _Bridge(("Manhattan", "mainland"), ((2.6, 3.2), (2.9, 3.4))),
    "Washington Bridge": _Bridge(("Manhattan", "mainland"), ((2.7, 6.1), (3.2, 5.8))),
    "Broadway Bridge": _Bridge(("Manhattan", "mainland"), ((3.8, 7.7), (3.9, 7.9))),
    "Whitestone Bridge": _Bridge(("mainland", "Long Island"), ((7.7, 4.0), (8.4, 2.0))),
    "Verrazzano Bridge": _Bridge(("Long Island", "Staten Island"), ((-2.4, -10.0), (-3.9, -10.9))),
    "Goethals Bridge": _Bridge(("Staten Island", "New Jersey"), ((-10.4, -9.0), (-11.7, -8.3))),
    "Lincoln Tunnel": _Bridge(("Manhattan", "New Jersey"), ((-0.6, -0.2), (-2.0, 0.5))),
}
#: The bridge that `closed_bridge` closes: in the city of the default seed, no other carries as many trips.
_BUSIEST_BRIDGE = "Broadway Bridge"

#: Street miles per mile as the crow flies: the mean over all directions on a rectangular grid.
_CIRCUITY = 4 / math.pi
#: Miles of any trip, even within one zone: from the door to the streets that lead there.
_DOORSTEP_MILES = 0.55
#: Pace (minutes a mile, relative) of a far zone, how much more it is in the middle of Manhattan, and the miles over
#: which that fades; then the standard deviation of the logarithm of what is particular to a zone.
_FAR_PACE = 0.75
_CENTRE_PACE = 0.55
_CENTRE_MILES = 6.0
_ZONE_PACE = 0.15
#: Standard deviation of the logarithm of a zone's popularity within its borough.
_POPULARITY = 1.2
#: Zones that nobody asks for until `new_zones`, their popularity until then, and their pace: they are building sites.
_NEW_ZONES = 12
_NEW_ZONE_POPULARITY = 1e-3
_NEW_ZONE_PACE = 1.5


class Town(NamedTuple):
    """What the seed says of each zone, (266,) by zone number unless said otherwise.

    Attributes:
        borough: Its borough.
        land: Its land, which no river divides.
        place: Miles east and north, (266, 2).
        pace: Minutes a mile, relative.
        popularity: How often a trip begins or ends there, relative.
        offices: 0 where people live to 1 where they work.
        new_zones: The zones without demand until `new_zones`, (12,).
    """

    borough: npt.NDArray[np.str_]
    land: npt.NDArray[np.str_]
    place: Floats
    pace: Floats
    popularity: Floats
    offices: Floats
    new_zones: Integers


@lru_cache(maxsize=8)
def town_of(seed: int) -> Town:
    """Draws the zones of a city."""
    rng = np.random.default_rng(seed)
    borough = np.array(["", *(zone.borough for zone in ZONES)])
    land = np.array(["Manhattan", *(_LANDS[zone.borough] for zone in ZONES)])
    place = np.zeros((NUMBERS, 2))
    for number, where in ({**PLACES, **_ELSEWHERE}).items():
        place[number] = where

    candidates = np.flatnonzero(np.isin(borough, ["Brooklyn", "Queens"]))
    new_zones = rng.choice(np.setdiff1d(candidates, list(AIRPORTS)), _NEW_ZONES, replace=False)
    pace = _FAR_PACE + _CENTRE_PACE * np.exp(-np.hypot(*place.T) / _CENTRE_MILES)
    pace *= np.exp(_ZONE_PACE * rng.standard_normal(NUMBERS))
    pace[new_zones] = _NEW_ZONE_PACE
    popularity = np.exp(_POPULARITY * rng.standard_normal(NUMBERS))
    popularity[new_zones] = _NEW_ZONE_POPULARITY
    popularity[0] = 0
    return Town(borough, land, place, pace, popularity, rng.random(NUMBERS), new_zones)


@lru_cache(maxsize=16)
def route_miles(seed: int, bridge_closed: bool) -> Floats:
    """Miles from zone to zone by streets and bridges, (266, 266)."""
    town = town_of(seed)
    bridges = [bridge for name, bridge in _BRIDGES.items() if not (bridge_closed and name == _BUSIEST_BRIDGE)]
    end = np.array([end for bridge in bridges for end in bridge.ends])
    shore = np.array([land for bridge in bridges for land in bridge.lands])

    def streets(a: Floats, b: Floats) -> Floats:
        east, north = np.moveaxis(a[:, None] - b, -1, 0)
        miles: Floats = _CIRCUITY * np.hypot(east, north)
        return miles

    def by_land(a: Floats, b: Floats, land_a: npt.NDArray[np.str_], land_b: npt.NDArray[np.str_]) -> Floats:
        return np.where(land_a[:, None] == land_b, streets(a, b), np.inf)

    # From bridge end to bridge end over any number of bridges (Floyd and Warshall), then from zone to zone.
    between = by_land(end, end, shore, shore)
    for first in range(0, len(end), 2):
        pair = slice(first, first + 2)
        between[pair, pair] = streets(end[pair], end[pair])
    for via in range(len(end)):
        between = np.minimum(between, between[:, via, None] + between[via])
    to_end = by_land(town.place, end, town.land, shore)
    onward = (to_end[:, :, None] + between).min(axis=1)
    over_bridges = (onward[:, :, None] + to_end.T).min(axis=1)
    miles: Floats = _DOORSTEP_MILES + np.minimum(by_land(town.place, town.place, town.land, town.land), over_bridges)
    return miles
