"""The web API: what each address answers.

Predictions have the short way: ``Api`` recognises their addresses before FastAPI is asked, and msgspec reads and writes
their bodies. The other routes are FastAPI's. ``openapi.py`` describes them all.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from math import nan
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from tripcast import __version__
from tripcast.models import Model, Prediction
from tripcast.serving.arms import Arm, Arms
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prometheus import Scrape, ServiceCollector
from tripcast.serving.service import NotReady, Service
from tripcast.taxi.candidates.lightgbm import Boosted
from tripcast.taxi.trips import FARTHEST_MILES, Trip, Trips
from tripcast.taxi.web.answers import ErrorAnswer, InferenceAnswer, OutputTensor, PredictionAnswer
from tripcast.taxi.web.openapi import describe
from tripcast.taxi.web.requests import (
    DATATYPES,
    FIRST_YEAR,
    LAST_YEAR,
    MOST_BYTES,
    BadRequest,
    Batch,
    Inference,
    TripRequest,
    bad_body,
    local_seconds,
    to_trip,
    to_trips,
)
from tripcast.taxi.zones import LAST_ZONE, ZONES

_log = logging.getLogger("tripcast.serving")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGE = Path(__file__).parent / "page"

#: Seconds after which a client may try again when nothing is loaded: by then the registry has been asked again.
_RETRY_AFTER = 5

#: Fewer trips than this are predicted at once, more in a thread beside the other requests.
_FEW_TRIPS = 50

#: Trips of a batch that are turned into numbers and back at a time: other requests wait for that.
_SLICE = 1_000

#: The page loads nothing from elsewhere and has no scripts but its own.
_PAGE_HEADERS = {
    "cache-control": "no-cache",  # asked for again with its ETag: a release shows at once
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


_DEFECT = ErrorAnswer("This is a defect of the service; its log has the details.")


class ClientGone(Exception):
    """The client has closed the connection; nobody waits for an answer."""


_encode = msgspec.json.Encoder().encode
_decode_trip = msgspec.json.Decoder(TripRequest).decode
_decode_batch = msgspec.json.Decoder(Batch).decode
_decode_inference = msgspec.json.Decoder(Inference).decode
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Receive a JSON body of a limited size.

    Raises:
        BadRequest: If it is too large (413) or said to be something else (415).
        ClientGone: If the client leaves, or was too slow (``server.py`` closes its connection).
    """
    kind, length = b"", 0
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            length = int(value)
    if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise BadRequest(415, "The body has to be JSON. Send it with the header 'Content-Type: application/json'.")
    if length > MOST_BYTES:
        raise _too_large(f"has {length:,} bytes")
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            raise _too_large("is larger")
    if message["type"] == "http.disconnect":
        raise ClientGone
    return body


def _too_large(how: str) -> BadRequest:
    return BadRequest(413, f"The body {how}, and {MOST_BYTES:,} bytes are the most. Send several smaller requests.")


class Predictions:
    """Answers to the requests for predictions.

    Args:
        service: Says which models answer.
        log: Keeps every answer.
    """

    def __init__(self, service: Service, log: PredictionLog) -> None:
        self._service = service
        self._log = log
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="batch")

    async def predict(self, body: bytes) -> bytes:
        """One trip."""
        try:
            asked = _decode_trip(body)
        except _BAD as trouble:
            raise bad_body(body, trouble) from None
        service = self._service
        trip = to_trip(asked, "pickup_datetime")
        arm, prediction = service.arms.answer(asked.rider_id, trip)
        prediction_id = self._log.append(arm.answerer, asked.rider_id, trip, prediction)
        service.metrics.predictions[arm.answerer] += 1
        return _encode(PredictionAnswer(prediction_id, *prediction, *arm.answerer))

    async def predict_batch(self, body: bytes) -> bytes:
        """Up to 10,000 trips, each by its rider's arm."""
        try:
            asked = _decode_batch(body).trips
        except _BAD as trouble:
            raise bad_body(body, trouble) from None
        arms = self._service.arms
        trips = [to_trip(trip, f"trips[{row}].pickup_datetime") for row, trip in enumerate(asked)]
        # Slice by slice, and other requests in between.
        parts = [
            await self._predict_slice(arms, asked[first : first + _SLICE], trips[first : first + _SLICE])
            for first in range(0, len(asked), _SLICE)
        ]
        return b'{"predictions":[%s]}' % b",".join(parts)

    async def _predict_slice(self, arms: Arms, asked: list[TripRequest], trips: list[Trip]) -> bytes:
        """The answers to some trips as JSON, without the brackets of the list."""
        chosen = [arms.choose(trip.rider_id) for trip in asked]
        answers: list[PredictionAnswer | None] = [None] * len(asked)
        for arm in arms.all:
            rows = [row for row, by in enumerate(chosen) if by is arm]
            if not rows:
                continue
            part = Trips.of([trips[row] for row in rows])
            by, prediction = await self._predict(arms, arm, part)
            ids = self._keep(by, [asked[row].rider_id for row in rows], part, prediction)
            numbers = zip(
                prediction.minutes.tolist(), prediction.lower.tolist(), prediction.upper.tolist(), strict=True
            )
            for row, prediction_id, minutes in zip(rows, ids, numbers, strict=True):
                answers[row] = PredictionAnswer(prediction_id, *minutes, *by.answerer)
        return _encode(answers)[1:-1]

    async def infer(self, body: bytes) -> bytes:
        """A request of the Open Inference Protocol: n trips, all by one arm."""
        try:
            request = _decode_inference(body)
        except _BAD as trouble:
            raise bad_body(body, trouble) from None
        arms = self._service.arms
        rider = (request.parameters or {}).get("rider_id")
        if rider is not None and not isinstance(rider, str):
            raise BadRequest(422, "parameters.rider_id has to be a text.", "parameters.rider_id")
        trips = Trips.of(to_trips(request.inputs))
        wanted = [output.name for output in request.outputs or []] or list(_OUTPUTS)
        for row, name in enumerate(wanted):
            if name not in _OUTPUTS:
                raise BadRequest(
                    422, f"There is no output '{name}': ask for {', '.join(_OUTPUTS)}.", f"outputs[{row}].name"
                )
        arm, prediction = await self._predict(arms, arms.choose(rider), trips)
        self._keep(arm, [rider] * len(trips), trips, prediction)
        said = dict(zip(_OUTPUTS, (prediction.minutes, prediction.lower, prediction.upper), strict=True))
        outputs = [OutputTensor(name, [len(trips)], "FP64", said[name].tolist()) for name in wanted]
        return _encode(InferenceAnswer(self._service.name, str(arm.version), outputs, request.id))

    async def _predict(self, arms: Arms, arm: Arm, trips: Trips) -> tuple[Arm, Prediction]:
        if len(trips) < _FEW_TRIPS:
            return arms.predict(arm, trips)
        return await asyncio.get_running_loop().run_in_executor(self._beside, arms.predict, arm, trips)

    def _keep(self, arm: Arm, riders: list[str | None], trips: Trips, prediction: Prediction) -> list[str]:
        self._service.metrics.predictions[arm.answerer] += len(trips)
        return self._log.extend(arm.answerer, riders, trips, prediction)


_OUTPUTS = ("duration_minutes", "lower_minutes", "upper_minutes")


_JSON_HEADERS = [(b"content-type", b"application/json")]


class HotRoute:
    """An address with the short way: POST, JSON in, JSON out.

    Args:
        path: The address; what its requests are counted under.
        handle: Turns a body into an answer; may raise ``BadRequest`` or ``NotReady``.
    """

    def __init__(self, path: str, handle: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.path = path
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer a request; gives the status, 499 if the client left before that."""
        status, headers = 200, _JSON_HEADERS
        try:
            body = await self._handle(await read_body(scope, receive))
        except BadRequest as bad:
            status, body = bad.status, _encode(ErrorAnswer(bad.sentence, bad.field))
            if status in (413, 415):  # the rest of the body is not waited for
                headers = [*_JSON_HEADERS, (b"connection", b"close")]
        except NotReady as trouble:
            status, body = 503, _encode(ErrorAnswer(str(trouble)))
            headers = [*_JSON_HEADERS, (b"retry-after", b"%d" % _RETRY_AFTER)]
        except ClientGone:
            return 499
        except Exception:
            _log.exception("%s failed.", self.path)
            status, body = 500, _encode(_DEFECT)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": body})
        return status


class Api:
    """The whole web application: counts every request, and takes the short way where there is one.

    Args:
        app: Answers what has no short way.
        hot: The routes that have one.
        service: Counts.
    """

    def __init__(self, app: FastAPI, hot: list[HotRoute], service: Service) -> None:
        self._app = app
        self._hot = {("POST", route.path): route for route in hot}
        self._observe = service.metrics.observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        route = self._hot.get((scope["method"], scope["path"]))
        if route is not None:
            status = await route.answer(scope, receive, send)
            self._observe(route.path, status, perf_counter() - started)
            return
        status = 499

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except Exception:  # it has been answered, see _DEFECT
            _log.exception("%s %s failed.", scope["method"], scope["path"])
        self._observe(getattr(scope.get("route"), "path", "other"), status, perf_counter() - started)


_ZoneQuery = Annotated[int, Query(ge=1, le=LAST_ZONE, description="Taxi zone number.")]


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(content), status, headers, media_type="application/json")


class _PageFiles(StaticFiles):
    """The page's files, with its headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_PAGE_HEADERS)
        return response


def describe_arm(arm: Arm) -> dict[str, Any]:
    """An arm, as ``GET /model`` shows it."""
    manifest = arm.model.manifest
    metrics = {}
    for name in ("rmse", "notebook_rmse"):
        if value := arm.tags.get(f"tripcast.{name}"):
            metrics[name] = float(value)
    return {
        "version": arm.version,
        "candidate": manifest.candidate,
        "train_months": manifest.train_months,
        "test_month": arm.tags.get("tripcast.test_month"),
        "trips": manifest.trips,
        "digest": arm.model.digest,
        "calibration": manifest.calibration,
        "metrics": metrics,
    }


def _usual_miles(model: Model, pickup_zone: int, dropoff_zone: int) -> float | None:
    """Miles usually driven between two zones; None of a model that has not learned them."""
    if not isinstance(model.predictor, Boosted):
        return None
    return float(model.predictor.tables.geography.usual_miles[pickup_zone, dropoff_zone])


def make_api(
    service: Service,
    log: PredictionLog,
    admin_token: str | None,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> Api:
    """Put the application together.

    Args:
        service: What answers.
        log: Keeps every answer.
        admin_token: What ``POST /reload`` asks for; None refuses everyone.
        lifespan: Starts and stops the two.
    """
    app = FastAPI(title=service.name, version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    predictions = Predictions(service, log)
    hot = [
        HotRoute("/predict", predictions.predict),
        HotRoute("/predict/batch", predictions.predict_batch),
        HotRoute(f"/v2/models/{service.name}/infer", predictions.infer),
    ]
    # FastAPI knows them too, for what is not a POST.
    app.router.routes.extend(Route(route.path, route, methods=["POST"]) for route in hot)
    scrape = Scrape(ServiceCollector(service, log))
    zones = _encode([{"zone": zone.number, "name": zone.name, "borough": zone.borough} for zone in ZONES])

    @app.exception_handler(NotReady)
    async def not_ready(request: Request, trouble: NotReady) -> Response:
        return _json(ErrorAnswer(str(trouble)), 503, {"retry-after": str(_RETRY_AFTER)})

    @app.exception_handler(RequestValidationError)
    async def bad_query(request: Request, trouble: RequestValidationError) -> Response:
        first = trouble.errors()[0]
        field = ".".join(map(str, first["loc"][1:]))
        return _json(ErrorAnswer(f"{field}: {first['msg']}.", field), 422)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, trouble: HTTPException) -> Response:
        sentence = f"{request.method} {request.url.path}: {trouble.detail}. GET /openapi.json lists what there is."
        return _json(ErrorAnswer(sentence), trouble.status_code, dict(trouble.headers or {}))

    @app.exception_handler(Exception)
    async def defect(request: Request, trouble: Exception) -> Response:
        return _json(_DEFECT, 500)

    def model() -> dict[str, Any]:
        arms = service.arms
        return {
            "model": service.name,
            "share": arms.share,
            "champion": describe_arm(arms.champion),
            "challenger": describe_arm(arms.challenger) if arms.challenger else None,
            "problems": service.problems,
        }

    @app.get("/model", summary="What serves")
    async def get_model() -> Response:
        return _json(model())

    @app.get("/zones", summary="The taxi zones")
    async def get_zones() -> Response:
        return Response(zones, media_type="application/json")

    @app.get("/explore", summary="A trip at each half hour of a day")
    async def explore(
        pickup_zone: _ZoneQuery,
        dropoff_zone: _ZoneQuery,
        day: Annotated[date, Query(alias="date", description=f"Of the years {FIRST_YEAR} to {LAST_YEAR}.")],
        miles: Annotated[float | None, Query(ge=0, le=FARTHEST_MILES, allow_inf_nan=False)] = None,
    ) -> Response:
        if not FIRST_YEAR <= day.year <= LAST_YEAR:
            return _json(ErrorAnswer(f"date: a day of {FIRST_YEAR} to {LAST_YEAR} is asked.", "date"), 422)
        arms = service.arms
        midnight = local_seconds(datetime(day.year, day.month, day.day), "date")
        known = nan if miles is None else miles
        trips = Trips.of(
            [Trip(pickup_zone, dropoff_zone, known, midnight + 1800 * half_hour) for half_hour in range(48)]
        )
        said = {}
        for arm in arms.all:
            _, prediction = arms.predict(arm, trips)
            said[arm.name] = {
                "minutes": prediction.minutes.tolist(),
                "lower": prediction.lower.tolist(),
                "upper": prediction.upper.tolist(),
            }
        usual = _usual_miles(arms.champion.model, pickup_zone, dropoff_zone)
        return _json({"usual_miles": usual, "arms": said})

    @app.get("/healthz", summary="Whether the process is alive")
    async def healthz() -> Response:
        return _json({"alive": True})

    @app.get("/readyz", summary="Whether a champion is loaded")
    async def readyz() -> Response:
        arms = service.arms
        return _json({"ready": True, "version": arms.champion.version, "problems": service.problems})

    @app.get("/metrics", summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return Response(scrape.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/reload", summary="Ask the registry now")
    async def reload(authorization: Annotated[str, Header()] = "") -> Response:
        expected = f"Bearer {admin_token}".encode()
        if not admin_token or not hmac.compare_digest(authorization.encode(), expected):
            sentence = "Send 'Authorization: Bearer TOKEN', with the TRIPCAST_ADMIN_TOKEN of the service."
            return _json(ErrorAnswer(sentence), 401, {"www-authenticate": "Bearer"})
        if not await service.reload():
            return _json(ErrorAnswer("The registry did not answer in time; GET /model says what serves."), 504)
        return _json(model())

    def check_name(name: str) -> None:
        if name != service.name:
            raise HTTPException(404, f"There is no model '{name}' here, only {service.name}")

    @app.get("/v2", summary="The server")
    async def v2() -> Response:
        return _json({"name": "tripcast", "version": __version__, "extensions": []})

    @app.get("/v2/health/live", summary="Whether the process is alive")
    async def v2_live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready", summary="Whether a champion is loaded")
    async def v2_ready() -> Response:
        return _json({"ready": bool(service.arms)})

    @app.get("/v2/models/{name}", summary="What the model takes and gives")
    async def v2_model(name: str) -> Response:
        check_name(name)
        arms = service.arms
        return _json(
            {
                "name": name,
                "versions": [str(arm.version) for arm in arms.all],
                "platform": "tripcast",
                "inputs": [{"name": at, "datatype": kind, "shape": [-1]} for at, kind in DATATYPES.items()],
                "outputs": [{"name": at, "datatype": "FP64", "shape": [-1]} for at in _OUTPUTS],
            }
        )

    @app.get("/v2/models/{name}/ready", summary="Whether the model answers")
    async def v2_model_ready(name: str) -> Response:
        check_name(name)
        return _json({"name": name, "ready": bool(service.arms)})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    app.mount("/static", _PageFiles(directory=PAGE), name="static")
    describe(app, hot=[route.path for route in hot])
    return Api(app, hot, service)
