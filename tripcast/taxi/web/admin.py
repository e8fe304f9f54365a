"""What operators and their programs ask: what serves, whether it is well, and to take up what the registry says."""

from __future__ import annotations

import hmac
from math import isfinite
from typing import Annotated, Any

from fastapi import APIRouter, Header
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.responses import FileResponse, Response

from tripcast.models.model import MODEL_CARD
from tripcast.serving.arms import Arm
from tripcast.serving.asgi import ErrorAnswer, json_response
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prometheus import ServiceCollector
from tripcast.serving.served_model import ServedModel
from tripcast.serving.service import Service
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.web.requests import TaxiQuery, served_model

#: The card has a style sheet and no scripts.
_CARD_HEADERS = {
    "vary": "accept",
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


def router(service: Service, log: PredictionLog, admin_token: str | None) -> APIRouter:
    """The routes.

    Args:
        service: Says which models answer.
        log: Counts what it logs.
        admin_token: What ``POST /reload`` asks for; None refuses everyone.
    """
    router = APIRouter()
    counted = CollectorRegistry()
    counted.register(ServiceCollector(service, log))
    ProcessCollector(registry=counted)

    def describe(model: ServedModel) -> dict[str, Any]:
        arms = model.arms
        return {
            "taxis": {taxi: FEEDS[taxi].title for taxi in service.serving},
            "model": model.name,
            "share": arms.share,
            "champion": describe_arm(arms.champion),
            "challenger": describe_arm(arms.challenger) if arms.challenger else None,
            "problems": [*model.problems, *log.problems],
        }

    @router.get(
        "/model",
        summary="Which taxis serve, and which versions of one; for who asks for HTML, the champion's model card",
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def get_model(taxi: TaxiQuery = None, accept: Annotated[str, Header()] = "") -> Response:
        model = served_model(service, taxi)
        card = model.folder(model.arms.champion) / MODEL_CARD
        # A version that was registered without a card has none.
        if "text/html" in accept and card.exists():
            return FileResponse(card, headers=_CARD_HEADERS, media_type="text/html")
        return json_response(describe(model), headers={"vary": "accept"})

    @router.get("/healthz", summary="Whether the process is alive")
    async def healthz() -> Response:
        return json_response({"alive": True})

    @router.get("/readyz", summary="Whether a champion is loaded")
    async def readyz() -> Response:
        versions = {model.name: model.arms.champion.version for model in service.serving.values()}
        return json_response({"ready": True, "versions": versions, "problems": [*service.problems, *log.problems]})

    @router.get("/metrics", summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(counted), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post("/reload", summary="Ask the registry now, for all models; says what GET /model does")
    async def reload(taxi: TaxiQuery = None, authorization: Annotated[str, Header()] = "") -> Response:
        expected = f"Bearer {admin_token}".encode()
        if not admin_token or not hmac.compare_digest(authorization.encode(), expected):
            sentence = "Send 'Authorization: Bearer TOKEN', with the TRIPCAST_ADMIN_TOKEN of the service."
            return json_response(ErrorAnswer(sentence), 401, {"www-authenticate": "Bearer"})
        if not await service.reload():
            return json_response(ErrorAnswer("The registry did not answer in time; GET /model says what serves."), 504)
        return json_response(describe(served_model(service, taxi)))

    return router


def describe_arm(arm: Arm) -> dict[str, Any]:
    """An arm, as ``GET /model`` shows it."""
    manifest = arm.model.manifest
    figures = {name: _number(arm.tags.get(f"tripcast.{name}")) for name in ("rmse", "notebook_rmse")}
    return {
        "version": arm.version,
        "candidate": manifest.candidate,
        "train_months": manifest.train_months,
        "test_month": arm.tags.get("tripcast.test_month"),
        "trips": manifest.trips,
        "simulated": arm.tags.get("tripcast.simulated") == "true",
        "digest": arm.model.digest,
        "calibration": manifest.calibration,
        "metrics": {name: figure for name, figure in figures.items() if figure is not None},
    }


def _number(tag: str | None) -> float | None:
    """The number that a tag holds; None if there is none: anybody may write tags in MLflow."""
    try:
        number = float(tag or "")
    except ValueError:
        return None
    return number if isfinite(number) else None
