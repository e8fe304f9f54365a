"""Clients of the Open Inference Protocol: Triton's own, and KServe's by what it sends.

KServe's SDK cannot be installed beside tripcast: 0.21 asks for pandas before 3 and for a later kubernetes than kfp's.
"""

import json

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.serving.conftest import TRIP

NAME = "tripcast-green"
PLACE = f"/v2/models/{NAME}/infer"

#: What ``kserve.InferenceRESTClient`` 0.21 sends for columns of numpy, byte for byte, as ``application/json``.
KSERVE = (
    b'{"id":"52a40272-428a-4b96-9118-d935f6d5385f","model_name":"tripcast-green","inputs":['
    b'{"name":"pickup_zone","shape":[2,1],"datatype":"INT32","data":[74,41]},'
    b'{"name":"dropoff_zone","shape":[2,1],"datatype":"INT32","data":[236,42]},'
    b'{"name":"trip_distance_miles","shape":[2,1],"datatype":"FP32","data":[2.299999952316284,1.0]},'
    b'{"name":"pickup_datetime","shape":[2,1],"datatype":"BYTES",'
    b'"data":["2021-01-20T08:15:00","2021-01-20T08:15:00"]}],"parameters":{"rider_id":"rider-7"}}'
)


@pytest.fixture
def triton(service):
    url = service.client.base_url
    with tritonclient.http.InferenceServerClient(f"{url.host}:{url.port}", connection_timeout=20) as client:
        yield client


def inputs(shape: tuple[int, ...] = (2,), binary: bool = False) -> list[tritonclient.http.InferInput]:
    """The usual trip and one of another distance."""
    columns = {
        "pickup_zone": (np.array([74, 74], np.int32), "INT32"),
        "dropoff_zone": (np.array([236, 236], np.int64), "INT64"),
        "pickup_datetime": (np.array([TRIP["pickup_datetime"]] * 2, object), "BYTES"),
        "trip_distance_miles": (np.array([2.25, 1.5], np.float32), "FP32"),
    }
    made = []
    for name, (values, datatype) in columns.items():
        tensor = tritonclient.http.InferInput(name, list(shape), datatype)
        made.append(tensor.set_data_from_numpy(values.reshape(shape), binary_data=binary))
    return made


def test_triton_s_client_finds_the_server_and_the_model(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert [triton.is_model_ready(NAME, version) for version in ("", "1", "2", "9")] == [True, True, True, False]
    assert triton.get_server_metadata()["extensions"] == []
    described = triton.get_model_metadata(NAME, "2")
    assert described["versions"] == ["2"]
    assert [tensor["name"] for tensor in described["outputs"]] == [
        "duration_minutes",
        "lower_minutes",
        "upper_minutes",
        "prediction_id",
    ]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_s_client_is_answered_as_the_plain_api_answers(service, triton, shape, compression):
    answer = triton.infer(
        NAME, inputs(shape), parameters={"rider_id": "rider-7"}, request_compression_algorithm=compression
    )
    plain = [service.predict({**TRIP, "trip_distance_miles": miles, "rider_id": "rider-7"}) for miles in (2.25, 1.5)]

    assert answer.get_response()["model_version"] == str(plain[0]["version"])
    for name in ("duration_minutes", "lower_minutes", "upper_minutes"):
        np.testing.assert_allclose(answer.as_numpy(name), [said[name] for said in plain])
    assert len({*answer.as_numpy("prediction_id"), *(said["prediction_id"] for said in plain)}) == 4


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_version_is_asked_by_its_number(triton, version):
    answers = [triton.infer(NAME, inputs(), model_version=version) for _ in range(20)]

    assert {answer.get_response()["model_version"] for answer in answers} == {version}


def test_a_version_that_does_not_answer_is_named_with_those_that_do(triton):
    with pytest.raises(InferenceServerException, match=r"Version '9' does not answer here, only 1 and 2"):
        triton.infer(NAME, inputs(), model_version="9")


def test_outputs_are_those_that_are_asked_for(triton):
    asked = [
        tritonclient.http.InferRequestedOutput("prediction_id"),
        tritonclient.http.InferRequestedOutput("upper_minutes"),
    ]
    answer = triton.infer(NAME, inputs(), outputs=asked).get_response()

    assert [tensor["name"] for tensor in answer["outputs"]] == ["prediction_id", "upper_minutes"]


def test_binary_tensors_are_refused_by_the_name_of_the_extension(triton):
    with pytest.raises(InferenceServerException, match=r"binary extension .* binary_data=False"):
        triton.infer(NAME, inputs(binary=True))


def test_kserve_s_client_is_answered(service):
    headers = {"content-type": "application/json"}
    answer = service.client.post(PLACE, content=KSERVE, headers=headers).json()
    plain = service.predict({**TRIP, "trip_distance_miles": 2.299999952316284, "rider_id": "rider-7"})

    assert answer["id"] == "52a40272-428a-4b96-9118-d935f6d5385f"
    assert answer["model_name"] == NAME
    outputs = {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}
    assert outputs["duration_minutes"][0] == pytest.approx(plain["duration_minutes"])
    assert [len(values) for values in outputs.values()] == [2, 2, 2, 2]


def test_values_may_stand_in_lists_of_their_own(service):
    request = json.loads(KSERVE)
    flat = service.client.post(PLACE, json=request).json()
    for tensor in request["inputs"]:
        tensor["data"] = [[value] for value in tensor["data"]]
    nested = service.client.post(PLACE, json=request).json()

    assert nested["outputs"][:3] == flat["outputs"][:3]


@pytest.mark.parametrize("rider", [7, "", "r" * 129])
def test_a_rider_of_the_protocol_is_one_of_the_plain_api(service, rider):
    answer = service.client.post(PLACE, json=json.loads(KSERVE) | {"parameters": {"rider_id": rider}})

    assert (answer.status_code, answer.json()["field"]) == (422, "parameters.rider_id")
