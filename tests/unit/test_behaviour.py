"""What riders take for granted of predictions, and how far off they are, in a simulated city and published months."""

import os
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tripcast.jobs.train import train
from tripcast.models import Model
from tripcast.months import Month
from tripcast.taxi.simulation import City
from tripcast.taxi.trips import Trip, Trips
from tripcast.taxi.ways import METERED, PLANNED, ZONES_ONLY, as_asked
from tripcast.taxi.zones import PLACES, ZONES

pytestmark = pytest.mark.slow

#: A Wednesday, a day after those that the models learned from.
DAY = np.datetime64("2021-02-03", "s")

#: Zones with many trips, in Manhattan, Queens and Brooklyn.
BUSY = (7, 41, 42, 43, 74, 75, 82, 95, 97, 116, 166, 236, 237, 238, 244)

COLUMNS = ["lpep_pickup_datetime", "lpep_dropoff_datetime", "PULocationID", "DOLocationID", "trip_distance"]


def kept(table: pa.Table) -> Trips:
    """The trips of a table of green taxis that keep the contract, by the notebook's rule."""
    pickup, dropoff, start, end, miles = (table[name].to_numpy() for name in COLUMNS)
    minutes = (dropoff - pickup) / np.timedelta64(1, "m")
    trips = Trips(pickup.astype("M8[us]"), start.astype(np.int16), end.astype(np.int16), miles, minutes)
    return trips[(minutes >= 1) & (minutes <= 60)]


def published(folder: Path, *months: str) -> Trips:
    """The trips of green months."""
    files = [folder / f"green_tripdata_{month}.parquet" for month in months]
    return kept(pa.concat_tables(pq.read_table(file, columns=COLUMNS) for file in files))


@pytest.fixture(scope="module")
def simulated() -> Model:
    trips = kept(pa.Table.from_batches(City(trips=40_000).month("green", Month(2021, 1))))
    return train("lightgbm", trips, taxi="green", data={})


@pytest.fixture(scope="module")
def real(tlc) -> Model:
    return train("lightgbm", published(tlc, "2021-01"), taxi="green", data={})


@pytest.fixture(params=["simulated", "real"] if "TRIPCAST_TLC_DIR" in os.environ else ["simulated"])
def model(request) -> Model:
    return request.getfixturevalue(request.param)


def minutes(model: Model, zones: np.ndarray, miles: np.ndarray, hour: int) -> np.ndarray:
    """What riders who ask at an hour are told, (n,); zones (n, 2), miles (n,)."""
    at = int((DAY + np.timedelta64(hour, "h")).astype(np.int64))
    asked = zip(*zones.T.tolist(), miles.tolist(), strict=True)
    return model.predict(Trips.of([Trip(start, end, way, at) for start, end, way in asked])).minutes


@pytest.mark.parametrize("hour", [3, 8, 13, 18])
def test_more_miles_never_mean_fewer_minutes(model, hour):
    zones = np.random.default_rng(hour).integers(1, 266, (200, 2))
    miles = np.geomspace(0.05, 60, 60)
    found = [minutes(model, zones, np.full(200, way), hour) for way in miles]
    assert (np.diff(found, axis=0) >= 0).all()
    assert (found[-1] > 1.5 * found[0]).all()


def test_a_trip_at_night_is_faster_than_one_in_the_rush_hour(model):
    zones = np.random.default_rng(0).choice(BUSY, (300, 2))
    zones = zones[zones[:, 0] != zones[:, 1]]
    nowhere = np.full(len(zones), np.nan)
    slower = minutes(model, zones, nowhere, 18) / minutes(model, zones, nowhere, 3)
    assert np.mean(slower > 1) > 0.95
    assert 1.1 < np.median(slower) < 1.8


def test_a_trip_from_a_zone_beside_another_is_no_surprise(model):
    city = [zone.number for zone in ZONES if zone.borough == "Manhattan" and zone.number in PLACES]
    places = np.array([PLACES[zone] for zone in city])
    far = np.hypot(*(places - PLACES[74]).T) > 2
    zones = np.column_stack([city, np.full(len(city), 74)])
    found = minutes(model, zones, np.full(len(city), np.nan), 13)
    apart = np.hypot(*(places[:, None] - places).transpose(2, 0, 1))
    one, other = np.nonzero((apart > 0) & (apart < 0.8) & far[:, None] & far)
    surprise = np.abs(np.log(found[one] / found[other]))
    assert len(surprise) > 50
    assert np.median(surprise) < 0.15
    assert np.quantile(surprise, 0.95) < 0.5


def scores(model: Model, trips: Trips) -> tuple[float, float, float]:
    """RMSE and MAE in minutes, and the coverage of the interval."""
    found, actual = model.predict(trips, metered=True), trips.duration_minutes
    errors = found.minutes - actual
    within = (found.lower <= actual) & (actual <= found.upper)
    return float(np.sqrt(np.mean(errors**2))), float(np.mean(np.abs(errors))), float(np.mean(within))


#: By the number of a zone.
BOROUGHS = np.array(["", *(zone.borough for zone in sorted(ZONES, key=attrgetter("number")))])


def test_lightgbm_is_accurate_and_its_interval_honest_on_a_published_month(tlc, real):
    check_accuracy(real, published(tlc, "2021-02"), most_rmse=5.12, most_mae=3.33)


def test_lightgbm_is_accurate_and_its_interval_honest_after_two_published_months(tlc):
    model = train("lightgbm", published(tlc, "2022-01", "2022-02"), taxi="green", data={})
    check_accuracy(model, published(tlc, "2022-03"), most_rmse=4.35, most_mae=2.75)


def check_accuracy(model: Model, later: Trips, most_rmse: float, most_mae: float) -> None:
    """On a later month, in minutes: errors, and how many trips end within their interval, for each group of trips."""
    rmse, mae, _ = scores(model, later)
    assert rmse <= most_rmse
    assert mae <= most_mae
    for way, trips in as_asked(later).items():
        found, actual = model.predict(trips, metered=way == METERED), trips.duration_minutes
        within = (found.lower <= actual) & (actual <= found.upper)
        assert 0.77 <= within.mean() <= 0.84, way
        groups = model.predictor.groups(trips, way == METERED)
        inside = np.where(trips.pickup_zone == trips.dropoff_zone, "in a zone", "between zones")
        boroughs = BOROUGHS[trips.pickup_zone]
        for slices in (groups, inside, boroughs):
            for name in np.unique(slices).tolist():
                rows = slices == name
                # Whoever asks with a plan has one: that of records without a reading would be none.
                if rows.sum() >= 1000 and not (way == PLANNED and name.startswith(ZONES_ONLY)):
                    assert within[rows].mean() >= 0.75, (way, name)


def test_linear_reproduces_the_notebook_on_published_months(tlc):
    trips, later = published(tlc, "2021-01"), published(tlc, "2021-02")
    assert (len(trips), len(later)) == (73_908, 61_921)
    rmse, mae, coverage = scores(train("linear", trips, taxi="green", data={}), later)
    assert rmse == pytest.approx(7.759, abs=0.005)
    assert mae == pytest.approx(5.340, abs=0.005)
    assert 0.78 <= coverage <= 0.82
