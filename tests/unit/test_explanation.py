"""Why a prediction is what it is."""

import numpy as np
import pytest
from msgspec.structs import astuple

from tests.conftest import make_trips
from tripcast.jobs.train import train
from tripcast.models import Model
from tripcast.taxi.candidates import lightgbm
from tripcast.taxi.explanation import SHARES, Explanation, explain
from tripcast.taxi.features import FEATURES
from tripcast.taxi.trips import Trip


def at(clock: str) -> int:
    return int(np.datetime64(f"2021-01-20T{clock}", "s").astype(np.int64))


@pytest.fixture(scope="module")
def boosted() -> Model:
    trips = make_trips(8000)
    assert trips.duration_minutes is not None
    hour = trips.pickup_datetime.astype("datetime64[h]").astype(np.int64) % 24
    trips.duration_minutes[:] = np.minimum(trips.duration_minutes * np.where((hour >= 7) & (hour < 20), 1.5, 1.0), 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lightgbm.DEFAULTS, "rounds", 50)
        return train("lightgbm", trips, taxi="green", data={"2021-01": "1" * 64})


def explained(model: Model, trip: Trip) -> Explanation:
    explanation = explain(model, trip, model.predict_one(trip)[0])
    assert explanation is not None
    return explanation


TRIPS = [
    Trip(pickup, dropoff, miles, at(clock))
    for pickup, dropoff in ((74, 236), (166, 41), (264, 1))
    for miles in (np.nan, 0.4, 3.0, 12.0)
    for clock in ("03:30:00", "18:00:00")
]


@pytest.mark.parametrize("trip", TRIPS)
def test_an_average_trip_and_what_moves_it_add_up_to_the_prediction(boosted, trip):
    assert sum(astuple(explained(boosted, trip))) == pytest.approx(boosted.predict_one(trip)[0], abs=1e-6)


def test_the_difference_between_two_hours_is_put_down_to_the_hour(boosted):
    night, day = (Trip(74, 236, 2.3, at(clock)) for clock in ("03:30:00", "12:30:00"))
    minutes = boosted.predict_one(day)[0] - boosted.predict_one(night)[0]
    assert minutes > 2
    assert explained(boosted, day).hour - explained(boosted, night).hour == pytest.approx(minutes, rel=0.35)


def test_the_difference_between_two_plans_is_put_down_to_the_distance(boosted):
    short, long = (Trip(74, 236, miles, at("12:30:00")) for miles in (1.0, 6.0))
    minutes = boosted.predict_one(long)[0] - boosted.predict_one(short)[0]
    assert minutes > 10
    assert explained(boosted, long).distance - explained(boosted, short).distance == pytest.approx(minutes, rel=0.25)


def test_every_feature_has_its_share_in_what_is_told():
    assert set(SHARES) | {"estimate", "usual_estimate"} == set(FEATURES)
    assert {sum(shares) for shares in SHARES.values()} == {1}


def test_a_model_that_is_not_made_of_trees_explains_nothing():
    linear = train("linear", make_trips(), taxi="green", data={"2021-01": "1" * 64})
    assert explain(linear, TRIPS[0], 12.0) is None
