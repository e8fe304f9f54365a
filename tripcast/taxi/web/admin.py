"""What operators and their programs ask: what serves, whether it is well, and to take up what the registry says."""

from __future__ import annotations

import hmac
from math import isfinite
from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.responses import Response

from tripcast.serving.arms import Arm
from tripcast.serving.asgi import ErrorAnswer, json_response
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prometheus import Scrape, ServiceCollector
from tripcast.serving.service import Service


def router(service: Service, log: PredictionLog, admin_token: str | None) -> APIRouter:
    """The routes.

    Args:
        service: Says which models answer.
        log: Counts what it logs.
        admin_token: What ``POST /reload`` asks for; None refuses everyone.
    """
    router = APIRouter()
    scrape = Scrape(ServiceCollector(service, log))

    def model() -> dict[str, Any]:
        arms = service.arms
        return {
            "model": service.name,
            "share": arms.share,
            "champion": describe_arm(arms.champion),
            "challenger": describe_arm(arms.challenger) if arms.challenger else None,
            "problems": service.problems,
        }

    @router.get("/model", summary="What serves")
    async def get_model() -> Response:
        return json_response(model())

    @router.get("/healthz", summary="Whether the process is alive")
    async def healthz() -> Response:
        return json_response({"alive": True})

    @router.get("/readyz", summary="Whether a champion is loaded")
    async def readyz() -> Response:
        arms = service.arms
        return json_response({"ready": True, "version": arms.champion.version, "problems": service.problems})

    @router.get("/metrics", summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return Response(scrape.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post("/reload", summary="Ask the registry now")
    async def reload(authorization: Annotated[str, Header()] = "") -> Response:
        expected = f"Bearer {admin_token}".encode()
        if not admin_token or not hmac.compare_digest(authorization.encode(), expected):
            sentence = "Send 'Authorization: Bearer TOKEN', with the TRIPCAST_ADMIN_TOKEN of the service."
            return json_response(ErrorAnswer(sentence), 401, {"www-authenticate": "Bearer"})
        if not await service.reload():
            return json_response(ErrorAnswer("The registry did not answer in time; GET /model says what serves."), 504)
        return json_response(model())

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
