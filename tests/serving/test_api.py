"""What the service answers."""

from math import sqrt

import httpx
import numpy as np
import pytest

from tests.serving.conftest import TRIP
from tripcast.models import Model
from tripcast.taxi.trips import Trips

pytestmark = pytest.mark.usefixtures("service")


def expected(folder, trips: list[dict[str, object]]) -> list[tuple[float, float, float]]:
    """What the model in a folder says of trips."""
    columns = Trips(
        np.array([trip["pickup_datetime"] for trip in trips], "datetime64[us]"),
        np.array([trip["pickup_zone"] for trip in trips], np.int16),
        np.array([trip["dropoff_zone"] for trip in trips], np.int16),
        np.array([trip.get("trip_distance_miles") or np.nan for trip in trips], np.float64),
    )
    prediction = Model.load(folder).predict(columns)
    return list(zip(prediction.minutes, prediction.lower, prediction.upper, strict=True))


def minutes(answer: dict[str, object]) -> tuple[float, float, float]:
    return answer["duration_minutes"], answer["lower_minutes"], answer["upper_minutes"]


def rider_of(service, arm: str) -> str:
    """A rider whom that arm answers."""
    riders = (f"rider-{number}" for number in range(1000))
    return next(rider for rider in riders if service.predict({**TRIP, "rider_id": rider})["arm"] == arm)


def test_a_trip_is_answered_as_the_model_predicts_it(service, models):
    answer = service.predict({**TRIP, "rider_id": rider_of(service, "champion")})

    assert minutes(answer) == pytest.approx(expected(models["boosted"], [TRIP])[0])
    assert {name: answer[name] for name in ("model", "version", "arm")} == {
        "model": "tripcast-green",
        "version": 1,
        "arm": "champion",
    }


def test_the_challenger_answers_with_its_own_model(service, models):
    answer = service.predict({**TRIP, "rider_id": rider_of(service, "challenger")})

    assert (answer["arm"], answer["version"]) == ("challenger", 2)
    assert minutes(answer) == pytest.approx(expected(models["linear"], [TRIP])[0])


def test_a_distance_that_is_left_out_or_null_is_the_usual_one(service, models):
    rider = rider_of(service, "champion")
    unknown = {name: value for name, value in TRIP.items() if name != "trip_distance_miles"}

    for trip in (unknown, {**unknown, "trip_distance_miles": None}):
        assert minutes(service.predict({**trip, "rider_id": rider})) == pytest.approx(
            expected(models["boosted"], [unknown])[0]
        )


def test_a_time_with_an_offset_is_that_moment_in_new_york(service):
    rider = rider_of(service, "champion")
    local, winter, summer, summer_local = (
        minutes(service.predict({**TRIP, "rider_id": rider, "pickup_datetime": time}))
        for time in ("2021-01-20T08:15:00", "2021-01-20T13:15:00Z", "2021-07-20T14:15:00+02:00", "2021-07-20T08:15:00")
    )

    assert winter == local
    assert summer == summer_local


def test_every_answer_has_an_id_of_its_own(service):
    ids = [service.predict()["prediction_id"] for _ in range(100)]

    assert len(set(ids)) == 100
    assert sorted(ids) == ids


def test_riders_are_split_and_each_stays_with_its_arm(service):
    trips = [{**TRIP, "rider_id": f"rider-{number}"} for number in range(10_000)]
    first, second = (
        [answer["arm"] for answer in service.client.post("/predict/batch", json={"trips": trips}).json()["predictions"]]
        for _ in range(2)
    )

    assert first == second
    assert abs(first.count("challenger") - 3000) < 3 * sqrt(10_000 * 0.3 * 0.7)
    assert [service.predict(trip)["arm"] for trip in trips[:50]] == first[:50]


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_a_batch_is_answered_in_its_order(service, models, count):
    random = np.random.default_rng(1)
    trips = [
        {
            "pickup_zone": int(pickup),
            "dropoff_zone": int(dropoff),
            "trip_distance_miles": round(float(miles), 2),
            "pickup_datetime": "2021-01-20T08:15:00",
            "rider_id": f"rider-{number}",
        }
        for number, (pickup, dropoff, miles) in enumerate(
            zip(random.integers(1, 266, count), random.integers(1, 266, count), random.gamma(2, 2, count), strict=True)
        )
    ]
    answers = service.client.post("/predict/batch", json={"trips": trips}).json()["predictions"]

    assert len(answers) == count
    assert len({answer["prediction_id"] for answer in answers}) == count
    for arm, model in (("champion", "boosted"), ("challenger", "linear")):
        rows = [row for row, answer in enumerate(answers) if answer["arm"] == arm]
        if rows:
            np.testing.assert_allclose(
                [minutes(answers[row]) for row in rows], expected(models[model], [trips[row] for row in rows])
            )


def test_the_open_inference_protocol_answers_as_the_plain_api_does(service):
    names = {"pickup_datetime": "BYTES", "pickup_zone": "INT64", "dropoff_zone": "INT64", "trip_distance_miles": "FP64"}
    request = {
        "id": "42",
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [2], "data": [TRIP[name], TRIP[name]]}
            for name, datatype in names.items()
        ],
        "parameters": {"rider_id": "rider-7"},
    }
    answer = service.client.post("/v2/models/tripcast-green/infer", json=request).json()
    plain = service.predict({**TRIP, "rider_id": "rider-7"})

    assert (answer["model_name"], answer["model_version"], answer["id"]) == (
        "tripcast-green",
        str(plain["version"]),
        "42",
    )
    assert [(output["name"], output["datatype"], output["shape"]) for output in answer["outputs"]] == [
        ("duration_minutes", "FP64", [2]),
        ("lower_minutes", "FP64", [2]),
        ("upper_minutes", "FP64", [2]),
        ("prediction_id", "BYTES", [2]),
    ]
    for output in answer["outputs"][:3]:
        assert output["data"] == pytest.approx([plain[output["name"]]] * 2)
    assert sorted({*answer["outputs"][3]["data"], plain["prediction_id"]}) == [
        *answer["outputs"][3]["data"],
        plain["prediction_id"],
    ]


def test_the_open_inference_protocol_describes_the_server_and_the_model(service):
    get = service.client.get

    assert get("/v2").json()["name"] == "tripcast"
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2/models/tripcast-green/ready").json() == {"name": "tripcast-green", "ready": True}
    assert get("/v2/models/tripcast-green").json()["versions"] == ["1", "2"]
    assert get("/v2/models/tripcast-red").status_code == 404


def test_the_model_says_what_it_was_made_from_and_how_good_it_is(service, models):
    said = service.client.get("/model").json()
    model = Model.load(models["boosted"])

    assert (said["model"], said["share"], said["problems"]) == ("tripcast-green", 0.3, [])
    assert said["champion"] == {
        "version": 1,
        "candidate": "lightgbm",
        "train_months": ["2021-01"],
        "test_month": "2021-02",
        "trips": 3000,
        "simulated": True,
        "digest": model.digest,
        "calibration": vars(model.manifest.calibration),
        "metrics": {"rmse": 5.19, "notebook_rmse": 7.76},
    }
    assert (said["challenger"]["version"], said["challenger"]["candidate"]) == (2, "linear")


def test_all_zones_are_listed(service):
    zones = service.client.get("/zones").json()

    assert len(zones) == 265
    assert zones[0] == {"zone": 1, "name": "Newark Airport", "borough": "EWR"}


def test_a_day_is_explored_at_each_half_hour_by_each_arm(service, models):
    said = service.client.get(
        "/explore", params={"pickup_zone": 74, "dropoff_zone": 236, "date": "2021-01-20", "miles": 2.3}
    ).json()
    times = [f"2021-01-20T{half_hour // 2:02}:{half_hour % 2 * 30:02}:00" for half_hour in range(48)]

    assert said["usual_miles"] > 0
    for arm, model in (("champion", "boosted"), ("challenger", "linear")):
        points = zip(*(said["arms"][arm][name] for name in ("minutes", "lower", "upper")), strict=True)
        np.testing.assert_allclose(
            list(points), expected(models[model], [{**TRIP, "pickup_datetime": time} for time in times])
        )


def test_the_page_and_its_files_are_served_with_their_types(service):
    page = service.client.get("/")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    style = service.client.get("/static/style.css")
    assert style.headers["content-type"].startswith("text/css")
    assert service.client.get("/static/style.css", headers={"if-none-match": style.headers["etag"]}).status_code == 304
    assert service.client.get("/static/../api.py").status_code == 404


@pytest.mark.parametrize(
    "place",
    ["/", "/static/style.css", "/healthz", "/readyz", "/model", "/zones", "/metrics", "/openapi.json", "/v2"],
)
def test_head_is_answered_as_get_is_without_a_body(service, place):
    head, get = service.client.head(place), service.client.get(place)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_the_metrics_count_what_was_done(service):
    def counts() -> dict[str, float]:
        names = {
            "single": 'tripcast_requests_total{model="tripcast-green",route="/predict",status="200"}',
            "bad": 'tripcast_requests_total{model="",route="/predict",status="422"}',
            "timed": 'tripcast_request_seconds_count{model="tripcast-green",route="/predict"}',
            "logged": "tripcast_prediction_log_appended_total",
        }
        found = {name: service.metric(metric) for name, metric in names.items()}
        labels = (
            'arm="champion",model="tripcast-green",version="1"',
            'arm="challenger",model="tripcast-green",version="2"',
        )
        found["predicted"] = sum(service.metric(f"tripcast_predictions_total{{{arm}}}") for arm in labels)
        return found

    before = counts()
    service.predict()
    service.client.post("/predict", json={})
    service.client.post("/predict/batch", json={"trips": [TRIP] * 3})
    after = counts()

    assert {name: after[name] - before[name] for name in before} == {
        "single": 1,
        "bad": 1,
        "timed": 1,
        "logged": 4,
        "predicted": 4,
    }
    assert service.metric('tripcast_share{arm="challenger",model="tripcast-green"}') == 0.3
    assert service.metric('tripcast_poller_last_poll_age_seconds{model="tripcast-green"}') < 60


def test_a_reload_asks_for_the_token(service):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "only-for-tests"}):
        answer = service.client.post("/reload", headers=headers)
        assert (answer.status_code, answer.json()["field"]) == (401, None)

    assert service.reload()["champion"]["version"] == 1


def test_the_description_names_every_route_with_examples(service):
    described = service.client.get("/openapi.json").json()

    assert set(described["paths"]) == {
        "/predict",
        "/predict/batch",
        "/model",
        "/zones",
        "/explore",
        "/healthz",
        "/readyz",
        "/metrics",
        "/reload",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/versions/{version}",
        "/v2/models/{name}/versions/{version}/infer",
        "/v2/models/{name}/versions/{version}/ready",
        "/v2/models/{name}/infer",
    }
    for path in ("/predict", "/predict/batch", "/v2/models/{name}/infer"):
        body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        answer = service.client.post(path.format(name="tripcast-green"), json=body["example"])
        assert answer.status_code == 200, answer.text


def test_the_description_has_what_generators_of_clients_ask_for(service):
    described = service.client.get("/openapi.json").json()
    operations = [operation for item in described["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]

    def arrays(schema) -> list[dict]:
        if isinstance(schema, list):
            return [found for part in schema for found in arrays(part)]
        if not isinstance(schema, dict):
            return []
        return [schema] * (schema.get("type") == "array") + arrays(list(schema.values()))

    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    assert all("items" in schema or "prefixItems" in schema for schema in arrays(described))


def test_requests_on_one_connection_are_answered_one_after_the_other(service):
    with httpx.Client(base_url=service.client.base_url) as client:
        zones = [client.post("/predict", json={**TRIP, "pickup_zone": zone}).status_code for zone in range(1, 266)]

    assert zones == [200] * 265
