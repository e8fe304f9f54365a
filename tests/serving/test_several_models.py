"""One service for several registered models: each has its own arms, versions that are refused, metrics and log."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import pyarrow.parquet as pq
import pytest

from tests.parts import wait_for
from tests.serving.conftest import LONG_TRIP, TOKEN, TRIP, Answering, Home, settings_in
from tripcast.errors import DeploymentError
from tripcast.jobs.deploy import deploy
from tripcast.models import Model
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.taxi.pyfunc import flavour

GREEN, YELLOW = "tripcast-green", "tripcast-yellow"

TENSORS = {
    "inputs": [
        {"name": name, "datatype": datatype, "shape": [1], "data": [TRIP[name]]}
        for name, datatype in (("pickup_datetime", "BYTES"), ("pickup_zone", "INT64"), ("dropoff_zone", "INT64"))
    ]
}


def yellow_of(home: Home) -> Registry:
    return Registry(YELLOW, settings_in(home.folder))


def add_yellow(home: Home, models) -> dict[str, int]:
    """Register models of another taxi, none of which serves; their versions, in an order of their own."""
    settings, versions = settings_in(home.folder), {}
    for name in ("linear", "boosted", "finite on short trips only", "never finite"):
        with Tracker(YELLOW, settings).pipeline_run(name, name) as run_id:
            tags = {"tripcast.test_month": "2021-02"}
            version = Registry(YELLOW, settings).register(
                models[name], flavour=flavour("green"), run_id=run_id, tags=tags
            )
        versions[name] = version.number
    return versions


@pytest.fixture(scope="module")
def registered_yellow(new_home, models) -> tuple[Home, dict[str, int]]:
    home = new_home()
    return home, add_yellow(home, models)


@pytest.fixture
def two(new_home, registered_yellow) -> tuple[Home, dict[str, int]]:
    """A home with a green champion, and yellow versions of which none serves yet."""
    source, versions = registered_yellow
    home = new_home()
    shutil.copy(source.store, home.store)
    home.registry.promote(home.versions["boosted"], "It is the first.")
    return home, versions


@pytest.fixture(scope="module")
def both(new_home, registered_yellow, start_in) -> tuple[Home, dict[str, int], Answering]:
    """A service with a champion of either; yellow's is the model that is green's challenger elsewhere."""
    source, versions = registered_yellow
    home = new_home()
    shutil.copy(source.store, home.store)
    home.registry.promote(home.versions["boosted"], "It is the first.")
    yellow_of(home).promote(versions["linear"], "It is the first.")
    return home, versions, start_in(home)


@pytest.fixture
def start(start_in) -> Iterator[Callable[[Home], Answering]]:
    """Starts services, and tells them to stop after the test."""
    started: list[Answering] = []

    def start(home: Home) -> Answering:
        started.append(start_in(home))
        return started[-1]

    yield start
    for service in started:
        service.process.terminate()


def minutes(model: Model) -> float:
    from tripcast.taxi.web.version_check import KNOWN_TRIP

    return model.predict_one(KNOWN_TRIP)[0]


KNOWN = {**TRIP, "pickup_datetime": "2021-02-10T08:15:00"}


@pytest.mark.parametrize(
    ("named", "model", "kind"),
    [({}, GREEN, "boosted"), ({"taxi": None}, GREEN, "boosted"), ({"taxi": "yellow"}, YELLOW, "linear")],
)
def test_each_taxi_is_answered_by_its_own_model_and_the_first_where_none_is_named(both, models, named, model, kind):
    _, _, service = both
    expected = pytest.approx(minutes(Model.load(models[kind])))

    answer = service.predict({**KNOWN, **named})
    assert (answer["model"], answer["version"], answer["duration_minutes"]) == (model, 1, expected)
    (of_batch,) = service.client.post("/predict/batch", json={"trips": [KNOWN], **named}).json()["predictions"]
    assert (of_batch["model"], of_batch["duration_minutes"]) == (model, expected)
    explained = service.predict({**KNOWN, **named, "explain": True})["explanation"]
    assert (explained is None) == (kind == "linear")
    query = {"pickup_zone": 74, "dropoff_zone": 236, "date": "2021-02-10", "miles": 2.3}
    query |= {"taxi": named["taxi"]} if named.get("taxi") else {}
    assert service.client.get("/explore", params=query).json()["arms"]["champion"]["minutes"][16] > 0


def test_a_model_is_named_by_the_open_inference_protocol(both):
    _, _, service = both
    for name, versions in ((GREEN, ["1"]), (YELLOW, ["1"])):
        assert service.client.get(f"/v2/models/{name}").json()["versions"] == versions
        assert service.client.get(f"/v2/models/{name}/ready").json() == {"name": name, "ready": True}
        for place in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/1/infer"):
            answer = service.client.post(place, json=TENSORS)
            assert (answer.status_code, answer.json()["model_name"]) == (200, name), answer.text

    for method, place in (("GET", ""), ("GET", "/ready"), ("GET", "/versions/1"), ("POST", "/infer")):
        answer = service.client.request(method, f"/v2/models/tripcast-red{place}", json=TENSORS)
        assert answer.status_code == 404
        assert answer.json()["error"] == f"No model 'tripcast-red' serves here, only {GREEN} and {YELLOW}."


@pytest.mark.parametrize(
    ("taxi", "says"),
    [
        ("red", 'There is no taxi "red". Those that serve: green, yellow.'),
        ("Green", 'There is no taxi "Green". Those that serve: green, yellow.'),
        ("", 'There is no taxi "". Those that serve: green, yellow.'),
        ("x" * 1000, "…. Those that serve: green, yellow."),
        (7, "taxi is 7: one of "),
        (True, "taxi is true: one of "),
        (["green"], "taxi is a list of 1: one of "),
        ({"name": "green"}, 'taxi is {"name": "green"}: one of '),
    ],
)
def test_a_taxi_that_is_none_is_refused_with_those_that_serve(both, taxi, says):
    _, _, service = both
    asked = [
        service.client.post("/predict", json={**TRIP, "taxi": taxi}),
        service.client.post("/predict/batch", json={"trips": [TRIP], "taxi": taxi}),
    ]
    if isinstance(taxi, str):
        day = {"pickup_zone": 74, "dropoff_zone": 236, "date": "2021-02-10", "taxi": taxi}
        asked += [service.client.get("/explore", params=day), service.client.get("/model", params={"taxi": taxi})]
    for answer in asked:
        assert (answer.status_code, answer.json()["field"]) == (422, "taxi")
        assert says in answer.json()["error"]
        assert len(answer.json()["error"]) < 300


def test_a_trip_of_a_batch_names_no_taxi(both):
    _, _, service = both
    answer = service.client.post("/predict/batch", json={"trips": [{**TRIP, "taxi": "green"}]})

    assert (answer.status_code, answer.json()["field"]) == (422, "trips[0].taxi")


def test_each_model_is_described_on_its_own(both):
    _, _, service = both
    green, yellow = (service.client.get("/model", params={"taxi": taxi}).json() for taxi in ("green", "yellow"))

    assert list(green["taxis"].items())[:2] == [("green", "green taxi"), ("yellow", "yellow taxi")]
    assert green == service.client.get("/model").json()
    assert [(said["model"], said["champion"]["candidate"]) for said in (green, yellow)] == [
        (GREEN, "lightgbm"),
        (YELLOW, "linear"),
    ]
    html = {"accept": "text/html"}
    assert "The card of the boosted model" in service.client.get("/model", headers=html).text
    assert service.client.get("/model", params={"taxi": "yellow"}, headers=html).json() == yellow
    ready = service.client.get("/readyz").json()
    assert (ready["versions"], ready["problems"]) == ({GREEN: 1, YELLOW: 1}, [])
    told = service.client.post("/reload", params={"taxi": "yellow"}, headers={"authorization": f"Bearer {TOKEN}"})
    assert told.json()["model"] == YELLOW


def test_requests_predictions_and_arms_are_counted_by_model(both):
    _, _, service = both
    names = [
        f'tripcast_{metric}{{{before}model="{model}"{after}}}'
        for model in (GREEN, YELLOW)
        for metric, before, after in (
            ("requests_total", "", ',route="/predict",status="200"'),
            ("request_seconds_count", "", ',route="/predict"'),
            ("predictions_total", 'arm="champion",', ',version="1"'),
        )
    ]
    before = [service.metric(name) for name in names]
    for taxi in ("green", "yellow", "yellow"):
        service.predict({**TRIP, "taxi": taxi})

    assert [service.metric(name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 1, 2, 2, 2]
    for model in (GREEN, YELLOW):
        assert service.metric(f'tripcast_share{{arm="champion",model="{model}"}}') == 1
        assert service.metric(f'tripcast_poller_last_poll_age_seconds{{model="{model}"}}') < 60


def test_one_poller_follows_all_models(both):
    _, _, service = both
    children = f"/proc/{service.process.pid}/task/{service.process.pid}/children"
    with open(children) as listed:
        assert len(listed.read().split()) == 1


def test_a_model_that_appears_later_is_taken_up_and_one_that_has_no_champion_is_no_problem(two, start):
    home, versions = two
    service = start(home)
    missing = service.client.post("/predict", json={**TRIP, "taxi": "yellow"})

    assert (missing.status_code, missing.json()["field"]) == (404, "taxi")
    assert missing.json()["error"] == (
        "The taxi 'yellow' does not serve. tripcast-yellow has no champion: 'tripcast train' or 'tripcast promote' "
        "makes one. Those that serve: green."
    )
    assert service.client.get(f"/v2/models/{YELLOW}").status_code == 404
    assert service.client.get("/readyz").json()["problems"] == []
    assert service.metric(f'tripcast_poller_failures_total{{model="{YELLOW}"}}') == 0
    assert list(service.client.get("/model").json()["taxis"]) == ["green"]

    yellow_of(home).promote(versions["boosted"], "It is the first.")
    wait_for(lambda: service.client.post("/predict", json={**TRIP, "taxi": "yellow"}).status_code == 200)
    assert service.predict({**TRIP, "taxi": "yellow"})["version"] == versions["boosted"]
    assert list(service.client.get("/model").json()["taxis"]) == ["green", "yellow"]
    assert service.predict()["model"] == GREEN


def test_the_only_model_is_the_first_whichever_it_is_and_nothing_is_made_for_the_others(
    new_home, registered_yellow, start
):
    source, versions = registered_yellow
    home = new_home()
    shutil.copy(source.store, home.store)
    yellow_of(home).promote(versions["linear"], "It is the first.")
    experiments = {experiment.name for experiment in home.client.search_experiments()}
    service = start(home)

    assert service.predict()["model"] == YELLOW
    assert {experiment.name for experiment in home.client.search_experiments()} == experiments


def test_a_version_that_is_refused_leaves_the_other_model_alone(two, start):
    home, versions = two
    yellow_of(home).promote(versions["linear"], "It is the first.")
    service = start(home)
    yellow_of(home).promote(versions["never finite"], "By mistake.")
    home.registry.promote(home.versions["linear"], "Better.")
    green = service.reload()
    yellow = service.client.get("/model", params={"taxi": "yellow"}).json()

    assert (green["champion"]["version"], green["problems"]) == (home.versions["linear"], [])
    assert yellow["champion"]["version"] == versions["linear"]
    assert "predicts nan minutes" in yellow["problems"][0]
    assert service.client.get("/readyz").json()["problems"] == yellow["problems"]
    assert service.metric(f'tripcast_poller_failures_total{{model="{YELLOW}"}}') >= 1
    assert service.metric(f'tripcast_poller_failures_total{{model="{GREEN}"}}') == 0
    for taxi, version in (("green", home.versions["linear"]), ("yellow", versions["linear"])):
        assert service.predict({**TRIP, "taxi": taxi})["version"] == version


def test_a_service_that_starts_answers_nobody_before_every_champion_is_loaded(two, start_in):
    home, versions = two
    yellow_of(home).promote(versions["linear"], "It is the first.")
    home.registry.promote(home.versions["never finite"], "By mistake.")
    service = start_in(home, ready=False)

    def sentence() -> str:
        return service.client.get("/readyz").json().get("error", "")

    wait_for(lambda: "predicts nan minutes" in sentence() and "has not answered" not in sentence())
    # A green trip that names no taxi is not for yellow's model.
    assert service.client.post("/predict", json=TRIP).status_code == 503
    home.registry.promote(home.versions["boosted"], "It was one.")
    wait_for(lambda: service.client.get("/readyz").status_code == 200)
    assert service.predict()["model"] == GREEN


def test_a_deployment_waits_for_its_own_model_and_judges_its_canary_alone(two, start):
    home, versions = two
    service = start(home)
    url = str(service.client.base_url)

    assert deploy(yellow_of(home), versions["boosted"], 1.0, url) == "Version 2 answers every rider."
    assert service.predict({**TRIP, "taxi": "yellow"})["version"] == versions["boosted"]
    # Green's challenger fails while yellow's canary is watched.
    home.registry.challenger(home.versions["finite on short trips only"], 1.0, "It seems well.")
    service.reload()
    service.predict(LONG_TRIP)
    deploy(yellow_of(home), versions["linear"], 1.0, url, canary_minutes=0.02)
    assert service.predict({**TRIP, "taxi": "yellow"})["version"] == versions["linear"]
    with pytest.raises(DeploymentError, match=r"did not take up tripcast-yellow version \d+"):
        deploy(yellow_of(home), versions["never finite"], 1.0, url, patience=5)
    assert home.registry.traffic().champion.number == home.versions["boosted"]
    assert service.predict({**TRIP, "taxi": "yellow"})["version"] == versions["linear"]


def test_every_answer_of_every_model_is_logged_once_through_a_kill(two, start):
    home, versions = two
    yellow_of(home).promote(versions["linear"], "It is the first.")
    ids: dict[str, str] = {}
    for _ in range(2):
        service = start(home)
        durable = {"tripcast-durable": "true"}
        for taxi, model in (("green", GREEN), ("yellow", YELLOW)) * 3:
            answer = service.client.post("/predict", json={**TRIP, "taxi": taxi, "rider_id": "r"}, headers=durable)
            ids[answer.json()["prediction_id"]] = model
            place = f"/v2/models/{model}/infer"
            outputs = service.client.post(place, json=TENSORS, headers=durable).json()["outputs"]
            ids |= dict.fromkeys(outputs[3]["data"], model)
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
    last = start(home)
    ids[last.predict({**TRIP, "taxi": "yellow"})["prediction_id"]] = YELLOW
    last.process.send_signal(signal.SIGTERM)
    assert last.process.wait(20) == 0

    rows = pq.read_table(last.log).to_pylist()
    assert {row["prediction_id"]: row["model"] for row in rows} == ids
    assert len(rows) == len(ids)
    assert Counter(row["model"] for row in rows) == {GREEN: 12, YELLOW: 13}


def test_a_service_starts_with_all_that_served_last(two, start):
    home, versions = two
    yellow_of(home).promote(versions["linear"], "It is the first.")
    first = start(home)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    home.store.write_bytes(b"This is no database." * 500)

    second = start(home)
    assert second.client.get("/readyz").json()["versions"] == {GREEN: 1, YELLOW: versions["linear"]}
    with httpx.Client(base_url=second.client.base_url) as client:
        assert client.post("/predict", json={**TRIP, "taxi": "yellow"}).json()["model"] == YELLOW


def test_a_service_whose_copy_of_a_model_is_damaged_does_not_start_without_it(two, start, start_in):
    home, versions = two
    yellow_of(home).promote(versions["linear"], "It is the first.")
    first = start(home)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    content = home.store.read_bytes()
    home.store.write_bytes(b"This is no database." * 500)
    [copy] = home.folder.rglob(f"{GREEN}/deployment.json")
    copy.write_bytes(b"damaged")

    second = start_in(home, ready=False)
    assert second.client.post("/predict", json=TRIP).status_code == 503
    home.store.write_bytes(content)
    wait_for(lambda: second.client.get("/readyz").status_code == 200)
    assert second.predict()["model"] == GREEN
