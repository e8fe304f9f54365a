"""The simulated city: the publisher's schema, its law and its best prediction, its dirt and its drifts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tripcast.errors import InvalidRequest
from tripcast.months import Month
from tripcast.taxi.simulation import City, Drift
from tripcast.taxi.trips import Trips
from tripcast.taxi.zones import ZONES

JANUARY, FEBRUARY = Month(2021, 1), Month(2021, 2)

GREEN = {
    "VendorID": "int64",
    "lpep_pickup_datetime": "timestamp[us]",
    "lpep_dropoff_datetime": "timestamp[us]",
    "store_and_fwd_flag": "string",
    "RatecodeID": "double",
    "PULocationID": "int64",
    "DOLocationID": "int64",
    "passenger_count": "double",
    "trip_distance": "double",
    "fare_amount": "double",
    "extra": "double",
    "mta_tax": "double",
    "tip_amount": "double",
    "tolls_amount": "double",
    "ehail_fee": "null",
    "improvement_surcharge": "double",
    "total_amount": "double",
    "payment_type": "double",
    "trip_type": "double",
    "congestion_surcharge": "double",
}
YELLOW = {
    "VendorID": "int64",
    "tpep_pickup_datetime": "timestamp[us]",
    "tpep_dropoff_datetime": "timestamp[us]",
    "passenger_count": "double",
    "trip_distance": "double",
    "RatecodeID": "double",
    "store_and_fwd_flag": "string",
    "PULocationID": "int64",
    "DOLocationID": "int64",
    "payment_type": "int64",
    "fare_amount": "double",
    "extra": "double",
    "mta_tax": "double",
    "tip_amount": "double",
    "tolls_amount": "double",
    "improvement_surcharge": "double",
    "total_amount": "double",
    "congestion_surcharge": "double",
    "airport_fee": "double",
}


@lru_cache(maxsize=32)
def table(source: str = "simulated", taxi: str = "green", month: Month = JANUARY) -> pa.Table:
    return pa.Table.from_batches(City.parse(source).month(taxi, month))


def all_trips(records: pa.Table) -> Trips:
    """Every row of a month, as the records have it; a missing zone as 0."""
    meter = "lpep" if "lpep_pickup_datetime" in records.column_names else "tpep"
    pickup, dropoff = (records[f"{meter}_{end}_datetime"].to_numpy() for end in ("pickup", "dropoff"))
    return Trips(
        pickup,
        np.nan_to_num(records["PULocationID"].to_numpy()).astype(np.int16),
        np.nan_to_num(records["DOLocationID"].to_numpy()).astype(np.int16),
        records["trip_distance"].to_numpy(),
        (dropoff - pickup) / np.timedelta64(1, "m"),
    )


def minutes_of(trips: Trips) -> npt.NDArray[np.float64]:
    assert trips.duration_minutes is not None
    return trips.duration_minutes


@lru_cache(maxsize=32)
def kept_trips(source: str = "simulated", taxi: str = "green", month: Month = JANUARY) -> Trips:
    """What the contract keeps of a month."""
    trips = all_trips(table(source, taxi, month))
    minutes = minutes_of(trips)
    good = (minutes >= 1) & (minutes <= 60) & (trips.dropoff_zone > 0) & (trips.trip_distance_miles >= 0)
    return trips[good]


def hour_of(trips: Trips) -> npt.NDArray[np.int64]:
    return trips.pickup_datetime.astype("datetime64[h]").astype(np.int64) % 24


def is_weekend(trips: Trips) -> npt.NDArray[np.bool_]:
    return ~np.is_busday(trips.pickup_datetime.astype("datetime64[D]"))


def rmse(prediction: npt.NDArray[np.floating], trips: Trips) -> float:
    return float(np.sqrt(np.mean((prediction - minutes_of(trips)) ** 2)))


def honest(trips: Trips) -> npt.NDArray[np.bool_]:
    return (trips.trip_distance_miles > 0) & (trips.trip_distance_miles <= 100)


# --- The schema ---


@pytest.mark.parametrize(("taxi", "columns"), [("green", GREEN), ("yellow", YELLOW)])
def test_a_month_has_the_columns_and_types_of_the_publisher(taxi: str, columns: dict[str, str]) -> None:
    schema = table(taxi=taxi).schema
    assert {field.name: str(field.type) for field in schema} == columns
    assert schema.names == list(columns)


def test_a_month_has_the_schema_of_the_real_file(tlc: Path) -> None:
    real = pq.read_schema(tlc / "green_tripdata_2021-01.parquet")
    assert table().schema.equals(real)


def test_records_are_valid_and_survive_a_parquet_file(tmp_path: Path) -> None:
    records = table("simulated?trips=3000")
    records.validate(full=True)
    pq.write_table(records, tmp_path / "month.parquet")
    assert pq.read_table(tmp_path / "month.parquet").equals(records)


def test_what_nobody_reads_is_empty() -> None:
    read = {"lpep_pickup_datetime", "lpep_dropoff_datetime", "PULocationID", "DOLocationID", "trip_distance"}
    assert {name for name in GREEN if table()[name].null_count < table().num_rows} == read


# --- One city, one month ---


def test_a_month_is_the_same_whatever_was_asked_before() -> None:
    city = City(trips=3000)
    first = list(city.month("green", FEBRUARY))
    list(city.month("yellow", JANUARY))
    city.irreducible_rmse("green", FEBRUARY)
    assert list(City(trips=3000).month("green", FEBRUARY)) == first


def test_these_are_the_first_trips_of_the_city() -> None:
    """Pins the law: a change of any constant or of the order of draws is a change of everybody's city."""
    trips = all_trips(table("simulated?trips=3000"))[2:5]
    assert trips.pickup_datetime.astype(str).tolist() == [
        f"2021-01-01T{clock}.000000" for clock in ("03:21:26", "05:21:38", "05:29:43")
    ]
    assert list(zip(trips.pickup_zone, trips.dropoff_zone, strict=True)) == [(97, 52), (78, 248), (222, 96)]
    assert trips.trip_distance_miles.tolist() == [2.27, 1.17, 5.14]


def test_neighbours_in_the_real_city_are_neighbours_here() -> None:
    trips = kept_trips("simulated?trips=200000")
    near = trips[honest(trips) & (trips.pickup_zone == 74) & (trips.dropoff_zone == 75)]
    assert 1.3 < np.median(near.trip_distance_miles) < 2.6  # East Harlem North to South: 1.2 miles as the crow flies
    assert np.median(minutes_of(near)) < 15


def test_months_taxis_and_seeds_differ() -> None:
    months = [
        all_trips(records).trip_distance_miles[:500].tobytes()
        for records in (
            table(),
            table(month=FEBRUARY),
            table(month=Month(2022, 1)),
            table(taxi="yellow"),
            table("simulated?seed=7"),
        )
    ]
    assert len(set(months)) == 5


@pytest.mark.parametrize("rows", [1, 2, 1000, 131_072, 131_073])
def test_a_month_has_as_many_rows_as_asked(rows: int) -> None:
    batches = list(City(trips=rows).month("green", JANUARY))
    assert sum(batch.num_rows for batch in batches) == rows
    assert all(batch.num_rows <= 131_072 for batch in batches)


@pytest.mark.slow
def test_a_month_is_made_without_pandas() -> None:
    script = """
import sys
from tripcast.months import Month
from tripcast.taxi.simulation import City
assert next(City(trips=10).month("green", Month(2021, 1))).num_rows == 10
print("pandas" in sys.modules)
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout == "False\n"


def test_an_unknown_taxi_is_named_at_once() -> None:
    with pytest.raises(InvalidRequest, match=r"no taxi 'blue': choose one of green, yellow, fhvhv, fhv"):
        City().month("blue", JANUARY)


# --- What the city is like ---


def test_pickups_come_in_order_and_in_their_month_but_for_two_stray_clocks() -> None:
    pickup = all_trips(table()).pickup_datetime
    assert (pickup[2:] >= JANUARY.start).all()
    assert (pickup < JANUARY.end).all()
    assert (np.diff(pickup[2:]) >= np.timedelta64(0)).all()
    assert pickup[:2].astype("datetime64[m]").astype(str).tolist() == ["2020-12-31T23:59", "2009-01-01T00:01"]


def test_most_trips_are_by_day_and_few_at_night() -> None:
    by_hour = np.bincount(hour_of(kept_trips()), minlength=24)
    assert by_hour[8:19].min() > 4 * by_hour[1:5].max()


def test_people_sleep_longer_at_weekends() -> None:
    trips = kept_trips()
    hour, weekend = hour_of(trips), is_weekend(trips)
    assert np.mean(hour[weekend] < 4) > 2 * np.mean(hour[~weekend] < 4)
    assert np.mean(hour[weekend] == 8) < 0.75 * np.mean(hour[~weekend] == 8)


def test_a_weekday_has_more_trips_than_a_sunday() -> None:
    day = kept_trips().pickup_datetime.astype("datetime64[D]")
    wednesday, sunday = (np.sum(np.is_busday(day, weekmask=mask)) for mask in ("Wed", "Sun"))
    assert wednesday / 4 > 1.4 * sunday / 5  # January 2021 has four Wednesdays and five Sundays


def test_rush_hours_are_slow() -> None:
    trips = kept_trips()
    trips = trips[honest(trips) & ~is_weekend(trips)]
    mph, hour = trips.trip_distance_miles / minutes_of(trips) * 60, hour_of(trips)
    assert np.median(mph[hour == 17]) < 0.75 * np.median(mph[hour < 5])


def test_green_taxis_stay_within_boroughs_and_out_of_lower_manhattan() -> None:
    borough = np.array(["", *(zone.borough for zone in ZONES)])
    green, yellow = kept_trips(), kept_trips(taxi="yellow")
    assert 0.75 < np.mean(borough[green.pickup_zone] == borough[green.dropoff_zone]) < 0.95
    shares = [np.mean(borough[trips.pickup_zone] == "Manhattan") for trips in (green, yellow)]
    assert shares == pytest.approx([0.42, 0.90], abs=0.03)
    zones = [len(np.unique(trips.pickup_zone[borough[trips.pickup_zone] == "Manhattan"])) for trips in (green, yellow)]
    assert zones[0] < 0.6 * zones[1]


def test_durations_and_distances_are_like_those_of_real_green_months() -> None:
    """Real months of 2021 and 2022: mean 15 to 18 minutes, spread 10 to 12, median distance 2.0 to 2.6 miles."""
    trips = kept_trips()
    assert 15 < minutes_of(trips).mean() < 18
    assert 9.5 < minutes_of(trips).std() < 12
    assert 2.0 < np.median(trips.trip_distance_miles) < 2.7
    assert 6 < np.quantile(trips.trip_distance_miles, 0.95) < 15


def test_dirt_is_as_frequent_as_in_real_months() -> None:
    trips = all_trips(table("simulated?trips=120000"))
    minutes, miles = minutes_of(trips), trips.trip_distance_miles
    kept = (minutes >= 1) & (minutes <= 60)
    assert np.mean(kept) == pytest.approx(0.965, abs=0.015)
    assert np.mean(minutes < 1) == pytest.approx(0.02, abs=0.002)
    assert 0.002 < np.mean(minutes > 120) < 0.008
    assert 20 * 60 < minutes.max() <= 24 * 60
    assert np.mean(miles[kept] == 0) == pytest.approx(0.022, abs=0.002)
    assert np.mean(miles[minutes < 1] == 0) == pytest.approx(0.62, abs=0.03)
    assert 0.0004 < np.mean(miles > 100) < 0.0011
    assert 100_000 < miles.max() <= 250_000
    assert miles.min() == 0


# --- The best prediction ---


@pytest.mark.parametrize("taxi", ["green", "yellow"])
def test_the_irreducible_error_is_the_one_that_the_best_prediction_has(taxi: str) -> None:
    source = "simulated?trips=120000"
    trips = kept_trips(source, taxi)
    city = City.parse(source)
    error = rmse(city.best_prediction(JANUARY, trips), trips)
    assert error == pytest.approx(city.irreducible_rmse(taxi, JANUARY), rel=0.01)
    assert 3 < error < 5


PERTURBATIONS: dict[str, Callable[[Trips], npt.NDArray[np.float64]]] = {
    "2 % longer": lambda trips: 0.02 * City().best_prediction(JANUARY, trips),
    "2 % shorter": lambda trips: -0.02 * City().best_prediction(JANUARY, trips),
    "a quarter of a minute later": lambda trips: np.full(len(trips), 0.25),
    "a quarter of a minute sooner": lambda trips: np.full(len(trips), -0.25),
    "nearer to the mean": lambda trips: 0.03 * (minutes_of(trips).mean() - City().best_prediction(JANUARY, trips)),
}


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_no_perturbation_beats_the_best_prediction(name: str) -> None:
    trips = kept_trips()
    best = City().best_prediction(JANUARY, trips)
    truth = minutes_of(trips)
    gain = (best - truth) ** 2 - (best + PERTURBATIONS[name](trips) - truth) ** 2
    assert gain.mean() < 2 * gain.std() / np.sqrt(len(gain))
    # A correction worth the name would take more than this off the squared error.
    assert gain.mean() < 0.002 * np.mean((best - truth) ** 2)


def test_the_best_prediction_is_right_on_average_in_every_group() -> None:
    source = "simulated?trips=120000"
    trips = kept_trips(source)
    best = City.parse(source).best_prediction(JANUARY, trips)
    missed = minutes_of(trips) - best
    groups = {f"hour {hour}": hour_of(trips) == hour for hour in range(24)}
    groups |= {f"from zone {zone}": trips.pickup_zone == zone for zone in np.unique(trips.pickup_zone)}
    groups |= {f"to zone {zone}": trips.dropoff_zone == zone for zone in np.unique(trips.dropoff_zone)}
    groups |= {f"mile {mile}": trips.trip_distance_miles.astype(int) == mile for mile in range(30)}
    groups |= {f"{low}+ minutes": (best >= low) & (best < low + 10) for low in range(0, 60, 10)}
    groups |= {"zero distance": trips.trip_distance_miles == 0, "absurd distance": trips.trip_distance_miles > 100}
    scores = {
        name: missed[rows].mean() / missed[rows].std() * np.sqrt(rows.sum())
        for name, rows in groups.items()
        if rows.sum() > 100
    }
    assert len(scores) > 300
    assert {name: score for name, score in scores.items() if abs(score) > 4.5} == {}


def test_an_unknown_distance_costs_accuracy_and_is_averaged_over() -> None:
    source = "simulated?trips=120000"
    trips, city = kept_trips(source), City.parse(source)
    known = honest(trips)
    best = city.best_prediction(JANUARY, trips)
    assert rmse(best[~known], trips[~known]) > 1.15 * rmse(best[known], trips[known])
    trips, best = trips[:10_000], best[:10_000]
    pretend = Trips(trips.pickup_datetime, trips.pickup_zone, trips.dropoff_zone, np.zeros(len(trips)))
    blind = city.best_prediction(JANUARY, pretend)
    np.testing.assert_allclose(blind[trips.trip_distance_miles == 0], best[trips.trip_distance_miles == 0])
    far = Trips(trips.pickup_datetime, trips.pickup_zone, trips.dropoff_zone, np.full(len(trips), 5000.0))
    np.testing.assert_array_equal(city.best_prediction(JANUARY, far), blind)


def test_a_simple_model_is_clearly_worse() -> None:
    trained, judged = kept_trips(), kept_trips(month=FEBRUARY)
    line = np.polyfit(trained.trip_distance_miles[honest(trained)], minutes_of(trained)[honest(trained)], 1)
    judged = judged[honest(judged)]
    assert rmse(np.polyval(line, judged.trip_distance_miles), judged) > 1.25 * City().irreducible_rmse(
        "green", FEBRUARY
    )


def test_the_best_prediction_lies_within_the_kept_minutes() -> None:
    trips = kept_trips()
    best = City().best_prediction(JANUARY, trips)
    assert best.dtype == np.float64
    assert best.min() > 1
    assert best.max() < 60


# --- Drifts ---

DRIFTS = ("slower_streets", "closed_bridge", "new_zones", "bad_rows")


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_changes_its_months_and_no_other(drift: str) -> None:
    calm = {month: table("simulated?trips=3000", month=Month(2021, month)) for month in (5, 6, 7)}
    changed = {
        month: table(f"simulated?trips=3000&{drift}=2021-06..2021-06", month=Month(2021, month)) for month in (5, 6, 7)
    }
    stays = table(f"simulated?trips=3000&{drift}=2021-06", month=Month(2021, 7))
    assert changed[5].equals(calm[5])
    assert not changed[6].equals(calm[6])
    assert changed[7].equals(calm[7])
    assert not stays.equals(calm[7])


def test_slower_streets_make_the_same_miles_last_longer() -> None:
    calm, slow = kept_trips(), kept_trips("simulated?slower_streets=2021-01:0.5")
    near = [trips[honest(trips) & (trips.trip_distance_miles < 2)] for trips in (calm, slow)]
    pace = [np.median(minutes_of(trips) / trips.trip_distance_miles) for trips in near]
    assert 1.7 < pace[1] / pace[0] < 2.0  # setting off and bridges take as long as before


def test_a_closed_bridge_makes_trips_across_the_river_longer_and_no_others() -> None:
    source = "simulated?closed_bridge=2021-01"
    borough = np.array(["", *(zone.borough for zone in ZONES)])

    def mean_of(trips: Trips, ends: set[str]) -> tuple[float, float]:
        pairs = zip(borough[trips.pickup_zone], borough[trips.dropoff_zone], strict=True)
        rows = np.array([{a, b} == ends for a, b in pairs]) & honest(trips)
        return trips.trip_distance_miles[rows].mean(), minutes_of(trips)[rows].mean()

    (miles, minutes), (detour, delay) = (mean_of(kept_trips(s), {"Manhattan", "Bronx"}) for s in ("simulated", source))
    assert detour > miles + 0.3
    assert delay > minutes + 4
    assert mean_of(kept_trips(source), {"Brooklyn"}) == mean_of(kept_trips(), {"Brooklyn"})


def test_new_zones_had_no_demand_and_then_have_their_share() -> None:
    calm, fashion = kept_trips(), kept_trips("simulated?new_zones=2021-01:0.4")
    before = np.bincount(calm.pickup_zone, minlength=266) / len(calm)
    after = np.bincount(fashion.pickup_zone, minlength=266) / len(fashion)
    risen = np.flatnonzero(after - before > 0.02)
    assert len(risen) == 12
    assert before[risen].sum() < 0.001
    assert after[risen].sum() == pytest.approx(0.4, abs=0.03)


def test_bad_rows_are_of_every_kind_that_cannot_be_read() -> None:
    trips = all_trips(table("simulated?bad_rows=2021-01:0.6"))
    no_zone, negative, no_time = (
        np.mean(rows) for rows in (trips.dropoff_zone == 0, trips.trip_distance_miles < 0, minutes_of(trips) == 0)
    )
    assert [no_zone, negative, no_time] == pytest.approx([0.2, 0.2, 0.2], abs=0.01)


def test_bad_rows_leave_the_good_ones_as_they_were() -> None:
    good, calm = kept_trips("simulated?bad_rows=2021-01"), kept_trips()
    assert len(good) / len(calm) == pytest.approx(0.5, abs=0.01)
    assert np.isin(good.pickup_datetime, calm.pickup_datetime).all()
    assert City.parse("simulated?bad_rows=2021-01").irreducible_rmse("green", JANUARY) == City().irreducible_rmse(
        "green", JANUARY
    )


@pytest.mark.parametrize("drift", ["slower_streets", "closed_bridge"])
def test_a_change_of_traffic_spoils_what_was_the_best_prediction_before_it(drift: str) -> None:
    source = f"simulated?{drift}=2021-01"
    trips, city = kept_trips(source), City.parse(source)
    error = rmse(city.best_prediction(JANUARY, trips), trips)
    assert error == pytest.approx(city.irreducible_rmse("green", JANUARY), rel=0.02)
    assert rmse(City().best_prediction(JANUARY, trips), trips) > 1.05 * error


def test_new_zones_keep_the_law_but_go_against_what_one_learns_elsewhere() -> None:
    trips = kept_trips("simulated?new_zones=2021-01")
    city = City.parse("simulated?new_zones=2021-01")
    best = city.best_prediction(JANUARY, trips)
    np.testing.assert_array_equal(best, City().best_prediction(JANUARY, trips))
    calm = np.bincount(kept_trips().pickup_zone, minlength=266)
    trips = trips[honest(trips) & (trips.trip_distance_miles < 3)]
    new = calm[trips.pickup_zone] < 10
    pace = minutes_of(trips) / trips.trip_distance_miles
    assert np.median(pace[new]) > 1.2 * np.median(pace[~new])


# --- The source as it is written ---


def test_a_plain_source_is_the_default_city() -> None:
    assert City.parse("simulated") == City() == City(seed=42)


def test_every_option_is_read() -> None:
    june, august = Month(2021, 6), Month(2021, 8)
    options = "trips=5000&seed=7&slower_streets=2021-06:0.7&closed_bridge=2021-06..2021-08&new_zones=2021-08"
    assert City.parse(f"simulated?{options}&bad_rows=2021-08..2021-08:0.9") == City(
        seed=7,
        trips=5000,
        slower_streets=Drift(june, None, 0.7),
        closed_bridge=Drift(june, august, 3.0),
        new_zones=Drift(august, None, 0.3),
        bad_rows=Drift(august, august, 0.9),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simulation", "'simulation' is not a simulated city"),
        ("simulated?speed=2", "no option 'speed': it has seed, trips, slower_streets, closed_bridge, new_zones, bad"),
        ("simulated?trips=many", "The option trips of a simulated city is 'many': give a whole number"),
        ("simulated?trips", "The option trips of a simulated city is '': give a whole number"),
        ("simulated?trips=0", "month of 0 trips is empty: give 1 or more"),
        ("simulated?seed=-1", "seed of a simulated city is -1: give 0 or more"),
        ("simulated?new_zones=soon", "'soon' is not a month: write it as YYYY-MM"),
        ("simulated?new_zones=2021-06:much", "strength of new_zones is 'much': give a number"),
        ("simulated?new_zones=2021-06:1.5", "strength of new_zones is 1.5: give 0 to 0.9"),
        ("simulated?slower_streets=2021-06:nan", "strength of slower_streets is nan: give 0.1 to 2"),
        ("simulated?bad_rows=2021-06..2021-05", "'2021-06..2021-05' of bad_rows run backwards"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message.replace("?", r"\?")):
        City.parse(text)
