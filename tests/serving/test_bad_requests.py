"""What the service answers to requests that it cannot or will not answer: a sentence, a field, and never a 500."""

import gzip
import json
import socket
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from tests.serving.conftest import TRIP

PLACES = ("/predict", "/predict/batch", "/v2/models/tripcast-green/infer")
JSON = {"content-type": "application/json"}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TRIP.items() if key != name}


@pytest.mark.parametrize(
    ("trip", "field", "says"),
    [
        ({**TRIP, "pickup_zone": 0}, "pickup_zone", "pickup_zone is 0: a taxi zone number from 1 to 265"),
        ({**TRIP, "dropoff_zone": 266}, "dropoff_zone", "is 266"),
        ({**TRIP, "dropoff_zone": 10**400}, "dropoff_zone", "zone number"),
        ({**TRIP, "dropoff_zone": "74"}, "dropoff_zone", 'is "74"'),
        ({**TRIP, "dropoff_zone": None}, "dropoff_zone", "is null"),
        ({**TRIP, "dropoff_zone": 7.5}, "dropoff_zone", "is 7.5"),
        ({**TRIP, "dropoff_zone": [1, 2]}, "dropoff_zone", "is a list of 2"),
        ({**TRIP, "trip_distance_miles": -0.1}, "trip_distance_miles", "is -0.1: a number of miles from 0 to 100"),
        ({**TRIP, "trip_distance_miles": 100.1}, "trip_distance_miles", "is 100.1"),
        ({**TRIP, "trip_distance_miles": True}, "trip_distance_miles", "is true"),
        ({**TRIP, "pickup_datetime": "yesterday"}, "pickup_datetime", "ISO 8601"),
        ({**TRIP, "pickup_datetime": 1612944900}, "pickup_datetime", "is 1612944900"),
        ({**TRIP, "pickup_datetime": "2021-02-30T08:15:00"}, "pickup_datetime", "ISO 8601"),
        ({**TRIP, "pickup_datetime": "1999-12-31T23:59:59"}, "pickup_datetime", "2000 to 2099"),
        ({**TRIP, "pickup_datetime": "0001-01-01T00:00:00+14:00"}, "pickup_datetime", "2000 to 2099"),
        ({**TRIP, "pickup_datetime": "9999-12-31T23:59:59-14:00"}, "pickup_datetime", "2000 to 2099"),
        ({**TRIP, "rider_id": ""}, "rider_id", "1 to 128 characters"),
        ({**TRIP, "rider_id": "r" * 129}, "rider_id", "1 to 128 characters"),
        ({**TRIP, "rider_id": 7}, "rider_id", "is 7"),
        ({**TRIP, "distance": 2.3}, "distance", "distance is not a field of this request"),
        (without("pickup_zone"), "pickup_zone", "pickup_zone is missing: a taxi zone number"),
        (without("pickup_datetime"), "pickup_datetime", "pickup_datetime is missing: an ISO 8601 time"),
        ([TRIP], None, "got `array`"),
        (None, None, "got `null`"),
    ],
)
def test_a_trip_that_is_not_one_is_refused_with_its_field(service, trip, field, says):
    answer = service.client.post("/predict", content=json.dumps(trip), headers=JSON)

    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert says in answer.json()["error"]

    batch = service.client.post("/predict/batch", content=json.dumps({"trips": [TRIP, trip]}), headers=JSON)
    assert batch.status_code == 422
    assert batch.json()["field"] == f"trips[1]{f'.{field}' if field else ''}"


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("pickup_zone", "a taxi zone number from 1 to 265"),
        ("trip_distance_miles", "a number of miles from 0 to 100"),
        ("pickup_datetime", "an ISO 8601 time"),
        ("rider_id", "a text of 1 to 128 characters"),
    ],
)
def test_a_number_of_very_many_digits_is_shown_in_part(service, field, says):
    body = json.dumps({**TRIP, field: None}).replace("null", "7" * 5000)
    answer = service.client.post("/predict", content=body, headers=JSON)

    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert f"{field} is {'7' * 60}…: {says}" in answer.json()["error"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"trip", b'{"rider_id": "\\ud800"}', b'{"pickup_zone": 1e999', b"\x00"],
)
def test_a_body_that_is_not_json_is_refused(service, place, body):
    answer = service.client.post(place, content=body, headers=JSON)

    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_a_batch_of_too_many_trips_is_refused(service):
    trip = {name: TRIP[name] for name in ("pickup_zone", "dropoff_zone", "pickup_datetime")}
    answer = service.client.post("/predict/batch", json={"trips": [trip] * 10_001})

    assert (answer.status_code, answer.json()["field"]) == (422, "trips")
    assert "10,000" in answer.json()["error"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_a_body_that_is_said_to_be_something_else_than_json_is_refused(service, place, kind):
    assert service.client.post(place, content=json.dumps(TRIP), headers={"content-type": kind}).status_code == 415


def test_a_body_that_is_not_said_to_be_anything_is_read_as_json(service):
    assert service.client.post("/predict", content=json.dumps(TRIP)).status_code == 200


def test_a_whole_number_may_be_written_with_a_point(service):
    trip = {**TRIP, "rider_id": "r"}
    plain = service.client.post("/predict", json=trip).json()
    pointed = service.client.post("/predict", content=json.dumps({**trip, "pickup_zone": 74.0}))

    assert pointed.json() == plain | {"prediction_id": pointed.json()["prediction_id"]}
    refused = service.client.post("/predict", json={**TRIP, "pickup_zone": 74.0, "rider_id": ""})
    assert refused.json()["field"] == "rider_id"


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compressed_body_is_inflated(service, compress):
    encoding = {gzip.compress: "gzip", zlib.compress: "deflate"}[compress]
    headers = {**JSON, "content-encoding": encoding}
    body = json.dumps(TRIP).encode()

    assert service.client.post("/predict", content=compress(body), headers=headers).status_code == 200
    for broken in (body, compress(body)[:-9], b""):
        answer = service.client.post("/predict", content=broken, headers=headers)
        assert (answer.status_code, answer.json()["error"].split(",")[0]) == (400, f"The body is not {encoding}")
    bomb = service.client.post("/predict", content=compress(b" " * 50_000_000), headers=headers)
    assert (bomb.status_code, bomb.json()["error"].split(",")[0]) == (413, "The body is larger when it is inflated")


def test_a_header_of_another_value_is_refused_by_its_name(service):
    answer = service.client.post("/predict", json=TRIP, headers={"tripcast-durable": "yes"})

    assert (answer.status_code, answer.json()["field"]) == (422, "tripcast-durable")


def test_a_body_of_another_encoding_is_refused_by_its_name(service):
    answer = service.client.post("/predict", content=b"x", headers={**JSON, "content-encoding": "br"})

    assert answer.status_code == 415
    assert "encoded as 'br'" in answer.json()["error"]


def test_the_kind_of_a_body_may_have_parameters(service):
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    assert service.client.post("/predict", content=json.dumps(TRIP), headers=headers).status_code == 200


@pytest.mark.parametrize("place", PLACES)
def test_a_body_that_is_too_large_is_refused_before_it_is_read(service, place):
    with _connect(service) as connection:
        connection.sendall(_head(place, "content-length: 3000000"))
        assert connection.recv(100_000).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_refused_when_it_grows_too_large(service):
    answer = service.client.post("/predict", content=(b" " * 100_000 for _ in range(30)), headers=JSON)

    assert answer.status_code == 413


def test_a_slow_client_keeps_nobody_waiting_and_is_turned_away(service):
    with _connect(service) as slow_body, _connect(service) as slow_head, _connect(service) as silent:
        slow_body.sendall(_head("/predict", "content-length: 100") + b'{"pickup_zone"')
        slow_head.sendall(b"POST /predict HTTP/1.1\r\nhost: here\r\n")
        began = time.monotonic()
        while time.monotonic() < began + 1:
            assert service.predict()["version"] in (1, 2)
        for connection in (slow_body, slow_head, silent):
            assert connection.recv(100_000).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_in_the_middle_of_its_body_does_no_harm(service):
    for _ in range(20):
        with _connect(service) as connection:
            connection.sendall(_head("/predict", "content-length: 100") + b'{"pickup_zone"')

    assert service.predict()["version"] in (1, 2)
    assert "Traceback" not in service.output.read_text()


def _connect(service) -> socket.socket:
    return socket.create_connection((service.client.base_url.host, service.client.base_url.port), timeout=20)


def _head(place: str, *headers: str) -> bytes:
    lines = [f"POST {place} HTTP/1.1", "host: here", "content-type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def tensors(**columns: Any) -> dict[str, Any]:
    datatypes = {"pickup_datetime": "BYTES", "pickup_zone": "INT64", "dropoff_zone": "INT64"}
    values = {name: [TRIP[name]] for name in datatypes} | columns
    return {
        "inputs": [
            {"name": name, "datatype": datatypes.get(name, "FP64"), "shape": [len(data)], "data": data}
            for name, data in values.items()
        ]
    }


@pytest.mark.parametrize(
    ("request_body", "field"),
    [
        ({"inputs": []}, "pickup_zone"),
        (tensors(pickup_zone=[300]), "pickup_zone[0]"),
        (tensors(pickup_zone=[74, 75]), "inputs[1].shape"),
        (tensors(fare=[7.0]), "inputs[3].name"),
        (tensors(pickup_datetime=["1812-01-01T00:00:00"]), "pickup_datetime[0]"),
        (tensors() | {"outputs": [{"name": "fare"}]}, "outputs[0].name"),
        (tensors() | {"parameters": {"rider_id": 7}}, "parameters.rider_id"),
        ({"inputs": [{"name": "pickup_zone", "datatype": "FP64", "shape": [1], "data": [1]}]}, "inputs[0].datatype"),
        ({"inputs": [{"name": "pickup_zone", "datatype": "INT64", "shape": [2], "data": [1]}]}, "inputs[0].shape"),
    ],
)
def test_tensors_that_are_not_trips_are_refused_with_their_field(service, request_body, field):
    answer = service.client.post("/v2/models/tripcast-green/infer", json=request_body)

    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"pickup_zone": 0}, "pickup_zone"),
        ({"dropoff_zone": "x"}, "dropoff_zone"),
        ({"date": "2021-02-30"}, "date"),
        ({"date": "1812-01-01"}, "date"),
        ({"miles": "nan"}, "miles"),
        ({"miles": "101"}, "miles"),
    ],
)
def test_a_day_that_cannot_be_explored_is_refused_with_its_field(service, query, field):
    good = {"pickup_zone": 74, "dropoff_zone": 236, "date": "2021-02-10"}
    answer = service.client.get("/explore", params=good | query)

    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.parametrize(
    ("method", "place", "status"),
    [("GET", "/predict", 405), ("GET", "/nowhere", 404), ("POST", "/predict/", 404), ("GET", "/static", 404)],
)
def test_an_address_or_method_that_there_is_not_is_said_to_be_none(service, method, place, status):
    answer = service.client.request(method, place)

    assert answer.status_code == status
    assert place in answer.json()["error"]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*TRIP, "trips", "inputs"]), inner),
    max_leaves=12,
)


@given(body=ANY_JSON, place=st.sampled_from(PLACES))
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_no_json_whatever_brings_the_service_down(service, body, place):
    answer = service.client.post(place, content=json.dumps(body), headers=JSON)

    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize("mode", GenerationMode)
def test_the_service_keeps_to_its_description_under_fuzzing(service, mode):
    config = SchemathesisConfig.from_path(Path(__file__).parents[2] / "schemathesis.toml")
    schema = schemathesis.openapi.from_url(f"{service.client.base_url}/openapi.json", config=config)
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=15, suppress_health_check=list(HealthCheck))
        def keeps_to_it(case: schemathesis.Case) -> None:
            case.call_and_validate()

        if mode is GenerationMode.POSITIVE or operation.body or operation.query:
            keeps_to_it()
