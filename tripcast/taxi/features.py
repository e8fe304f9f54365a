"""Features of a trip: what a model sees, computed by one function for training, batch scoring and the service.

Where zones lie is known. Two things are learned from past trips. The *geography* rests on distances alone: how far
apart zones usually are. The *pace* rests on durations as well: how much longer than usual trips of that length take
from a zone, to a zone, between a pair of zones, and at an hour. Whoever trains on the pace of a trip that helped to
measure it learns the answer, so training rows get theirs from trips of other days (``OutOfFold``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from io import BytesIO
from math import exp, log, nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tripcast.models.interpolation import interpolator
from tripcast.taxi.trips import Trip, TripBatches, Trips, sample
from tripcast.taxi.zones import LAST_ZONE, PLACES

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.intp]

#: Trips last an hour at most, and hardly a taxi does a mile a minute for an hour: a longer distance is an error.
PLAUSIBLE_MILES = 60.0

#: Meters count hundredths of a mile: no way is shorter, whatever a record says.
_METER_STEP = 0.01

#: Manhattan's avenues run 29 degrees east of north, and most streets of a trip along or across them.
_AVENUES = np.deg2rad(29)

#: Two places in one zone, or in zones beside each other, are about this far apart at least, in miles.
_NEAREST = 0.3

#: The columns that depend on the two zones alone. Places are miles across and along the avenues; ``crow_flight`` is the
#: straight line between them, ``taxicab`` the way along and across the avenues.
PAIR_FEATURES = (
    "pickup_pace",
    "dropoff_pace",
    "pair_pace",
    "usual_miles",
    "pickup_x",
    "pickup_y",
    "dropoff_x",
    "dropoff_y",
    "east",
    "north",
    "crow_flight",
    "taxicab",
)
#: The columns that depend on what is said of the distance.
MILES_FEATURES = ("miles", "miles_to_usual", "minutes_for_miles", "estimate", "miles_to_crow_flight")
#: All columns. Those that do not depend on what is said of the distance come first.
FEATURES = (
    *PAIR_FEATURES,
    "hour_of_day",
    "weekday",
    "hour_pace",
    "recent",
    "usual_minutes",
    "usual_estimate",
    *MILES_FEATURES,
)
#: Where the pair's usual miles are.
USUAL_MILES = FEATURES.index("usual_miles")
_CROW_FLIGHT = FEATURES.index("crow_flight")
_RECENT = FEATURES.index("recent")

#: Trips of this many days before the last one are recent. Older ones show where and when streets are slow, and these
#: how slow they are now.
RECENT_DAYS = 100

#: Training rows take their pace from the days of the other folds.
FOLDS = 5

#: The tables are learned from at most this many trips: more of them would hardly change an average, and take memory.
_TABLE_TRIPS = 1 << 22

#: Zones are indices 0 to 265; 0 stands for any number that is not a zone.
_ZONES = LAST_ZONE + 1
_PAIRS = _ZONES**2
#: Half hours and hours of a working day, then those of a free one.
_HALF_HOURS = 2 * 48
_HOURS = 2 * 24

#: Distances in miles between which the usual duration is interpolated: denser where trips are many.
_KNOTS = np.geomspace(0.1, PLAUSIBLE_MILES, 40)

#: An average over n trips counts n times, its prior this many times.
_PRIOR_HALF_HOUR = 20.0
_PRIOR_ZONE = 10.0
_PRIOR_PAIR = 8.0
_PRIOR_ZONE_HOUR = 10.0

#: Rounds of taking turns between half hours, pickup zones and dropoff zones; the effects settle in three.
_BACKFITTING_ROUNDS = 3

#: How far, in log minutes, one trip may pull an average: a meter left running says nothing about the streets.
_CLIP_LOG_MINUTES = 1.2


def has_plausible_distance(trips: Trips) -> npt.NDArray[np.bool_]:
    """Which trips have a distance that a taxi can have driven, (n,)."""
    return (trips.trip_distance_miles > 0) & (trips.trip_distance_miles <= PLAUSIBLE_MILES)


def have_distances(trips: Trips) -> bool:
    """Whether recorded trips are of a feed that says how far they were: then each has a distance, plausible or not."""
    return not np.isnan(trips.trip_distance_miles).all() or not len(trips)


#: The index of each 16-bit number, negative ones at its end: one look-up instead of comparisons.
_INDEX = np.where(np.arange(1 << 16) <= LAST_ZONE, np.arange(1 << 16), 0)


def _zone(numbers: npt.NDArray[np.int16]) -> Integers:
    return _INDEX[numbers.astype(np.uint16)]


def _pair(trips: Trips) -> Integers:
    return _zone(trips.pickup_zone) * _ZONES + _zone(trips.dropoff_zone)


#: The calendar repeats after 400 years.
_CALENDAR_DAYS = 146_097


def _non_working_days() -> npt.NDArray[np.bool_]:
    """Which days people do not work on: weekends, and the federal holidays that empty offices.

    Source: 5 U.S.C. 6103. Left out are Columbus and Veterans Day, when most of New York works.

    Returns:
        (146097,), by the day's number since 1970-01-01 modulo the length of the calendar.
    """
    date = np.datetime64("1970-01-01") + np.arange(_CALENDAR_DAYS)
    month = date.astype("datetime64[M]")
    number, day = month.astype(np.int64) % 12 + 1, (date - month).astype(np.int64) + 1
    weekday = _weekday(date.astype(np.int64))
    monday, thursday, nth = weekday == 0, weekday == 3, (day + 6) // 7
    free: npt.NDArray[np.bool_] = (
        (weekday >= 5)
        | ((number == 1) & (day == 1))  # New Year's Day
        | ((number == 1) & monday & (nth == 3))  # Martin Luther King Jr.
        | ((number == 2) & monday & (nth == 3))  # Washington's birthday
        | ((number == 5) & monday & (day > 24))  # Memorial Day
        | ((number == 6) & (day == 19))  # Juneteenth
        | ((number == 7) & (day == 4))  # Independence Day
        | ((number == 9) & monday & (nth == 1))  # Labor Day
        | ((number == 11) & thursday & (nth == 4))  # Thanksgiving
        | ((number == 12) & (day == 25))  # Christmas Day
    )
    return free


def _weekday(day: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Monday is 0; days count from 1970-01-01, a Thursday."""
    return (day + 3) % 7


_FREE_DAYS = _non_working_days()
_FREE_DAY_ITEMS = _FREE_DAYS.data


@dataclass(frozen=True)
class _Clock:
    """Pickup times taken apart: second of the day, weekday (Monday is 0), half hour and hour of the kind of day.

    Days are of two kinds: those that people work on, and free ones.
    """

    second: npt.NDArray[np.int64]
    weekday: npt.NDArray[np.int64]
    half_hour: Integers
    hour: Integers

    @classmethod
    def of(cls, trips: Trips) -> _Clock:
        day, second = np.divmod(trips.pickup_datetime.astype("datetime64[s]").astype(np.int64), 86_400)
        free = _FREE_DAYS[day % _CALENDAR_DAYS]
        return cls(second, _weekday(day), second // 1800 + 48 * free, second // 3600 + 24 * free)


@dataclass(frozen=True)
class Geography:
    """Where zones lie and how far apart, the latter learned from the distances of trips; no duration enters.

    Attributes:
        usual_miles: float16 (266, 266), from pickup to dropoff zone: the median of the pair's trips, drawn towards the
            shortest way over other pairs, which stands in where a pair has no trips. Where no trip says how far it
            was, the way along and across the avenues.
        places: float32 (266, 2), miles across and along the avenues. NaN for what is not a place, and then the usual
            miles stand in for those between places.
    """

    usual_miles: Halves
    places: Matrix

    @classmethod
    def fit(cls, trips: Trips) -> Geography:
        """Learn from trips; those without a plausible distance are left out."""
        if not have_distances(trips):
            return cls(_by_avenues().astype(np.float16), _PLACES)
        trips = trips[has_plausible_distance(trips)]
        count, median = _medians(_pair(trips), trips.trip_distance_miles)
        count, median = count.reshape(_ZONES, _ZONES), median.reshape(_ZONES, _ZONES)
        ways = _shortest_ways(count, median)
        with np.errstate(invalid="ignore"):  # infinitely far times no trips
            usual = np.where(np.isfinite(ways) & (ways > 0), (count * median + ways) / (count + 1), median)
        anywhere = np.median(trips.trip_distance_miles) if len(trips) else 1.0
        usual = np.where((count > 0) | (np.isfinite(usual) & (usual > 0)), usual, anywhere)
        usual = np.maximum(usual, _METER_STEP)
        return cls(usual.astype(np.float16), _PLACES)

    @cached_property
    def pair_features(self) -> Matrix:
        """Those of ``PAIR_FEATURES`` that no duration enters, by pair, float32 (266 * 266, 9)."""
        pickup, dropoff = np.divmod(np.arange(_PAIRS), _ZONES)
        start, end = self.places[pickup], self.places[dropoff]
        usual = self.usual_miles.ravel().astype(np.float32)
        way = end - start
        crow_flight, taxicab = np.hypot(*way.T), np.abs(way).sum(axis=1)
        return np.column_stack(
            [
                usual,
                start,
                end,
                way,
                np.where(np.isnan(crow_flight), usual, np.maximum(crow_flight, _NEAREST)),
                np.where(np.isnan(taxicab), usual, taxicab),
            ]
        )


def _medians(group: Integers, values: Floats) -> tuple[Floats, Floats]:
    """For each pair its number of values and their (lower) median, both (pairs,); 0 for a pair without values."""
    # Positive floats sort like their bits, so one sort of one integer array orders by group and value: half the
    # memory and a fraction of the time of a sort by two keys.
    keys = (group << 32) | values.astype(np.float32).view(np.uint32)
    keys.sort()
    count = np.bincount(group, minlength=_PAIRS)
    seen = np.flatnonzero(count)
    middle = (np.cumsum(count) - count + (count - 1) // 2)[seen]
    median = np.zeros(_PAIRS)
    median[seen] = (keys[middle] & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
    return count.astype(np.float64), median


def _shortest_ways(count: Floats, median: Floats) -> Floats:
    """Miles between zones over any other zones, either direction, (zones, zones); infinite where there is no way."""
    both = count + count.T
    miles = np.full_like(median, np.inf)
    np.divide(count * median + (count * median).T, both, out=miles, where=both > 0)
    np.fill_diagonal(miles, 0)
    for via in range(_ZONES):  # Floyd-Warshall
        np.minimum(miles, miles[:, via, None] + miles[None, via, :], out=miles)
    return miles


def _places() -> Matrix:
    """The zones' centroids on axes across and along the avenues, (266, 2)."""
    places = np.full((_ZONES, 2), np.nan)
    turn = np.array([[np.cos(_AVENUES), np.sin(_AVENUES)], [-np.sin(_AVENUES), np.cos(_AVENUES)]])
    for zone, place in PLACES.items():
        places[zone] = np.round(place @ turn, 2)
    return places.astype(np.float32)


_PLACES = _places()


def _by_avenues() -> Floats:
    """Miles along and across the avenues from zone to zone, (266, 266); the median of all where one is not a place."""
    miles = np.abs(_PLACES[:, None] - _PLACES).sum(axis=2).astype(np.float64)
    usual: Floats = np.where(np.isnan(miles), np.nanmedian(miles), np.maximum(miles, _NEAREST))
    return usual


@dataclass(frozen=True)
class Pace:
    """How long trips take, as a sum in log minutes: for their miles, at that half hour, from there, to there, ...

    Every effect is an average of what the effects before it leave unexplained, drawn towards zero where trips are few.

    Attributes:
        for_miles: float32 (40,), log minutes at the knots of distance.
        half_hour: float32 (96,), of a working day, then of a free one.
        pickup: float32 (266,), by pickup zone.
        dropoff: float32 (266,), by dropoff zone.
        pair: float16 (266 * 266,), by pickup zone times 266 plus dropoff zone.
        pickup_hour: float32 (266 * 48,), by pickup zone times 48 plus hour of the kind of day.
        dropoff_hour: float32 (266 * 48,), by dropoff zone times 48 plus hour of the kind of day.
    """

    for_miles: Matrix
    half_hour: Matrix
    pickup: Matrix
    dropoff: Matrix
    pair: Halves
    pickup_hour: Matrix
    dropoff_hour: Matrix


class PaceFit:
    """Fits the pace to trips, or to those of them that are not of some days.

    Args:
        trips: Trips with durations; those without a believable distance are left out.
        fold: int8 (n,), the fold of each trip.
    """

    def __init__(self, trips: Trips, fold: npt.NDArray[np.int8]) -> None:
        known = has_plausible_distance(trips)
        trips = trips[known]
        assert trips.duration_minutes is not None
        clock = _Clock.of(trips)
        self._fold = fold[known]
        # Small types: at ten million trips each array of eight bytes is 80 MB.
        self._miles = np.log(trips.trip_distance_miles).astype(np.float32)
        self._minutes = np.log(trips.duration_minutes).astype(np.float32)
        self._half_hour = clock.half_hour.astype(np.int8)
        self._hour = clock.hour.astype(np.int8)
        self._pickup = _zone(trips.pickup_zone).astype(np.int16)
        self._dropoff = _zone(trips.dropoff_zone).astype(np.int16)

    def without(self, fold: int) -> Pace:
        """The pace of all trips but a fold's; of all trips if there is no such fold."""
        use = self._fold != fold
        half_hours, hours = self._half_hour[use], self._hour[use]
        pickups, dropoffs = self._pickup[use], self._dropoff[use]
        miles, left = self._miles[use], self._minutes[use]

        for_miles = _curve(miles, left)
        left -= np.interp(miles, np.log(_KNOTS), for_miles).astype(np.float32)
        np.clip(left, -_CLIP_LOG_MINUTES, _CLIP_LOG_MINUTES, out=left)

        half_hour, pickup, dropoff = np.zeros(_HALF_HOURS), np.zeros(_ZONES), np.zeros(_ZONES)
        for _ in range(_BACKFITTING_ROUNDS):
            half_hour = _shrunken_means(
                half_hours, left - pickup[pickups] - dropoff[dropoffs], _HALF_HOURS, _PRIOR_HALF_HOUR
            )
            pickup = _shrunken_means(pickups, left - half_hour[half_hours] - dropoff[dropoffs], _ZONES, _PRIOR_ZONE)
            dropoff = _shrunken_means(dropoffs, left - half_hour[half_hours] - pickup[pickups], _ZONES, _PRIOR_ZONE)
        left -= half_hour[half_hours] + pickup[pickups] + dropoff[dropoffs]

        pairs = pickups.astype(np.int32) * _ZONES + dropoffs
        pair = _shrunken_means(pairs, left, _PAIRS, _PRIOR_PAIR)
        left -= pair[pairs]
        zone_hours = _ZONES * _HOURS
        pickup_hour = _shrunken_means(pickups.astype(np.int32) * _HOURS + hours, left, zone_hours, _PRIOR_ZONE_HOUR)
        dropoff_hour = _shrunken_means(dropoffs.astype(np.int32) * _HOURS + hours, left, zone_hours, _PRIOR_ZONE_HOUR)
        return Pace(
            for_miles.astype(np.float32),
            half_hour.astype(np.float32),
            pickup.astype(np.float32),
            dropoff.astype(np.float32),
            pair.astype(np.float16),  # the largest tables by far, and three digits are more than trips can tell
            pickup_hour.astype(np.float32),
            dropoff_hour.astype(np.float32),
        )


def _shrunken_means(
    group: npt.NDArray[np.integer], values: npt.NDArray[np.floating], size: int, prior: float
) -> Floats:
    """Each group's mean, drawn towards zero as if the prior's number of zeros had been seen with it, (size,)."""
    total = np.bincount(group, weights=values, minlength=size)
    means: Floats = total / (np.bincount(group, minlength=size) + prior)
    return means


def _curve(miles: Matrix, minutes: Matrix) -> Floats:
    """Mean log minutes at the knots of distance, each trip shared between its two nearest knots, (knots,)."""
    knots = np.log(_KNOTS)
    position = np.interp(miles, knots, np.arange(len(knots))).astype(np.float32)
    lower = np.minimum(position.astype(np.int8), len(knots) - 2)
    share = position - lower
    weight = np.bincount(lower, 1 - share, len(knots)) + np.bincount(lower + 1, share, len(knots))
    total = np.bincount(lower, (1 - share) * minutes, len(knots)) + np.bincount(lower + 1, share * minutes, len(knots))
    seen = np.flatnonzero(weight > 1)
    if not len(seen):
        return np.full(len(knots), np.log(10.0))  # no trip to learn from: any plausible duration will do
    # More miles never take less time, whatever a few odd trips say.
    return np.interp(knots, knots[seen], np.maximum.accumulate(total[seen] / weight[seen]))


class FeatureTables:
    """Everything that features need, laid out so that a trip is a few look-ups.

    Args:
        geography: Where zones lie.
        pace: How long trips take.
    """

    def __init__(self, geography: Geography, pace: Pace) -> None:
        self.geography = geography
        self.pace = pace
        pickup, dropoff = np.divmod(np.arange(_PAIRS), _ZONES)
        self._pair_features = np.column_stack(
            [pace.pickup[pickup], pace.dropoff[dropoff], pace.pair, geography.pair_features]
        )
        self._zone_pace = self._pair_features[:, :3].sum(axis=1)
        self._knots = np.log(_KNOTS)
        usual = np.log(self._pair_features[:, USUAL_MILES])
        self._usual_minutes = np.exp(np.interp(usual, self._knots, pace.for_miles))
        # The same again for one trip: an item of a memoryview is a plain number, which one of an array is not.
        self._pair_items = self._pair_features.ravel().data
        self._zone_pace_items = self._zone_pace.data
        self._usual_minutes_items = self._usual_minutes.data
        self._half_hour_items = pace.half_hour.data
        self._pickup_hour_items = pace.pickup_hour.data
        self._dropoff_hour_items = pace.dropoff_hour.data
        self._for_miles = interpolator(self._knots, pace.for_miles)

    def __call__(self, trips: Trips) -> Matrix:
        """The features of trips.

        Args:
            trips: Any trips; durations are not looked at.

        Returns:
            float32 (n, 23), columns as in ``FEATURES``. An implausible distance is NaN, and the pair's usual one stands
            in for it in the estimate. ``estimate`` is in minutes: the exponential of the sum of all effects.
            ``usual_minutes`` and ``usual_estimate`` are ``minutes_for_miles`` and ``estimate`` of the pair's usual
            distance. ``recent`` is 1: the trips to predict are.
        """
        clock = _Clock.of(trips)
        pickup, dropoff = _zone(trips.pickup_zone), _zone(trips.dropoff_zone)
        pair = pickup * _ZONES + dropoff
        rows: Matrix = np.empty((len(trips), len(FEATURES)), np.float32)
        shared = len(PAIR_FEATURES)
        rows[:, :shared] = self._pair_features.take(pair, axis=0)  # indexing takes twice as long
        known = has_plausible_distance(trips)
        miles = np.where(known, trips.trip_distance_miles, np.nan)
        for_miles = np.interp(np.log(np.where(known, miles, 1)), self._knots, self.pace.for_miles)
        usual_minutes = self._usual_minutes[pair]
        minutes = np.where(known, np.exp(for_miles), usual_minutes)
        rows[:, shared] = clock.second / 3600
        rows[:, shared + 1] = clock.weekday
        rows[:, shared + 2] = hour_pace = self.pace.half_hour[clock.half_hour]
        rows[:, shared + 3] = 1
        pace = np.exp(
            self._zone_pace[pair]
            + hour_pace
            + self.pace.pickup_hour[pickup * _HOURS + clock.hour]
            + self.pace.dropoff_hour[dropoff * _HOURS + clock.hour],
            dtype=np.float64,
        )
        rows[:, shared + 4] = usual_minutes
        rows[:, shared + 5] = usual_minutes * pace
        rows[:, shared + 6] = miles
        rows[:, shared + 7] = miles / rows[:, USUAL_MILES]
        rows[:, shared + 8] = minutes
        rows[:, shared + 9] = minutes * pace
        rows[:, shared + 10] = miles / rows[:, _CROW_FLIGHT]
        return rows

    def usual_miles(self, trips: Trips) -> Floats:
        """The usual miles of each trip's pair of zones, (n,)."""
        pair = _zone(trips.pickup_zone) * _ZONES + _zone(trips.dropoff_zone)
        usual: Floats = self.geography.usual_miles.ravel()[pair].astype(np.float64)
        return usual

    def effects(self, trips: Trips) -> Floats:
        """What ``estimate`` is made of: the log minutes for the miles, the hour, the pickup and the dropoff zone.

        What a pair of zones has in itself belongs to either by half.

        Returns:
            (n, 4); the exponential of a row's sum is the estimate, in minutes.
        """
        clock, pace = _Clock.of(trips), self.pace
        pickup, dropoff = _zone(trips.pickup_zone), _zone(trips.dropoff_zone)
        pair = pickup * _ZONES + dropoff
        miles = np.where(has_plausible_distance(trips), trips.trip_distance_miles, self.usual_miles(trips))
        hour = (
            pace.half_hour[clock.half_hour]
            + pace.pickup_hour[pickup * _HOURS + clock.hour]
            + pace.dropoff_hour[dropoff * _HOURS + clock.hour]
        )
        return np.column_stack(
            [
                np.interp(np.log(miles), self._knots, pace.for_miles),
                hour,
                pace.pickup[pickup] + pace.pair[pair] / 2,
                pace.dropoff[dropoff] + pace.pair[pair] / 2,
            ]
        )

    def write_row(self, row: memoryview[float], trip: Trip) -> None:
        """The features of one trip, as ``__call__`` computes them, to the precision of float32.

        Args:
            row: Where they go, float32 (23,).
            trip: The trip.
        """
        pickup_zone, dropoff_zone, trip_distance_miles, pickup = trip
        # Line by line what ``__call__`` does: a change to one is a change to both.
        day, second = divmod(pickup, 86_400)
        free = _FREE_DAY_ITEMS[day % _CALENDAR_DAYS]
        hour = second // 3600 + 24 * free
        start = pickup_zone if 0 < pickup_zone <= LAST_ZONE else 0
        end = dropoff_zone if 0 < dropoff_zone <= LAST_ZONE else 0
        pair = start * _ZONES + end
        shared = len(PAIR_FEATURES)
        row[:shared] = self._pair_items[pair * shared : (pair + 1) * shared]
        row[shared] = second / 3600
        row[shared + 1] = (day + 3) % 7
        row[shared + 2] = hour_pace = self._half_hour_items[second // 1800 + 48 * free]
        row[shared + 3] = 1
        pace = exp(
            self._zone_pace_items[pair]
            + hour_pace
            + self._pickup_hour_items[start * _HOURS + hour]
            + self._dropoff_hour_items[end * _HOURS + hour]
        )
        row[shared + 4] = usual_minutes = self._usual_minutes_items[pair]
        row[shared + 5] = usual_estimate = usual_minutes * pace
        if 0 < trip_distance_miles <= PLAUSIBLE_MILES:
            minutes = exp(self._for_miles(log(trip_distance_miles)))
            row[shared + 6] = trip_distance_miles
            row[shared + 7] = trip_distance_miles / row[USUAL_MILES]
            row[shared + 8] = minutes
            row[shared + 9] = minutes * pace
            row[shared + 10] = trip_distance_miles / row[_CROW_FLIGHT]
        else:
            row[shared + 6] = row[shared + 7] = row[shared + 10] = nan
            row[shared + 8] = usual_minutes
            row[shared + 9] = usual_estimate

    def files(self) -> dict[str, bytes]:
        """Each table as the content of a ``.npy`` file, by the file's name."""
        contents = {}
        for part in (self.geography, self.pace):
            for table in fields(part):
                buffer = BytesIO()
                np.save(buffer, getattr(part, table.name), allow_pickle=False)
                contents[f"{table.name}.npy"] = buffer.getvalue()
        return contents

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> FeatureTables:
        """Read tables back.

        Args:
            files: What ``files`` gave, among others.

        Raises:
            KeyError: If a table is missing.
            ValueError: If a file is not a table.
        """

        def read(part: type[Geography] | type[Pace]) -> list[Any]:
            return [np.load(BytesIO(files[f"{table.name}.npy"]), allow_pickle=False) for table in fields(part)]

        return cls(Geography(*read(Geography)), Pace(*read(Pace)))


class OutOfFold:
    """Features of training trips that their own durations did not enter, and tables for trips yet to come.

    Days are dealt to ``FOLDS`` folds in turn, and the trips of a fold get the pace of the other folds. Whole days,
    because the trips of one hour share their traffic: with trips dealt singly, a trip's neighbours would tell on it, as
    they never can in service.

    Args:
        trips: Trips with durations, at least one.

    Attributes:
        tables: For trips yet to come: their pace is that of all folds.
        distances: Whether the trips have distances.
    """

    def __init__(self, trips: TripBatches) -> None:
        last = max(batch.pickup_datetime.max() for batch in trips.batches())
        known = sample(trips, _TABLE_TRIPS)
        geography = Geography.fit(known)
        self.distances = have_distances(known)
        if not self.distances:  # then each was as far as is usual
            known = replace(known, trip_distance_miles=geography.usual_miles.ravel()[_pair(known)].astype(np.float64))
        pace = PaceFit(known, _fold(known))
        del known
        self._recent_from = last - np.timedelta64(RECENT_DAYS, "D")
        self._parts = [FeatureTables(geography, pace.without(fold)) for fold in range(FOLDS)]
        self.tables = FeatureTables(geography, pace.without(FOLDS))

    def __call__(self, trips: Trips) -> Matrix:
        """The features of some of the training trips, float32 (n, 23)."""
        fold = _fold(trips)
        features: Matrix = np.empty((len(trips), len(FEATURES)), np.float32)
        for number, tables in enumerate(self._parts):
            members = np.flatnonzero(fold == number)
            features[members] = tables(trips[members])
        features[:, _RECENT] = trips.pickup_datetime > self._recent_from
        return features

    def save(self, folder: Path) -> None:
        """Write what it takes to compute the same features elsewhere."""
        for number, tables in enumerate([*self._parts, self.tables]):
            part = folder / str(number)
            part.mkdir(parents=True)
            for name, content in tables.files().items():
                (part / name).write_bytes(content)
        trips = {"recent_from": str(self._recent_from), "distances": self.distances}
        (folder / "trips.json").write_text(json.dumps(trips))

    @classmethod
    def load(cls, folder: Path) -> OutOfFold:
        """Read what ``save`` wrote."""
        parts = (
            {file.name: file.read_bytes() for file in (folder / str(number)).iterdir()} for number in range(FOLDS + 1)
        )
        trips = json.loads((folder / "trips.json").read_text())
        found = cls.__new__(cls)
        *found._parts, found.tables = map(FeatureTables.load, parts)
        found._recent_from, found.distances = np.datetime64(trips["recent_from"]), trips["distances"]
        return found


def _fold(trips: Trips) -> npt.NDArray[np.int8]:
    """The fold of each trip, (n,): that of its day."""
    return (trips.pickup_datetime.astype("datetime64[D]").astype(np.int64) % FOLDS).astype(np.int8)
