"""The feeds of for-hire vehicles, served: one with distances, and one that says nothing of them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.parts import wait_for
from tests.serving.conftest import TRIP, Answering, Home, settings_in
from tripcast.jobs.train import train
from tripcast.months import Month
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.taxi import model_name
from tripcast.taxi.contract import sort_rows
from tripcast.taxi.ingestion import typed_batches
from tripcast.taxi.pyfunc import flavour
from tripcast.taxi.sources import open_source
from tripcast.taxi.trips import Trips


def trips_of(taxi: str, folder: Path) -> Trips:
    """Trips of a simulated month that keep the contract."""
    month = open_source("simulated?trips=6000&seed=7", folder).month(taxi, Month(2021, 1))
    kept = [sort_rows(batch)[0] for batch in typed_batches(month, taxi)]
    columns = (np.concatenate([batch[name].to_numpy() for batch in kept]) for name in kept[0].schema.names)
    return Trips(*columns)


@pytest.fixture(scope="module")
def hired(tmp_path_factory, empty_store, start_in) -> Answering:
    """A service with a champion of each feed of for-hire vehicles."""
    home = Home(tmp_path_factory.mktemp("hired"), {})
    shutil.copy(empty_store, home.store)
    settings = settings_in(home.folder)
    for taxi in ("fhvhv", "fhv"):
        folder = home.folder / "trained" / taxi
        train("lightgbm", trips_of(taxi, folder), taxi=taxi, data={"2021-01": "1" * 64}).save(folder)
        with Tracker(model_name(taxi), settings).pipeline_run(taxi, taxi) as run_id:
            registry = Registry(model_name(taxi), settings)
            registry.register(folder, flavour=flavour(taxi), run_id=run_id, tags={})
        registry.promote(1, "It is the first.")
    service = start_in(home)
    wait_for(lambda: len(service.client.get("/readyz").json()["versions"]) == 2, service.output)
    return service


def test_a_planned_distance_is_for_a_feed_that_has_distances(hired):
    zones_only = {name: value for name, value in TRIP.items() if name != "trip_distance_miles"}
    answers = {
        (taxi, planned): hired.predict({**trip, "taxi": taxi})
        for taxi in ("fhvhv", "fhv")
        for planned, trip in ((True, {**TRIP, "trip_distance_miles": 9.0}), (False, zones_only))
    }
    assert [answer["way"] for answer in answers.values()] == ["planned", "zones_only", "zones_only", "zones_only"]
    minutes = {asked: answer["duration_minutes"] for asked, answer in answers.items()}
    assert minutes["fhvhv", True] > minutes["fhvhv", False] + 1  # nine miles between neighbours take their time
    assert minutes["fhv", True] == minutes["fhv", False]


def test_nor_is_one_in_a_batch_in_tensors_or_on_the_page(hired):
    trips = [{**TRIP, "trip_distance_miles": 9.0}, {**TRIP, "trip_distance_miles": None}]
    first, second = hired.client.post("/predict/batch", json={"trips": trips, "taxi": "fhv"}).json()["predictions"]
    assert (first["way"], first["duration_minutes"]) == ("zones_only", second["duration_minutes"])
    kinds = {"pickup_datetime": "BYTES", "pickup_zone": "INT64", "dropoff_zone": "INT64", "trip_distance_miles": "FP64"}
    columns = {**TRIP, "trip_distance_miles": 9.0}
    tensors = [{"name": name, "datatype": kinds[name], "shape": [1], "data": [columns[name]]} for name in kinds]
    (minutes, *_) = hired.client.post("/v2/models/tripcast-fhv/infer", json={"inputs": tensors}).json()["outputs"]
    assert minutes["data"] == [pytest.approx(second["duration_minutes"])]
    day = {"pickup_zone": 74, "dropoff_zone": 236, "date": "2021-01-20", "taxi": "fhv"}
    curves = [hired.client.get("/explore", params=day | miles).json()["arms"] for miles in ({}, {"miles": 9})]
    assert curves[0] == curves[1]


def test_the_page_is_told_whose_model_knows_miles_and_offers_a_planned_route_there_alone(hired):
    day = {"pickup_zone": 74, "dropoff_zone": 236, "date": "2021-01-20"}
    knows = {
        taxi: hired.client.get("/explore", params=day | {"taxi": taxi}).json()["knows_miles"]
        for taxi in ("fhvhv", "fhv")
    }
    assert knows == {"fhvhv": True, "fhv": False}


def test_what_was_answered_is_logged_as_it_was_asked(hired):
    answer = hired.predict({**TRIP, "taxi": "fhv"})

    def logged() -> list[dict[str, object]]:
        files = sorted(hired.log.rglob("*.parquet"))
        rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
        return [row for row in rows if row["prediction_id"] == answer["prediction_id"]]

    wait_for(lambda: bool(logged()), hired.output)
    (row,) = logged()
    assert (row["model"], row["way"]) == ("tripcast-fhv", "zones_only")
    assert row["trip_distance_miles"] is None or np.isnan(row["trip_distance_miles"])
