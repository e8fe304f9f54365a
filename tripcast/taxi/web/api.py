"""The web API put together: the routes with the fast path, the other ones, and how errors are answered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from tripcast import __version__
from tripcast.serving.asgi import DEFECT, RETRY_AFTER, Api, BadRequest, ErrorAnswer, FastRoute, json_response
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.served_model import NotReady
from tripcast.serving.service import Service
from tripcast.taxi.web import admin, pages
from tripcast.taxi.web.open_inference import OpenInference
from tripcast.taxi.web.openapi import describe
from tripcast.taxi.web.predictions import Predictions


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
    app = FastAPI(
        title="tripcast",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to the host and scheme that the client names, which a proxy may have changed
        lifespan=lifespan,
    )
    predictions = Predictions(service, log)
    open_inference = OpenInference(service, predictions, log)
    plain = [
        FastRoute("/predict", predictions.predict, log.flush),
        FastRoute("/predict/batch", predictions.predict_batch, log.flush),
    ]
    # FastAPI knows them too, for what is not a POST.
    posts = [*(Route(route.path, route, methods=["POST"]) for route in plain), *open_inference.posts]
    app.router.routes.extend(posts)
    for router in (admin.router(service, log, admin_token), open_inference.router(), pages.router(service)):
        app.include_router(router)
    app.mount("/static", pages.PageFiles(), name="static")
    _answer_errors(app)
    describe(app, described=[route.path for route in posts])
    return Api(app, [*plain, *open_inference.fast], service.metrics)


def _answer_errors(app: FastAPI) -> None:
    """Answer every error as ``ErrorAnswer``."""

    @app.exception_handler(NotReady)
    async def not_ready(request: Request, trouble: NotReady) -> Response:
        return json_response(ErrorAnswer(str(trouble)), 503, {"retry-after": str(RETRY_AFTER)})

    @app.exception_handler(BadRequest)
    async def bad_request(request: Request, bad: BadRequest) -> Response:
        return json_response(ErrorAnswer(bad.sentence, bad.field), bad.status)

    @app.exception_handler(RequestValidationError)
    async def bad_query(request: Request, trouble: RequestValidationError) -> Response:
        first = trouble.errors()[0]
        field = ".".join(map(str, first["loc"][1:]))
        return json_response(ErrorAnswer(f"{field}: {first['msg']}.", field), 422)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, trouble: HTTPException) -> Response:
        sentence = f"{request.method} {request.url.path}: {trouble.detail}. GET /openapi.json lists what there is."
        return json_response(ErrorAnswer(sentence), trouble.status_code, dict(trouble.headers or {}))

    @app.exception_handler(Exception)
    async def defect(request: Request, trouble: Exception) -> Response:
        return json_response(DEFECT, 500)
