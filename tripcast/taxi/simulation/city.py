"""A city and its taxis: trips are drawn by the law, and what anybody could know of them follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tripcast.errors import InvalidRequest
from tripcast.months import Month
from tripcast.taxi.feeds import FEEDS, find_feed
from tripcast.taxi.simulation.drift import DRIFT_KINDS, Drift, read_number
from tripcast.taxi.simulation.schemas import SCHEMAS
from tripcast.taxi.simulation.town import NUMBERS, Floats, Integers, route_miles, town_of
from tripcast.taxi.simulation.week import WEEK, hour_of_week
from tripcast.taxi.trips import FARTHEST_MILES, LONGEST_MINUTES, SHORTEST_MINUTES, Trips
from tripcast.taxi.zones import AIRPORTS

# The law of a trip.

#: Manhattan's avenues run this many degrees east of north.
_AVENUES = 29.0
#: John F. Kennedy and LaGuardia, where taxis line up.
_TAXI_STANDS = (132, 138)
#: Standard deviation of the logarithm of a detour.
_DETOUR = 0.28
#: The first miles of a trip are on streets, the rest on expressways, which are this many times as fast.
_STREET_MILES = 4.0
_EXPRESSWAY = 2.6
#: Minutes to set off, and minutes in the queue at a bridge.
_START_MINUTES = 1.2
_QUEUE_MINUTES = 3.0
#: Standard deviation of the logarithm of a duration around its median: chance, which no model can foresee.
_CHANCE = 0.25
#: A destination at this many miles is the most likely; one at any other distance is less so, as a Gaussian of the
#: logarithm of the distance with this standard deviation.
_TYPICAL_MILES = 1.0
_SPREAD_OF_MILES = 0.7
#: An airport as a destination, against an average zone.
_AIRPORT_PULL = 12.0

# Dirt: shares of all rows, as in the real green months of 2021 and 2022.

#: Meters that ran for less than a minute, and those that ran on for up to a day.
_TOO_SHORT = 0.02
_LEFT_RUNNING = 0.006
#: Recorded distances of zero, the same among trips of less than a minute, and absurd ones, which reach so many miles.
_ZERO_DISTANCE = 0.022
_ZERO_DISTANCE_IF_SHORT = 0.62
_ABSURD_DISTANCE = 0.0007
_ABSURD_MILES = 250_000.0
#: Reports of a duration that the two times contradict, and records of for-hire vehicles without a pickup and without a
#: dropoff zone. These are invented.
_CONTRADICTION = 0.002
_NO_PICKUP_ZONE = 0.8
_NO_DROPOFF_ZONE = 0.15

#: Rows drawn at a time: bounds the memory.
_BATCH_ROWS = 1 << 17


class _Fleet(NamedTuple):
    """The vehicles of one feed.

    Attributes:
        key: What makes its chance its own.
        trips: Rows in a month if nothing else is asked for: enough to train on, and far fewer than are published.
        boroughs: Share of its pickups by borough.
        airports: Share of its pickups at John F. Kennedy and LaGuardia, beside those.
        hails_from: Miles up Manhattan's avenues, from Times Square, where it may be hailed.
    """

    key: int
    trips: int
    boroughs: Mapping[str, float]
    airports: float
    hails_from: float


_FLEETS = {
    "green": _Fleet(
        key=1,
        trips=60_000,
        boroughs={"Manhattan": 0.42, "Brooklyn": 0.25, "Queens": 0.19, "Bronx": 0.12, "Staten Island": 0.004,
                  "Unknown": 0.002, "Outside": 0.001, "EWR": 0.0},
        airports=0.003,
        hails_from=2.75,
    ),
    "yellow": _Fleet(
        key=2,
        trips=60_000,
        boroughs={"Manhattan": 0.90, "Brooklyn": 0.02, "Queens": 0.015, "Bronx": 0.003, "Staten Island": 0.0002,
                  "Unknown": 0.005, "Outside": 0.001, "EWR": 0.0001},
        airports=0.06,
        hails_from=-math.inf,
    ),
    "fhvhv": _Fleet(
        key=3,
        trips=200_000,
        boroughs={"Manhattan": 0.42, "Brooklyn": 0.26, "Queens": 0.17, "Bronx": 0.12, "Staten Island": 0.012,
                  "Unknown": 0.0001, "Outside": 0.0, "EWR": 0.0},
        airports=0.04,
        hails_from=-math.inf,
    ),
    "fhv": _Fleet(
        key=4,
        trips=200_000,
        boroughs={"Manhattan": 0.2, "Brooklyn": 0.27, "Queens": 0.23, "Bronx": 0.21, "Staten Island": 0.05,
                  "Unknown": 0.01, "Outside": 0.005, "EWR": 0.001},
        airports=0.03,
        hails_from=-math.inf,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class City:
    """A simulated city and its taxis.

    The same city gives the same month, whatever was asked before and on whatever machine (random streams are those of
    numpy's release). Another seed is another city.

    Attributes:
        seed: Which city: places, popularity, pace and chance all follow from it.
        trips: Rows in a month; None for as many as the feed's fleet has, see ``_FLEETS``.
        slower_streets: All traffic, strength: speed as a factor (0.75 if not given).
        closed_bridge: The busiest bridge is closed and routes lead round it, strength: how many times as long the
            queue is at every other bridge (3).
        new_zones: Zones without demand come into fashion, strength: share of pickups that begin there (0.3).
        bad_rows: Rows that no trip can be read from, strength: share of rows (0.5).
    """

    seed: int = 42
    trips: int | None = None
    slower_streets: Drift | None = None
    closed_bridge: Drift | None = None
    new_zones: Drift | None = None
    bad_rows: Drift | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InvalidRequest(f"The seed of a simulated city is {self.seed}: give 0 or more.")
        if self.trips is not None and self.trips < 1:
            raise InvalidRequest(f"A simulated month of {self.trips} trips is empty: give 1 or more.")
        for name, kind in DRIFT_KINDS.items():
            drift: Drift | None = getattr(self, name)
            if drift and not kind.least <= drift.strength <= kind.most:
                raise InvalidRequest(
                    f"The strength of {name} is {drift.strength:g}: give {kind.least:g} to {kind.most:g}."
                )

    @classmethod
    def parse(cls, text: str) -> City:
        """Read a source such as ``simulated`` or ``simulated?trips=5000&seed=7&slower_streets=2021-06:0.7``.

        Raises:
            InvalidRequest: If the text names another source, an unknown option, or a value that cannot be read.
        """
        name, _, query = text.partition("?")
        if name != "simulated":
            raise InvalidRequest(f"'{text}' is not a simulated city: write 'simulated' or 'simulated?trips=5000'.")
        known = [field.name for field in fields(cls)]
        options: dict[str, Any] = {}
        for option, value in parse_qsl(query, keep_blank_values=True):
            if option not in known:
                raise InvalidRequest(f"A simulated city has no option '{option}': it has {', '.join(known)}.")
            options[option] = (
                Drift.parse(option, value)
                if option in DRIFT_KINDS
                else read_number(int, value, f"The option {option} of a simulated city")
            )
        return cls(**options)

    def month(self, taxi: str, month: Month) -> Iterator[pa.RecordBatch]:
        """Every row of a month as the publisher would write it, in order of pickup, a batch at a time.

        Args:
            taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
            month: The month.

        Raises:
            InvalidRequest: If there is no such taxi.
        """
        fleet = _fleet(taxi)
        return (
            self._record(taxi, month, trips, self._chance(fleet, month, number, purpose=1))
            for number, trips in enumerate(self._draw(fleet, month))
        )

    def best_prediction(self, month: Month, trips: Trips) -> Floats:
        r"""The best prediction that anybody could make of these trips, knowing the law of the city.

        It is the expected duration given all that a model may look at, and given that the trip is kept. A duration
        is T = m exp(s Z), with m its median, s its spread and Z standard normal, so its moments within the kept
        minutes [a, b] are those of a truncated log-normal (Johnson, Kotz and Balakrishnan, Continuous Univariate
        Distributions 1, 1994, chapter 14):

            E[T^k; a <= T <= b] = m^k exp(k^2 s^2 / 2) (Phi(ln(b/m)/s - k s) - Phi(ln(a/m)/s - k s))

        and E[T | kept] is the first moment over the zeroth. Where the recorded distance is zero or absurd the detour
        is unknown too, and both moments are averaged over it by Gauss-Hermite quadrature.

        Args:
            month: The month whose rows these are: drifts belong to it.
            trips: n trips; their durations are not looked at.

        Returns:
            float64 (n,), minutes.
        """
        total, first, _ = self._kept_moments(month, trips)
        expected: Floats = first / total
        return expected

    def irreducible_rmse(self, taxi: str, month: Month) -> float:
        """The root mean squared error, in minutes, that the best prediction has on the kept trips of a month.

        No model can do better but by luck. It is the root of the mean conditional variance at the trips of this
        month, so it carries no sampling error of the durations themselves.

        Args:
            taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
            month: The month.

        Raises:
            InvalidRequest: If there is no such taxi.
        """
        variance, kept = 0.0, 0
        for trips in self._draw(_fleet(taxi), month):
            trips = trips[_is_kept(trips)]
            if not FEEDS[taxi].has_distance:
                trips = replace(trips, trip_distance_miles=np.full(len(trips), np.nan))
            total, first, second = self._kept_moments(month, trips)
            variance += float(np.sum(second / total - (first / total) ** 2))
            kept += len(trips)
        return math.sqrt(variance / kept)

    def _chance(self, fleet: _Fleet, month: Month, batch: int, purpose: int) -> np.random.Generator:
        """The chance of one batch for one purpose, so that no draw depends on how many others were made."""
        return np.random.default_rng([self.seed, fleet.key, month.year, month.month, batch, purpose])

    def _strength(self, drift: str, month: Month) -> float:
        """The strength of a drift in a month: what changes nothing, where there is none."""
        change: Drift | None = getattr(self, drift)
        return change.strength if change and change.holds_in(month) else DRIFT_KINDS[drift].none

    def _route_miles(self, month: Month) -> Floats:
        """Miles from zone to zone, (266, 266)."""
        return route_miles(self.seed, bool(self.closed_bridge and self.closed_bridge.holds_in(month)))

    def _draw(self, fleet: _Fleet, month: Month) -> Iterator[Trips]:
        """Draws the trips of a month, dirt included: recorded distances and durations."""
        rows_of_month = self.trips or fleet.trips
        hours = np.arange(month.start, month.end, np.timedelta64(1, "h"))
        demand = WEEK.demand[hour_of_week(hours)]
        trips_until = (
            self._chance(fleet, month, 0, purpose=2).multinomial(rows_of_month, demand / demand.sum()).cumsum()
        )
        choice = self._choice_of_zones(fleet, month)
        for number, start in enumerate(range(0, rows_of_month, _BATCH_ROWS)):
            rng = self._chance(fleet, month, number, purpose=0)
            n = min(_BATCH_ROWS, rows_of_month - start)
            second = 3600 * np.searchsorted(trips_until, np.arange(start, start + n), side="right")
            pickup = month.start + np.sort(second + rng.integers(3600, size=n)).astype("timedelta64[s]")
            if number == 0:  # a clock that is late, and one that was reset: never more than two rows
                pickup[:1] = month.start - np.timedelta64(1, "m")
                pickup[1:2] = np.datetime64("2009-01-01T00:01", "us")

            zones = np.empty(n, np.int64)
            period = WEEK.period[hour_of_week(pickup)]
            for number_of_period, cumulated in enumerate(choice):
                rows = np.flatnonzero(period == number_of_period)
                zones[rows] = np.searchsorted(cumulated, rng.random(len(rows)), side="right")
            zone, to_zone = np.divmod(zones, NUMBERS)

            # The meter shows hundredths of a mile, and the duration follows from what it shows: nothing is hidden.
            miles = self._route_miles(month)[zone, to_zone] * np.exp(_DETOUR * rng.standard_normal(n))
            miles = miles.round(2)
            minutes = self._median_minutes(month, pickup, zone, to_zone, miles)
            seconds = np.rint(60 * minutes * np.exp(_CHANCE * rng.standard_normal(n)))

            meter = rng.random(n)
            short, running = meter < _TOO_SHORT, meter > 1 - _LEFT_RUNNING
            seconds[short] = rng.integers(60, size=short.sum())
            seconds[running] = rng.integers(3601, 86_400, size=running.sum())
            odd = rng.random(n)
            miles[odd < np.where(short, _ZERO_DISTANCE_IF_SHORT, _ZERO_DISTANCE)] = 0.0
            absurd = odd > 1 - _ABSURD_DISTANCE
            miles[absurd] = rng.uniform(FARTHEST_MILES + 1, _ABSURD_MILES, size=absurd.sum()).round(2)
            yield Trips(pickup, zone.astype(np.int16), to_zone.astype(np.int16), miles, seconds / 60)

    def _choice_of_zones(self, fleet: _Fleet, month: Month) -> Floats:
        """Cumulated chances of every pair of zones, (3, 266 * 266): at most hours, to work, and home."""
        town = town_of(self.seed)
        origin, pull = np.zeros(NUMBERS), town.popularity.copy()
        uptown = town.place @ (math.sin(math.radians(_AVENUES)), math.cos(math.radians(_AVENUES)))
        served = np.where((town.borough == "Manhattan") & (uptown < fleet.hails_from), 0, town.popularity)
        for borough, share in fleet.boroughs.items():
            here = town.borough == borough
            origin[here] = share * served[here] / served[here].sum()
        origin[list(_TAXI_STANDS)] = fleet.airports / len(_TAXI_STANDS)
        pull[list(AIRPORTS)] = _AIRPORT_PULL * town.popularity[1:].mean()
        if in_fashion := self._strength("new_zones", month):
            for weight in (origin, pull):
                weight[town.new_zones] = 0
                weight[town.new_zones] = in_fashion / (1 - in_fashion) * weight.sum() / len(town.new_zones)

        # Where people want to go does not change with a bridge, only how they get there.
        far = np.log(route_miles(self.seed, bridge_closed=False) / _TYPICAL_MILES) / _SPREAD_OF_MILES
        nearness = np.exp(-(far**2) / 2)
        home = 1.5 - town.offices
        work = 0.5 + town.offices
        chances = []
        for leave, arrive in ((1, 1), (home, work), (work, home)):
            onward = nearness * pull * arrive
            onward /= onward.sum(axis=1, keepdims=True)
            pairs = ((origin * leave)[:, None] * onward).cumsum()
            chances.append(pairs / pairs[-1])
        return np.array(chances)

    def _median_minutes(
        self, month: Month, pickup: npt.NDArray[np.datetime64], zone: Integers, to_zone: Integers, miles: Floats
    ) -> Floats:
        """The median duration of trips, given all that a model may look at, if the distances are the driven ones."""
        town = town_of(self.seed)
        streets = np.minimum(miles, _STREET_MILES)
        mph = WEEK.street_mph[hour_of_week(pickup)] * self._strength("slower_streets", month)
        minutes = 60 * (streets + (miles - streets) / _EXPRESSWAY) / mph * (town.pace[zone] + town.pace[to_zone]) / 2
        queue = _QUEUE_MINUTES * self._strength("closed_bridge", month)
        median: Floats = _START_MINUTES + minutes + queue * (town.land[zone] != town.land[to_zone])
        return median

    def _kept_moments(self, month: Month, trips: Trips) -> Floats:
        """Moments 0, 1 and 2 of the durations within the kept minutes, (3, n)."""
        zone, to_zone = trips.pickup_zone.astype(np.int64), trips.dropoff_zone.astype(np.int64)
        miles = trips.trip_distance_miles
        told = (miles > 0) & (miles <= FARTHEST_MILES)
        moments = np.empty((3, len(trips)))

        def median(rows: npt.NDArray[np.bool_], miles: Floats) -> Floats:
            return self._median_minutes(month, trips.pickup_datetime[rows], zone[rows], to_zone[rows], miles)

        moments[:, told] = _truncated_moments(median(told, miles[told]))
        moments[:, ~told] = 0
        route = self._route_miles(month)[zone[~told], to_zone[~told]]
        nodes, weights = np.polynomial.hermite_e.hermegauss(21)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            moments[:, ~told] += weight * _truncated_moments(median(~told, route * np.exp(_DETOUR * node)))
        return moments

    def _record(self, taxi: str, month: Month, trips: Trips, rng: np.random.Generator) -> pa.RecordBatch:
        """Writes trips down as the publisher does."""
        assert trips.duration_minutes is not None
        n, feed = len(trips), FEEDS[taxi]
        miles, minutes = trips.trip_distance_miles.copy(), trips.duration_minutes.copy()

        # Bad rows come in three kinds: the meter never ran, the distance is negative, the place is missing. Where a
        # feed has no distances, and often no places, there is the first kind alone.
        bad = np.where(rng.random(n) < self._strength("bad_rows", month), rng.integers(1, 4, size=n), 0)
        if not feed.has_distance:
            bad = np.minimum(bad, 1)
        minutes[bad == 1] = 0
        miles[bad == 2] = -1 - miles[bad == 2]

        trips = replace(trips, trip_distance_miles=miles, duration_minutes=minutes)
        duration = np.rint(60 * minutes).astype(np.int64)
        reported = duration
        if "reported_seconds" in feed.columns:
            wrong = rng.random(n)
            reported = np.where(wrong < _CONTRADICTION / 2, -duration - 60, duration)
            reported = np.where(wrong > 1 - _CONTRADICTION / 2, 2 * duration + 60, reported)
        no_pickup_zone, no_dropoff_zone = np.zeros(n, np.bool_), bad == 3
        if feed.zones_missing:
            no_pickup_zone, no_dropoff_zone = rng.random(n) < _NO_PICKUP_ZONE, rng.random(n) < _NO_DROPOFF_ZONE
        read = {
            "pickup_datetime": (trips.pickup_datetime, None),
            "dropoff_datetime": (trips.pickup_datetime + duration.astype("timedelta64[s]"), None),
            "pickup_zone": (trips.pickup_zone.astype(np.int64), no_pickup_zone),
            "dropoff_zone": (trips.dropoff_zone.astype(np.int64), no_dropoff_zone),
            "trip_distance_miles": (miles, None),
            "reported_seconds": (reported, None),
        }
        columns = {published: read[name] for name, published in feed.columns.items()}
        return pa.RecordBatch.from_arrays(
            [
                _arrow(*columns[field.name], field.type) if field.name in columns else pa.nulls(n, field.type)
                for field in SCHEMAS[taxi]
            ],
            schema=SCHEMAS[taxi],
        )


def _truncated_moments(median: Floats) -> Floats:
    """Moments 0, 1 and 2 of log-normal durations within the kept minutes, (3, n); see ``City.best_prediction``."""
    from scipy.special import ndtr  # 0.3 s, which whoever only draws trips would wait for

    low, high = (np.log(bound / median) / _CHANCE for bound in (SHORTEST_MINUTES, LONGEST_MINUTES))
    return np.array(
        [
            median**k * math.exp((k * _CHANCE) ** 2 / 2) * (ndtr(high - k * _CHANCE) - ndtr(low - k * _CHANCE))
            for k in range(3)
        ]
    )


def _arrow(values: npt.NDArray[Any], empty: npt.NDArray[np.bool_] | None, kind: pa.DataType) -> pa.Array:
    """A column from its numbers, and where it is empty. `pyarrow.array` would import pandas."""
    if kind == pa.float64():
        values = values.astype(np.float64, copy=False)
    bits = None if empty is None else pa.py_buffer(np.packbits(~empty, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(values)])


def _is_kept(trips: Trips) -> npt.NDArray[np.bool_]:
    assert trips.duration_minutes is not None
    return (trips.duration_minutes >= SHORTEST_MINUTES) & (trips.duration_minutes <= LONGEST_MINUTES)


def _fleet(taxi: str) -> _Fleet:
    return _FLEETS[find_feed(taxi).name]
