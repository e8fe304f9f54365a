"""A simulated city: taxi trips whose law is known, in the publisher's own schema. Columns that nobody reads are empty.

Real months say how well a model does; they never say how well it could do. This city does. Every trip is drawn from
written-down rules (places, streets, rivers, traffic by the hour, chance), so the best prediction that anybody could
make, and its error, follow from a formula. It also changes on command, month by month, so that a system that claims to
notice can be put to the test.

The law of a trip:

* Its hour follows the week's demand; its zones follow their popularity and how near they are to each other.
* Its distance is the route's, by streets and bridges, times a log-normal detour.
* Its duration is a median, given by distance, zones and hour, times log-normal chance.
* Some records are then spoiled, as in the real months: distances of zero or of thousands of miles, meters that ran for
  seconds or all day, pickups dated years away, fields left empty.

The zones' numbers, names, boroughs and places are the real ones, and so are the bridges. How popular a zone is, and how
fast its streets are, is drawn by the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tripcast.errors import InvalidRequest
from tripcast.months import Month
from tripcast.taxi.feeds import FEEDS, find_feed
from tripcast.taxi.trips import FARTHEST_MILES, LONGEST_MINUTES, SHORTEST_MINUTES, Trips
from tripcast.taxi.zones import AIRPORTS, LAST_ZONE, PLACES, ZONES

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_N = TypeVar("_N", int, float)


def _schema(columns: str) -> pa.Schema:
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in map(str.split, columns.split(","))])


#: The columns of a published month, by feed: names, order and types of the publisher's parquet files of 2021. Those of
#: for-hire vehicles are as others describe them: no file of theirs was at hand.
SCHEMAS: Mapping[str, pa.Schema] = {
    "green": _schema(
        "VendorID int64, lpep_pickup_datetime timestamp[us], lpep_dropoff_datetime timestamp[us], "
        "store_and_fwd_flag string, RatecodeID double, PULocationID int64, DOLocationID int64, "
        "passenger_count double, trip_distance double, fare_amount double, extra double, mta_tax double, "
        "tip_amount double, tolls_amount double, ehail_fee null, improvement_surcharge double, total_amount double, "
        "payment_type double, trip_type double, congestion_surcharge double"
    ),
    "yellow": _schema(
        "VendorID int64, tpep_pickup_datetime timestamp[us], tpep_dropoff_datetime timestamp[us], "
        "passenger_count double, trip_distance double, RatecodeID double, store_and_fwd_flag string, "
        "PULocationID int64, DOLocationID int64, payment_type int64, fare_amount double, extra double, "
        "mta_tax double, tip_amount double, tolls_amount double, improvement_surcharge double, total_amount double, "
        "congestion_surcharge double, airport_fee double"
    ),
    "fhvhv": _schema(
        "hvfhs_license_num string, dispatching_base_num string, originating_base_num string, "
        "request_datetime timestamp[us], on_scene_datetime timestamp[us], pickup_datetime timestamp[us], "
        "dropoff_datetime timestamp[us], PULocationID int64, DOLocationID int64, trip_miles double, trip_time int64, "
        "base_passenger_fare double, tolls double, bcf double, sales_tax double, congestion_surcharge double, "
        "airport_fee double, tips double, driver_pay double, shared_request_flag string, shared_match_flag string, "
        "access_a_ride_flag string, wav_request_flag string, wav_match_flag string"
    ),
    "fhv": _schema(
        "dispatching_base_num string, pickup_datetime timestamp[us], dropOff_datetime timestamp[us], "
        "PUlocationID double, DOlocationID double, SR_Flag int32, Affiliated_base_number string"
    ),
}

# --- The map. Miles east and north of Times Square. -----------------------------------------------------------------


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
#: John F. Kennedy and LaGuardia, where taxis line up.
_TAXI_STANDS = (132, 138)

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
#: Manhattan's avenues run this many degrees east of north.
_AVENUES = 29.0
#: Miles of any trip, even within one zone: from the door to the streets that lead there.
_DOORSTEP_MILES = 0.55
#: Standard deviation of the logarithm of a detour.
_DETOUR = 0.28

# --- Traffic ----------------------------------------------------------------------------------------------------------

#: Miles an hour on ordinary streets by hour of the day, on weekdays and at weekends; the shape is the real one.
_STREET_MPH = (
    (14.5, 14.5, 14.7, 15.5, 17.5, 18.5, 15.9, 12.4, 11.2, 11.3, 11.2, 11.0,
     10.9, 10.4, 9.7, 9.7, 9.5, 9.9, 10.7, 11.8, 12.8, 13.4, 13.9, 14.4),
    (13.8, 13.8, 13.9, 14.5, 16.0, 17.0, 16.5, 15.5, 14.5, 13.8, 12.8, 12.2,
     11.8, 11.5, 11.3, 11.3, 11.3, 11.4, 11.7, 12.3, 12.8, 13.2, 13.3, 13.5),
)  # fmt: skip
#: Speed by weekday, Monday first, as a factor.
_DAY_SPEED = (1.02, 1.0, 0.99, 0.97, 0.96, 1.0, 1.05)
#: The first miles of a trip are on streets, the rest on expressways, which are this many times as fast.
_STREET_MILES = 4.0
_EXPRESSWAY = 2.6
#: Pace (minutes a mile, relative) of a far zone, how much more it is in the middle of Manhattan, and the miles over
#: which that fades; then the standard deviation of the logarithm of what is particular to a zone.
_FAR_PACE = 0.75
_CENTRE_PACE = 0.55
_CENTRE_MILES = 6.0
_ZONE_PACE = 0.15
#: Minutes to set off, and minutes in the queue at a bridge.
_START_MINUTES = 1.2
_QUEUE_MINUTES = 3.0
#: Standard deviation of the logarithm of a duration around its median: chance, which no model can foresee.
_CHANCE = 0.25

# --- Demand -----------------------------------------------------------------------------------------------------------

#: Trips by weekday, Monday first, and by hour on weekdays and at weekends; relative.
_DAY_DEMAND = (12.5, 15.5, 17.0, 16.8, 16.3, 12.2, 9.7)
_HOUR_DEMAND = (
    (0.9, 0.5, 0.3, 0.3, 0.5, 0.9, 2.2, 4.8, 6.3, 6.6, 6.6, 6.5,
     6.5, 6.7, 7.0, 7.1, 7.2, 7.0, 6.4, 5.2, 3.6, 2.6, 2.1, 1.5),
    (2.4, 1.9, 1.4, 1.1, 0.7, 0.6, 1.1, 2.2, 3.8, 5.2, 6.0, 6.4,
     6.6, 6.6, 6.6, 6.6, 6.6, 6.5, 6.3, 5.6, 4.5, 3.8, 3.4, 2.9),
)  # fmt: skip
#: Weekday hours in which people go to work and come home.
_MORNING = range(6, 10)
_EVENING = range(16, 20)
#: Standard deviation of the logarithm of a zone's popularity within its borough.
_POPULARITY = 1.2
#: A destination at this many miles is the most likely; one at any other distance is less so, as a Gaussian of the
#: logarithm of the distance with this standard deviation.
_TYPICAL_MILES = 1.0
_SPREAD_OF_MILES = 0.7
#: An airport as a destination, against an average zone.
_AIRPORT_PULL = 12.0
#: Zones that nobody asks for until `new_zones`, their popularity until then, and their pace: they are building sites.
_NEW_ZONES = 12
_NEW_ZONE_POPULARITY = 1e-3
_NEW_ZONE_PACE = 1.5


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

# --- Dirt: shares of all rows, as in the real green months of 2021 and 2022 ------------------------------------------

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
#: Arrays indexed by zone number have an unused place 0.
_NUMBERS = LAST_ZONE + 1


@dataclass(frozen=True)
class Drift:
    """A change of the city: in which months, and how strong.

    Attributes:
        first: The first month of it.
        last: The last month of it; None if it stays.
        strength: How strong; what the number means is written at the fields of ``City``.
    """

    first: Month
    last: Month | None
    strength: float

    @classmethod
    def parse(cls, name: str, text: str) -> Drift:
        """Read ``2021-06`` (from then on) or ``2021-06..2021-08`` (in these months), with or without ``:0.7``.

        Args:
            name: Which drift of a city it is; it has a strength of its own if none is given.
            text: When, and how strong.

        Raises:
            InvalidRequest: If a month or the strength cannot be read, or the months run backwards.
        """
        months, colon, strength = text.partition(":")
        first, dots, last = months.partition("..")
        drift = cls(
            Month.parse(first),
            Month.parse(last) if dots else None,
            _number(float, strength, f"The strength of {name}") if colon else _DRIFT_KINDS[name].default,
        )
        if drift.last and drift.last < drift.first:
            raise InvalidRequest(f"The months '{months}' of {name} run backwards: write {last}..{first}.")
        return drift

    def holds_in(self, month: Month) -> bool:
        """Whether the city is changed in this month."""
        return self.first <= month and (self.last is None or month <= self.last)


class _DriftKind(NamedTuple):
    """What strength a drift has if none is given, the one that changes nothing, and the range allowed."""

    default: float
    none: float
    least: float
    most: float


_DRIFT_KINDS = {
    "slower_streets": _DriftKind(default=0.75, none=1.0, least=0.1, most=2.0),
    "closed_bridge": _DriftKind(default=3.0, none=1.0, least=1.0, most=20.0),
    "new_zones": _DriftKind(default=0.3, none=0.0, least=0.0, most=0.9),
    "bad_rows": _DriftKind(default=0.5, none=0.0, least=0.0, most=1.0),
}


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
        for name, kind in _DRIFT_KINDS.items():
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
                if option in _DRIFT_KINDS
                else _number(int, value, f"The option {option} of a simulated city")
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
        return change.strength if change and change.holds_in(month) else _DRIFT_KINDS[drift].none

    def _route_miles(self, month: Month) -> Floats:
        """Miles from zone to zone, (266, 266)."""
        return _route_miles(self.seed, bool(self.closed_bridge and self.closed_bridge.holds_in(month)))

    def _draw(self, fleet: _Fleet, month: Month) -> Iterator[Trips]:
        """Draws the trips of a month, dirt included: recorded distances and durations."""
        rows_of_month = self.trips or fleet.trips
        hours = np.arange(month.start, month.end, np.timedelta64(1, "h"))
        demand = _WEEK.demand[_hour_of_week(hours)]
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
            period = _WEEK.period[_hour_of_week(pickup)]
            for number_of_period, cumulated in enumerate(choice):
                rows = np.flatnonzero(period == number_of_period)
                zones[rows] = np.searchsorted(cumulated, rng.random(len(rows)), side="right")
            zone, to_zone = np.divmod(zones, _NUMBERS)

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
        town = _town(self.seed)
        origin, pull = np.zeros(_NUMBERS), town.popularity.copy()
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
        far = np.log(_route_miles(self.seed, bridge_closed=False) / _TYPICAL_MILES) / _SPREAD_OF_MILES
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
        town = _town(self.seed)
        streets = np.minimum(miles, _STREET_MILES)
        mph = _WEEK.street_mph[_hour_of_week(pickup)] * self._strength("slower_streets", month)
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


class _Week(NamedTuple):
    """Tables by hour of the week, (168,), Monday's first hour first.

    Attributes:
        street_mph: Speed on ordinary streets.
        demand: Trips, relative.
        period: 0 at most hours, 1 when people go to work, 2 when they come home.
    """

    street_mph: Floats
    demand: Floats
    period: Integers


def _week() -> _Week:
    hour = np.tile(np.arange(24), 7)
    weekend = np.repeat(np.arange(7) >= 5, 24).astype(np.int64)
    evening, morning = np.isin(hour, _EVENING) & (weekend == 0), np.isin(hour, _MORNING) & (weekend == 0)
    return _Week(
        street_mph=np.array(_STREET_MPH)[weekend, hour] * np.repeat(_DAY_SPEED, 24),
        demand=np.array(_HOUR_DEMAND)[weekend, hour] * np.repeat(_DAY_DEMAND, 24),
        period=np.select([morning, evening], [1, 2], 0),
    )


_WEEK = _week()


class _Town(NamedTuple):
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
def _town(seed: int) -> _Town:
    """Draws the zones of a city."""
    rng = np.random.default_rng(seed)
    borough = np.array(["", *(zone.borough for zone in ZONES)])
    land = np.array(["Manhattan", *(_LANDS[zone.borough] for zone in ZONES)])
    place = np.zeros((_NUMBERS, 2))
    for number, where in ({**PLACES, **_ELSEWHERE}).items():
        place[number] = where

    candidates = np.flatnonzero(np.isin(borough, ["Brooklyn", "Queens"]))
    new_zones = rng.choice(np.setdiff1d(candidates, list(AIRPORTS)), _NEW_ZONES, replace=False)
    pace = _FAR_PACE + _CENTRE_PACE * np.exp(-np.hypot(*place.T) / _CENTRE_MILES)
    pace *= np.exp(_ZONE_PACE * rng.standard_normal(_NUMBERS))
    pace[new_zones] = _NEW_ZONE_PACE
    popularity = np.exp(_POPULARITY * rng.standard_normal(_NUMBERS))
    popularity[new_zones] = _NEW_ZONE_POPULARITY
    popularity[0] = 0
    return _Town(borough, land, place, pace, popularity, rng.random(_NUMBERS), new_zones)


@lru_cache(maxsize=16)
def _route_miles(seed: int, bridge_closed: bool) -> Floats:
    """Miles from zone to zone by streets and bridges, (266, 266)."""
    town = _town(seed)
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


def _hour_of_week(moment: npt.NDArray[np.datetime64]) -> Integers:
    """Hours since the last Monday began, 0 to 167. 1970 began on a Thursday."""
    return (moment.astype("datetime64[h]").astype(np.int64) + 3 * 24) % 168


def _fleet(taxi: str) -> _Fleet:
    return _FLEETS[find_feed(taxi).name]


def _number(kind: type[_N], text: str, what: str) -> _N:
    try:
        return kind(text)
    except ValueError:
        raise InvalidRequest(f"{what} is '{text}': give a {'whole ' if kind is int else ''}number.") from None
