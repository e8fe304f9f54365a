"""The Open Inference Protocol: trips as tensors, for the clients of KServe and Triton.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from msgspec import Meta, Struct
from starlette.responses import Response
from starlette.routing import Route

from tripcast import __version__
from tripcast.serving.arms import Arm, Arms
from tripcast.serving.asgi import MODEL, BadRequest, FastRoute, Receive, Scope, Send, encode, json_response
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.served_model import NotReady, ServedModel
from tripcast.serving.service import Service
from tripcast.taxi.trips import Trip, Trips
from tripcast.taxi.web.predictions import Predictions
from tripcast.taxi.web.requests import (
    BAD_JSON,
    MAX_TRIPS,
    Miles,
    Pickup,
    RiderId,
    Zone,
    decode_again,
    known_miles,
    local_seconds,
)

_INTEGERS = ("INT64", "INT32", "INT16", "UINT64", "UINT32", "UINT16", "UINT8")

#: The datatypes that are taken for each input, the one that is offered first.
DATATYPES = {
    "pickup_zone": _INTEGERS,
    "dropoff_zone": _INTEGERS,
    "pickup_datetime": ("BYTES",),
    "trip_distance_miles": ("FP64", "FP32"),
}

#: The outputs and their datatypes.
OUTPUTS = {"duration_minutes": "FP64", "lower_minutes": "FP64", "upper_minutes": "FP64", "prediction_id": "BYTES"}


class InputTensor(Struct, forbid_unknown_fields=True):
    """A column of n values, of the shape [n] or [n, 1]."""

    name: Annotated[str, Meta(extra_json_schema={"enum": list(DATATYPES)})]
    shape: Annotated[list[int], Meta(min_length=1, max_length=2)]
    datatype: Annotated[str, Meta(extra_json_schema={"enum": [*_INTEGERS, "BYTES", "FP64", "FP32"]})]
    # Generators of clients leave out what has arrays without items.
    data: Annotated[list[Any], Meta(max_length=MAX_TRIPS, extra_json_schema={"items": {}})]
    parameters: dict[str, Any] | None = None


class RequestedOutput(Struct, forbid_unknown_fields=True):
    """An output that is asked for."""

    name: Annotated[str, Meta(extra_json_schema={"enum": list(OUTPUTS)})]
    parameters: dict[str, Any] | None = None


class InferenceRequest(Struct, forbid_unknown_fields=True):
    """Trips to predict, as tensors.

    ``parameters.rider_id`` says who asks. The address says which model is meant, whatever ``model_name`` and
    ``model_version`` say, which KServe's client sends.
    """

    inputs: Annotated[list[InputTensor], Meta(max_length=16)]
    id: str | None = None
    outputs: list[RequestedOutput] | None = None
    parameters: dict[str, Any] | None = None
    model_name: str | None = None
    model_version: str | None = None


class OutputTensor(Struct):
    """An output: a value for each trip."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float | str]


class InferenceAnswer(Struct, omit_defaults=True):
    """The predictions of all trips, by one version."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class _Columns(Struct, forbid_unknown_fields=True):
    """The values of the inputs."""

    pickup_zone: list[Zone]
    dropoff_zone: list[Zone]
    pickup_datetime: list[Pickup]
    trip_distance_miles: list[Miles | None] | None = None


_decode = msgspec.json.Decoder(InferenceRequest).decode
_decode_columns = msgspec.json.Decoder(_Columns).decode


def to_trips(inputs: list[InputTensor], model: str) -> list[Trip]:
    """The trips of a request.

    Args:
        inputs: A tensor for each column.
        model: The model's name.

    Raises:
        BadRequest: If one is missing, unknown, of another type or length, or holds a value that is not taken.
    """
    columns: dict[str, list[Any]] = {}
    for row, tensor in enumerate(inputs):
        field = f"inputs[{row}]"
        datatypes = DATATYPES.get(tensor.name)
        if datatypes is None or tensor.name in columns:
            raise BadRequest(
                422, f"{field}.name is '{tensor.name}': each of {', '.join(DATATYPES)} is asked once.", f"{field}.name"
            )
        if tensor.datatype not in datatypes:
            raise BadRequest(
                422,
                f"{field}.datatype is '{tensor.datatype}': {tensor.name} is {' or '.join(datatypes)}.",
                f"{field}.datatype",
            )
        size = len(tensor.data)
        if tensor.shape not in ([size], [size, 1]) or size != len(inputs[0].data):
            raise BadRequest(
                422,
                f"{field} has {size:,} values and the shape {tensor.shape}: as many values as it says, "
                "and as many as the other inputs have, are asked.",
                f"{field}.shape",
            )
        # Of the shape [n, 1], values may stand in lists of their own or not.
        columns[tensor.name] = [
            value[0] if isinstance(value, list) and len(value) == 1 and len(tensor.shape) == 2 else value
            for value in tensor.data
        ]
    try:
        asked = msgspec.convert(columns, _Columns)
    except msgspec.ValidationError as trouble:
        asked = decode_again(_decode_columns, encode(columns), trouble)
    return [
        Trip(pickup_zone, dropoff_zone, known_miles(miles, model), local_seconds(pickup, f"pickup_datetime[{row}]"))
        for row, (pickup_zone, dropoff_zone, miles, pickup) in enumerate(
            zip(
                asked.pickup_zone,
                asked.dropoff_zone,
                asked.trip_distance_miles or [None] * len(asked.pickup_zone),
                asked.pickup_datetime,
                strict=True,
            )
        )
    ]


class OpenInference:
    """The routes of the protocol.

    Args:
        service: Says which models answer.
        predictions: Predicts and logs.
        log: Keeps every answer.
    """

    def __init__(self, service: Service, predictions: Predictions, log: PredictionLog) -> None:
        self._service = service
        self._predictions = predictions
        self._log = log
        self.fast = [self._route(model.name, None) for model in service.models.values()]

    async def _infer(self, scope: Scope, body: bytes, name: str, version: str | None) -> bytes:
        """Predict n trips, all by one arm: that of the version, or else the rider's."""
        model = self._find(name)
        scope[MODEL] = model.name
        try:
            request = _decode(body)
        except BAD_JSON as trouble:
            request = decode_again(_decode, body, trouble)
        arms = model.arms
        parameters = {"rider_id": (request.parameters or {}).get("rider_id")}
        try:
            rider = msgspec.convert(parameters["rider_id"], RiderId | None)
        except msgspec.ValidationError:
            raise BadRequest(
                422, "parameters.rider_id has to be a text of 1 to 128 characters.", "parameters.rider_id"
            ) from None
        wanted = [output.name for output in request.outputs or []] or list(OUTPUTS)
        for row, name in enumerate(wanted):
            if name not in OUTPUTS:
                raise BadRequest(
                    422, f"There is no output '{name}': ask for {', '.join(OUTPUTS)}.", f"outputs[{row}].name"
                )
        trips = Trips.of(to_trips(request.inputs, model.name))
        arm = arms.choose(rider) if version is None else _arm_of(arms, version)
        arm, prediction = await self._predictions.in_thread(arms, arm, trips)
        if version is not None and version != str(arm.version):
            raise NotReady(f"Version {version} fails on these trips. Leave it out, and the champion answers.")
        ids = self._predictions.log(arm, [rider] * len(trips), trips, prediction)
        values = (prediction.minutes.tolist(), prediction.lower.tolist(), prediction.upper.tolist(), ids)
        by_name = dict(zip(OUTPUTS, values, strict=True))
        outputs = [OutputTensor(name, [len(trips)], OUTPUTS[name], by_name[name]) for name in wanted]
        return encode(InferenceAnswer(model.name, str(arm.version), outputs, request.id))

    def _find(self, name: str) -> ServedModel:
        for model in self._service.offered.values():
            if model.name == name:
                return model
        serving = [model.name for model in self._service.serving.values()]
        raise BadRequest(404, f"No model '{name}' serves here, only {' and '.join(serving)}.")

    def router(self) -> APIRouter:
        """The routes but the fast one."""
        router = APIRouter()

        @router.get("/v2", summary="The server")
        async def server() -> Response:
            return json_response({"name": "tripcast", "version": __version__, "extensions": []})

        @router.get("/v2/health/live", summary="Whether the process is alive")
        async def live() -> Response:
            return json_response({"live": True})

        @router.get("/v2/health/ready", summary="Whether a champion is loaded")
        async def ready() -> Response:
            return json_response({"ready": bool(self._service.serving)})

        @router.get("/v2/models/{name}", summary="What the model takes and returns")
        async def model(name: str) -> Response:
            return _describe(name, [str(arm.version) for arm in self._find(name).arms.all])

        @router.get("/v2/models/{name}/ready", summary="Whether the model answers")
        async def model_ready(name: str) -> Response:
            return json_response({"name": name, "ready": bool(self._find(name).arms)})

        @router.get("/v2/models/{name}/versions/{version}", summary="What a version takes and returns")
        async def version(name: str, version: str) -> Response:
            return _describe(name, [str(_arm_of(self._find(name).arms, version).version)])

        @router.get("/v2/models/{name}/versions/{version}/ready", summary="Whether a version answers")
        async def version_ready(name: str, version: str) -> Response:
            return json_response({"name": name, "ready": bool(_arm_of(self._find(name).arms, version))})

        return router

    @property
    def posts(self) -> list[Route]:
        """Where any model, or version, is asked for predictions; ``openapi.py`` describes them, FastAPI cannot."""
        paths = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
        return [Route(path, _Endpoint(self._route), methods=["POST"]) for path in paths]

    def _route(self, name: str, version: str | None = None) -> FastRoute:
        path = f"/v2/models/{name}/infer" if version is None else f"/v2/models/{name}/versions/{version}/infer"
        return FastRoute(path, partial(self._infer, name=name, version=version), self._log.flush)


def _arm_of(arms: Arms, version: str) -> Arm:
    for arm in arms.all:
        if version == str(arm.version):
            return arm
    loaded = " and ".join(str(arm.version) for arm in arms.all)
    raise BadRequest(404, f"Version '{version}' does not answer here, only {loaded}.")


def _describe(model: str, versions: list[str]) -> Response:
    return json_response(
        {
            "name": model,
            "versions": versions,
            "platform": "tripcast",
            "inputs": [{"name": name, "datatype": taken[0], "shape": [-1]} for name, taken in DATATYPES.items()],
            "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()],
        }
    )


class _Endpoint:
    """Where a model, or a version of it, is asked; Starlette would take a function for a handler of another kind.

    Args:
        route: Returns the route of a model's name and a version.
    """

    def __init__(self, route: Callable[..., FastRoute]) -> None:
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._route(**scope["path_params"])(scope, receive, send)
