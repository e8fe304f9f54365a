"""Features: what they say about a trip, what they do with dirt, and that no training trip sees its own duration."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripcast.taxi.features import FEATURES, FeatureTables, Geography, OutOfFold, PaceFit
from tripcast.taxi.trips import Trip, Trips

MONDAY = np.datetime64("2021-01-04T00:00:00", "us")


def trips_of(pickup, dropoff, miles, minutes=None, start=MONDAY, every_seconds=600) -> Trips:
    count = len(pickup)
    return Trips(
        start + (np.arange(count) * every_seconds).astype("timedelta64[s]"),
        np.asarray(pickup, np.int16),
        np.asarray(dropoff, np.int16),
        np.asarray(miles, np.float64),
        None if minutes is None else np.asarray(minutes, np.float64),
    )


@pytest.fixture(scope="module")
def month() -> Trips:
    """Four weeks among ten zones on a line a mile apart; trips from zone 3 take half as long again."""
    random = np.random.default_rng(0)
    pickup, dropoff = random.integers(1, 11, (2, 4032))
    miles = np.abs(pickup - dropoff) + random.uniform(0.3, 0.5, 4032)
    minutes = 4 * miles * np.where(pickup == 3, 1.5, 1.0) * random.lognormal(0, 0.2, 4032)
    return trips_of(pickup, dropoff, miles, np.clip(minutes, 1, 60))


@pytest.fixture(scope="module")
def tables(month) -> FeatureTables:
    return OutOfFold(month).tables


def column(rows, name):
    return rows[:, FEATURES.index(name)]


def test_the_clock_is_read_in_local_time(tables):
    trips = trips_of([1, 1], [2, 2], [1.0, 1.0], start=np.datetime64("2021-01-10T17:45:00", "us"), every_seconds=86_400)
    rows = tables(trips)
    assert column(rows, "hour_of_day").tolist() == [17.75, 17.75]
    assert column(rows, "weekday").tolist() == [6, 0]  # a Sunday, then a Monday


@pytest.mark.parametrize(
    ("holiday", "working_day"),
    [("2021-01-18", "2021-01-25"), ("2024-11-28", "2024-11-21"), ("2421-05-31", "2421-05-24")],
)
def test_a_holiday_has_the_hours_of_a_weekend(tables, holiday, working_day):
    at_five = np.timedelta64(17, "h")
    sunday, that_day = (
        column(tables(trips_of([1], [2], [1.0], start=np.datetime64(day, "us") + at_five)), "hour_pace")
        for day in ("2021-01-10", holiday)
    )
    assert that_day == sunday
    other = tables(trips_of([1], [2], [1.0], start=np.datetime64(working_day, "us") + at_five))
    assert column(other, "hour_pace") != sunday


def test_zones_lie_where_they_are_on_axes_along_the_avenues(tables):
    """From Penn Station (186) up the avenues to Lincoln Square East (142), and across them to Kips Bay (137)."""
    up, across, back = tables(trips_of([186, 186, 137], [142, 137, 186], [2.0, 1.0, 1.0]))
    east, north, crow_flight, taxicab = (FEATURES.index(name) for name in ("east", "north", "crow_flight", "taxicab"))
    assert up[north] == pytest.approx(1.65, abs=0.1)
    assert abs(up[east]) < 0.4
    assert across[east] == pytest.approx(1.2, abs=0.1)
    assert abs(across[north]) < 0.4
    assert up[crow_flight] == pytest.approx(np.hypot(0.51, 1.57), abs=0.02)
    assert up[taxicab] == pytest.approx(abs(up[east]) + abs(up[north]), abs=0.01)
    assert across[[crow_flight, taxicab]].tolist() == back[[crow_flight, taxicab]].tolist()


@pytest.mark.parametrize("zone", [0, 264, 265, 300])
def test_where_a_zone_is_no_place_the_usual_miles_stand_in(tables, zone):
    rows = tables(trips_of([zone, 5], [5, zone], [3.0, 3.0]))
    assert np.isnan(column(rows, "east")).all()
    for name in ("crow_flight", "taxicab"):
        np.testing.assert_array_equal(column(rows, name), column(rows, "usual_miles"))


def test_what_is_usual_of_two_zones_is_what_trips_between_them_have(tables):
    rows = tables(trips_of([1, 1, 4], [10, 2, 9], [9.0, np.nan, 5.0]))
    np.testing.assert_allclose(column(rows, "usual_miles"), [9.4, 1.4, 5.4], atol=0.1)
    again = tables(trips_of([1, 1, 4], [10, 2, 9], column(rows, "usual_miles")))
    for usual, of_miles in (("usual_minutes", "minutes_for_miles"), ("usual_estimate", "estimate")):
        np.testing.assert_allclose(column(rows, usual), column(again, of_miles), rtol=1e-5)


def test_trips_of_long_ago_are_told_from_recent_ones(month):
    old = replace(month, pickup_datetime=month.pickup_datetime - np.timedelta64(100, "D"))
    both = Trips(
        *(
            np.concatenate([getattr(trips, name) for trips in (old, month)])
            for name in ("pickup_datetime", "pickup_zone", "dropoff_zone", "trip_distance_miles", "duration_minutes")
        )
    )
    features = OutOfFold(both)
    recent = column(features(both), "recent")
    assert recent[: len(old) - 200].tolist() == [0] * (len(old) - 200)
    assert recent[len(old) :].tolist() == [1] * len(month)
    assert column(features.tables(month[:10]), "recent").tolist() == [1] * 10


def test_a_slow_zone_has_a_slow_pace(tables):
    slow, ordinary = tables(trips_of([3, 5], [7, 9], [4.4, 4.4]))
    gap = slow[FEATURES.index("pickup_pace")] - ordinary[FEATURES.index("pickup_pace")]
    assert gap == pytest.approx(np.log(1.5), abs=0.05)


def test_the_estimate_is_close_to_what_trips_take(tables):
    rows = tables(trips_of([3, 5], [7, 9], [4.4, 4.4]))
    np.testing.assert_allclose(column(rows, "estimate"), [26.4, 17.6], rtol=0.15)  # by night the averages are of few


@pytest.mark.parametrize("miles", [0.0, -1.0, 244_152.01, np.nan, np.inf])
def test_an_unbelievable_distance_is_a_missing_one(tables, miles):
    dirty, missing = (tables(trips_of([2], [6], [value])) for value in (miles, np.nan))
    np.testing.assert_array_equal(dirty, missing)
    assert np.isnan(column(dirty, "miles"))
    usual = tables(trips_of([2], [6], [column(dirty, "usual_miles")[0]]))
    assert column(dirty, "estimate") == pytest.approx(column(usual, "estimate"), rel=1e-6)


def test_absurd_distances_do_not_enter_what_is_usual(month):
    absurd = month.trip_distance_miles.copy()
    absurd[::7] = 244_152.01
    usual = Geography.fit(replace(month, trip_distance_miles=absurd)).usual_miles
    np.testing.assert_allclose(usual[1:11, 1:11], Geography.fit(month).usual_miles[1:11, 1:11], atol=0.1)


def test_a_pair_without_trips_takes_the_way_over_others():
    trips = trips_of([1, 2] * 50, [2, 3] * 50, [1.5, 2.5] * 50, [5.0] * 100)
    assert Geography.fit(trips).usual_miles[1, 3] == pytest.approx(4.0)


def test_a_pair_of_vanishing_distances_still_has_features():
    trips = trips_of([1] * 20, [1] * 20, [1e-300] * 20, [5.0] * 20)
    tables = OutOfFold(trips).tables
    row = np.empty(len(FEATURES), np.float32)
    tables.write_row(row.data, Trip(1, 1, 60.0, 0))
    assert row[FEATURES.index("miles_to_usual")] == pytest.approx(6000, rel=1e-3)
    np.testing.assert_array_max_ulp(row, tables(trips_of([1], [1], [60.0], start=np.datetime64(0, "us")))[0], maxulp=1)


@pytest.mark.parametrize("zone", [-32_768, -1, 0, 200, 266, 32_767])
def test_a_zone_never_seen_still_has_an_estimate(tables, zone):
    rows = tables(trips_of([zone, 2], [2, zone], [3.0, np.nan]))
    assert np.isfinite(column(rows, "estimate")).all()
    assert column(rows, "pair_pace").tolist() == [0, 0]


@pytest.mark.parametrize("year", ["1970", "2009", "2099"])
def test_a_year_never_seen_still_has_an_estimate(tables, year):
    assert np.isfinite(column(tables(trips_of([1], [2], [1.0], start=np.datetime64(year, "us"))), "estimate")).all()


def test_one_trip_has_the_features_it_has_in_a_batch(tables, month):
    batch = tables(month[:50])
    singly = np.concatenate([tables(month[row : row + 1]) for row in range(50)])
    np.testing.assert_array_equal(singly, batch)


@given(
    pickup=st.sampled_from([-32_768, -1, 0, 1, 3, 10, 200, 264, 265, 266, 32_767]),
    dropoff=st.integers(-32_768, 32_767) | st.integers(1, 10),
    miles=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-300, 0.1, 60.0, 60.01, 200.0, 1e300])
    | st.floats(0, 70),
    pickup_time=st.integers(0, 4_133_980_799) | st.sampled_from(["2021-01-18T00:00", "2021-12-25T23:59:59"]),
)
def test_a_row_by_itself_is_that_of_a_batch(tables, pickup, dropoff, miles, pickup_time):
    time = np.datetime64(pickup_time, "s")
    row = np.empty(len(FEATURES), np.float32)
    tables.write_row(row.data, Trip(pickup, dropoff, miles, int(time.astype(int))))
    trip = trips_of([pickup], [dropoff], [miles], start=time.astype("datetime64[us]"))
    np.testing.assert_array_max_ulp(row, tables(trip)[0], maxulp=1)


def test_no_trips_have_no_features(tables, month):
    assert tables(month[:0]).shape == (0, len(FEATURES))


def test_tables_are_the_same_after_reading_them_back(tables, month):
    again = FeatureTables.load(tables.files())
    np.testing.assert_array_equal(again(month), tables(month))


def test_the_duration_of_a_trip_does_not_enter_its_own_features(month):
    row = 1234
    changed = month.duration_minutes.copy()
    changed[row] = 60.0 if changed[row] < 30 else 1.0
    before, after = OutOfFold(month), OutOfFold(replace(month, duration_minutes=changed))

    day = month.pickup_datetime.astype("datetime64[D]")
    same_day = month[day == day[row]]
    np.testing.assert_array_equal(after(same_day), before(same_day))
    assert (after(month) != before(month)).any(), "the duration does enter the features of other days"


def test_random_durations_leave_training_features_without_knowledge(month):
    random = np.random.default_rng(1)
    noise = replace(month, duration_minutes=random.lognormal(2, 0.7, len(month)).clip(1, 60))
    truth = np.log(noise.duration_minutes)
    leaky = FeatureTables(Geography.fit(noise), PaceFit(noise, np.zeros(len(noise), np.int8)).without(1))

    for name in ("pair_pace", "estimate"):
        assert abs(np.corrcoef(column(OutOfFold(noise)(noise), name), truth)[0, 1]) < 0.04
        assert np.corrcoef(column(leaky(noise), name), truth)[0, 1] > 0.1


def test_out_of_fold_features_do_not_depend_on_how_they_are_asked_for(month):
    features = OutOfFold(month)
    np.testing.assert_array_equal(np.concatenate([features(month[:1000]), features(month[1000:])]), features(month))
