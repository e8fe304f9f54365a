"""The page, and what it asks for."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from tripcast.models import Model
from tripcast.serving.asgi import BadRequest, encode, json_response
from tripcast.serving.service import Service
from tripcast.taxi.candidates.boosted import Boosted
from tripcast.taxi.trips import FARTHEST_MILES, Trip, Trips
from tripcast.taxi.web.requests import (
    DAY_PATTERN,
    FIRST_YEAR,
    LAST_YEAR,
    TaxiQuery,
    known_miles,
    knows_miles,
    local_seconds,
    served_model,
)
from tripcast.taxi.zones import LAST_ZONE, ZONES

_FOLDER = Path(__file__).parent / "page"

#: The page loads nothing from elsewhere and has no scripts but its own.
_HEADERS = {
    "cache-control": "no-cache",  # asked for again with its ETag: a release shows at once
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}

_ZoneQuery = Annotated[int, Query(ge=1, le=LAST_ZONE, description="Taxi zone number.")]


class PageFiles(StaticFiles):
    """The page's files, with its headers."""

    def __init__(self) -> None:
        super().__init__(directory=_FOLDER)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Answer with a file."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(_HEADERS)
        return response


def router(service: Service) -> APIRouter:
    """The page's routes, but its files.

    Args:
        service: Says which models answer.
    """
    router = APIRouter()
    zones = encode([{"zone": zone.number, "name": zone.name, "borough": zone.borough} for zone in ZONES])

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_FOLDER / "index.html", headers=_HEADERS)

    @router.get("/zones", summary="The taxi zones")
    async def get_zones() -> Response:
        return Response(zones, media_type="application/json")

    @router.get("/explore", summary="A trip at each half hour of a day")
    async def explore(
        pickup_zone: _ZoneQuery,
        dropoff_zone: _ZoneQuery,
        day: Annotated[
            date,
            Query(
                alias="date",
                description=f"Of the years {FIRST_YEAR} to {LAST_YEAR}.",
                json_schema_extra={"pattern": DAY_PATTERN},
            ),
        ],
        miles: Annotated[float | None, Query(ge=0, le=FARTHEST_MILES, allow_inf_nan=False)] = None,
        taxi: TaxiQuery = None,
    ) -> Response:
        if not FIRST_YEAR <= day.year <= LAST_YEAR:
            raise BadRequest(422, f"date: a day of {FIRST_YEAR} to {LAST_YEAR} is asked.", "date")
        model = served_model(service, taxi)
        arms = model.arms
        midnight = local_seconds(datetime(day.year, day.month, day.day), "date")
        known = known_miles(miles, model.name)
        trips = Trips.of(
            [Trip(pickup_zone, dropoff_zone, known, midnight + 1800 * half_hour) for half_hour in range(48)]
        )
        curves = {}
        for arm in arms.all:
            by, prediction = arms.predict(arm, trips)
            if by is arm:  # a challenger that fails has no curve: the champion's is not its own
                curves[arm.name] = {
                    "minutes": prediction.minutes.tolist(),
                    "lower": prediction.lower.tolist(),
                    "upper": prediction.upper.tolist(),
                }
        usual = _usual_miles(arms.champion.model, pickup_zone, dropoff_zone)
        return json_response({"knows_miles": knows_miles(model.name), "usual_miles": usual, "arms": curves})

    return router


def _usual_miles(model: Model, pickup_zone: int, dropoff_zone: int) -> float | None:
    """Miles usually driven between two zones; None of a model that has not learned them."""
    if not isinstance(model.predictor, Boosted):
        return None
    return float(model.predictor.tables.geography.usual_miles[pickup_zone, dropoff_zone])
