"""The description of the API: what FastAPI says of its routes, completed by what msgspec reads and writes."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from tripcast.serving.asgi import DURABLE, ErrorAnswer
from tripcast.taxi.web.answers import BatchAnswer, PredictionAnswer
from tripcast.taxi.web.open_inference import InferenceAnswer, InferenceRequest
from tripcast.taxi.web.requests import Batch, PredictionRequest

_TRIP = {
    "pickup_zone": 74,
    "dropoff_zone": 236,
    "trip_distance_miles": 2.3,
    "pickup_datetime": "2021-02-10T08:15:00",
    "rider_id": "rider-1",
}
_TENSORS = {
    "inputs": [
        {"name": "pickup_datetime", "shape": [1], "datatype": "BYTES", "data": ["2021-02-10T08:15:00"]},
        {"name": "pickup_zone", "shape": [1], "datatype": "INT64", "data": [74]},
        {"name": "dropoff_zone", "shape": [1], "datatype": "INT64", "data": [236]},
        {"name": "trip_distance_miles", "shape": [1], "datatype": "FP64", "data": [2.3]},
    ]
}

#: Of the routes with bodies, by the end of their address: summary, request, an example of it, and answer.
_BODIES: dict[str, tuple[str, type, dict[str, Any], type]] = {
    "/predict": ("Predict one trip", PredictionRequest, _TRIP, PredictionAnswer),
    "/predict/batch": ("Predict up to 10,000 trips", Batch, {"trips": [_TRIP]}, BatchAnswer),
    "/infer": ("Predict trips by the Open Inference Protocol", InferenceRequest, _TENSORS, InferenceAnswer),
}

_FAILURES = {
    "400": "The body is not JSON.",
    "408": "The body arrived too slowly.",
    "413": "The body is too large.",
    "415": "The body is not said to be JSON.",
    "422": "The body or the query is not what is asked.",
}
#: What an answer promises of the log, from which its truth is found later.
_PROMISE = (
    "The answer. It is in the service's log when the disk has it, some five seconds later: a service that is killed or "
    f"loses its power before that loses the record, and one that is told to stop loses none. With the header "
    f"'{DURABLE[0].decode()}: {DURABLE[1].decode()}' it is sent when the disk has it, some tens of milliseconds later."
)
_DURABLE = {
    "name": DURABLE[0].decode(),
    "in": "header",
    "description": "Whether to wait for the disk before the answer is sent.",
    "schema": {"type": "string", "enum": ["true", "false"]},
}
_NOT_READY = "No champion is loaded yet."
_UNKNOWN = "No model of that name or taxi serves, or no such version of it."


def describe(app: FastAPI, described: list[str]) -> None:
    """Make ``GET /openapi.json`` describe the whole API.

    Args:
        app: The application.
        described: The addresses that FastAPI does not describe by itself.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, described)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, described: list[str]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    types = [kind for _, request, _, answer in _BODIES.values() for kind in (request, answer)]
    schemas, components = msgspec.json.schema_components(
        [*types, ErrorAnswer], ref_template="#/components/schemas/{name}"
    )
    error = {"application/json": {"schema": schemas[-1]}}
    for path, item in document["paths"].items():
        for operation in item.values():
            responses = operation["responses"]
            if "422" in responses:
                responses["422"] = {"description": _FAILURES["422"], "content": error}
            if path not in ("/healthz", "/metrics", "/v2", "/v2/health/live", "/zones"):
                responses["503"] = {"description": _NOT_READY, "content": error}
            if "{name}" in path or any(asked["name"] == "taxi" for asked in operation.get("parameters", [])):
                responses["404"] = {"description": _UNKNOWN, "content": error}
            if path == "/metrics":
                responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
            if path == "/reload":
                responses["401"] = {"description": "The token is missing or wrong.", "content": error}
                responses["504"] = {"description": "The registry did not answer in time.", "content": error}
    by_type = dict(zip(types, schemas, strict=False))
    for path in described:
        end = next(end for end in _BODIES if path.endswith(end))
        summary, request, example, answer = _BODIES[end]
        document["paths"][path] = {
            "post": {
                "summary": summary,
                "operationId": f"post_{re.sub('[^a-z0-9]+', '_', path).strip('_')}",
                "parameters": [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                    for name in re.findall(r"{(\w+)}", path)
                ]
                + [_DURABLE],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": by_type[request], "example": example}},
                },
                "responses": {
                    "200": {
                        "description": _PROMISE,
                        "content": {"application/json": {"schema": by_type[answer]}},
                    },
                    **{status: {"description": meaning, "content": error} for status, meaning in _FAILURES.items()},
                    "503": {"description": f"{_NOT_READY} Or: the disk does not take the log.", "content": error},
                    "404": {"description": _UNKNOWN, "content": error},
                },
            }
        }
    document["components"] = {"schemas": components}
    return document
