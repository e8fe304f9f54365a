"""What a client may send: the types of the request bodies, their ranges, and the sentence for each way to miss them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from math import isfinite, nan
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from fastapi import Query
from msgspec import Meta, Struct

from tripcast.serving.asgi import BadRequest
from tripcast.serving.served_model import ServedModel
from tripcast.serving.service import Service
from tripcast.taxi import model_name
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.trips import FARTHEST_MILES, Trip
from tripcast.taxi.zones import LAST_ZONE

#: Trips in one request.
MAX_TRIPS = 10_000

#: Pickup years that are taken: others are slips, of a unit for example.
FIRST_YEAR, LAST_YEAR = 2000, 2099

#: Days of those years, and the times that are taken, for the description of the API.
_DAY = (
    r"20[0-9]{2}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"|20([02468][048]|[13579][26])-02-29"
)
DAY_PATTERN = rf"^({_DAY})$"
_TIME_PATTERN = (
    rf"^({_DAY})[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{{1,9}})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?$"
)

_NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1)

Zone = Annotated[int, Meta(ge=1, le=LAST_ZONE, description="Taxi zone number; GET /zones lists them.")]
Miles = Annotated[float, Meta(ge=0, le=FARTHEST_MILES)]
Pickup = Annotated[
    datetime,
    Meta(
        description="ISO 8601, of the years 2000 to 2099. New York local time, or with an offset from UTC.",
        extra_json_schema={"pattern": _TIME_PATTERN, "examples": ["2021-02-10T08:15:00", "2021-02-10T13:15:00Z"]},
    ),
]
RiderId = Annotated[str, Meta(min_length=1, max_length=128)]
Taxi = Annotated[
    str,
    Meta(
        description="Whose model is asked; left out or null, it is the first that serves, in this order.",
        extra_json_schema={"enum": list(FEEDS)},
    ),
]
TaxiQuery = Annotated[str | None, Query(description="Whose model is asked.", json_schema_extra={"enum": list(FEEDS)})]


class TripRequest(Struct, forbid_unknown_fields=True, gc=False):
    """A trip to predict.

    Attributes:
        pickup_zone: Taxi zone number, 1 to 265.
        dropoff_zone: Taxi zone number, 1 to 265.
        pickup_datetime: New York local time, or with an offset.
        trip_distance_miles: Of the planned route, 0 to 100. None or 0 is not known: the interval is as wide as that
            makes it. Nor is it to a model of trips that are recorded without a distance.
        rider_id: Who asks; the same rider is answered by the same arm.
    """

    pickup_zone: Zone
    dropoff_zone: Zone
    pickup_datetime: Pickup
    trip_distance_miles: Miles | None = None
    rider_id: RiderId | None = None


class PredictionRequest(TripRequest, forbid_unknown_fields=True, gc=False):
    """A trip to predict.

    Attributes:
        taxi: Whose model is asked; None is the first that serves.
        explain: Whether to say what makes the prediction what it is, too; that takes milliseconds.
    """

    taxi: Taxi | None = None
    explain: bool = False


class Batch(Struct, forbid_unknown_fields=True):
    """Trips to predict, at most 10,000, all of one taxi."""

    trips: Annotated[list[TripRequest], Meta(max_length=MAX_TRIPS)]
    taxi: Taxi | None = None


#: What is asked of each field, by its last name.
_RULES = {
    "pickup_zone": f"a taxi zone number from 1 to {LAST_ZONE} is asked (GET /zones lists them)",
    "dropoff_zone": f"a taxi zone number from 1 to {LAST_ZONE} is asked (GET /zones lists them)",
    "pickup_datetime": f"an ISO 8601 time of the years {FIRST_YEAR} to {LAST_YEAR} is asked, for example "
    "2021-02-10T08:15:00 (New York local time) or 2021-02-10T13:15:00Z",
    "trip_distance_miles": f"a number of miles from 0 to {FARTHEST_MILES} is asked, or null if it is not known",
    "rider_id": "a text of 1 to 128 characters is asked, or null",
    "taxi": f"one of {', '.join(FEEDS)} is asked, or null for the first that serves (GET /model lists those that do)",
    "trips": f"a list of at most {MAX_TRIPS:,} trips is asked; send more in several requests",
}

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_MISSING = re.compile(r"missing required field `(.+)`")
_UNKNOWN = re.compile(r"unknown field `(.+)`")

#: The models of feeds that say nothing of distances.
_WITHOUT_DISTANCE = frozenset(model_name(feed.name) for feed in FEEDS.values() if not feed.has_distance)

#: What decoding a body may raise.
BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: Characters of a value that a sentence repeats.
_SHOWN = 60


_Body = TypeVar("_Body")


class _Digits(str):
    """A whole number as it was written: Python takes no more than 4,300 digits for one."""


def decode_again(decode: Callable[[bytes], _Body], body: bytes, trouble: Exception) -> _Body:
    """Decode a body that has failed, with 74.0 for 74: to JSON these are one number, to msgspec two types.

    Args:
        decode: What has failed.
        body: The body.
        trouble: What it said; one of ``BAD_JSON``.

    Raises:
        BadRequest: If it fails again.
    """
    if isinstance(trouble, msgspec.ValidationError):
        with suppress(ValueError, OverflowError, RecursionError):
            body = msgspec.json.encode(json.loads(body, parse_float=_number))
        try:
            return decode(body)
        except BAD_JSON as still:
            trouble = still
    raise bad_body(body, trouble) from None


def _number(text: str) -> int | float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(text)
    return int(number) if number.is_integer() else number


def bad_body(body: bytes, trouble: Exception) -> BadRequest:
    """What to answer to a body that could not be decoded.

    Args:
        body: The body.
        trouble: What msgspec said; one of ``BAD_JSON``.
    """
    if not isinstance(trouble, msgspec.ValidationError):
        return BadRequest(400, f"The body is not JSON ({trouble}). Send one JSON object.")
    match = _PLACE.match(str(trouble))
    assert match is not None
    what, field = match["what"], match["where"] or ""
    if missing := _MISSING.search(what):
        field = f"{field}.{missing[1]}".lstrip(".")
        return BadRequest(422, f"{field} is missing: {_rule(field, what)}.", field)
    if unknown := _UNKNOWN.search(what):
        field = f"{field}.{unknown[1]}".lstrip(".")
        return BadRequest(422, f"{field} is not a field of this request. Leave it out, or correct its name.", field)
    if not field:
        return BadRequest(422, f"The body is not what is asked here: {what[:1].lower()}{what[1:]}.")
    try:
        value = _value(body, field)
    except (ValueError, RecursionError):  # JSON up to that place only
        return BadRequest(400, f"The body is not JSON after {field}. Send one JSON object.", field)
    return BadRequest(422, f"{field} is {value}: {_rule(field, what)}.", field)


def _rule(field: str, what: str) -> str:
    return _RULES.get(field.rpartition(".")[2].partition("[")[0], f"{what[:1].lower()}{what[1:]}")


def _value(body: bytes, field: str) -> str:
    """What the body has at a place, as JSON, shortened."""
    # Python's own reader, since it takes what msgspec does not: numbers out of range among others.
    value: Any = json.loads(body, parse_int=_Digits)
    for name, index in _STEP.findall(field):
        value = value[int(index)] if index else value[name]
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    return _shorten(value if isinstance(value, _Digits) else json.dumps(value))


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def served_model(service: Service, taxi: str | None) -> ServedModel:
    """The model of the taxi that a request names.

    Raises:
        BadRequest: If there is no such taxi (422), or it does not serve (404).
        NotReady: If none does.
    """
    model = service.offered.get(taxi)
    if model is None:
        raise _unserved(service, taxi)
    return model


def _unserved(service: Service, taxi: str | None) -> BadRequest:
    answering = f"Those that serve: {', '.join(service.serving)}."
    model = service.models.get(taxi or "")
    if model is None:
        return BadRequest(422, f"There is no taxi {_shorten(json.dumps(taxi))}. {answering}", "taxi")
    return BadRequest(404, " ".join([f"The taxi '{taxi}' does not serve.", *model.problems, answering]), "taxi")


def to_trip(asked: TripRequest, model: str, pickup_field: str) -> Trip:
    """The trip that a model is asked for.

    Args:
        asked: The trip as the client wrote it.
        model: The model's name.
        pickup_field: The place of its pickup in the request.

    Raises:
        BadRequest: If its year is not one that is taken.
    """
    return Trip(
        asked.pickup_zone,
        asked.dropoff_zone,
        known_miles(asked.trip_distance_miles, model),
        local_seconds(asked.pickup_datetime, pickup_field),
    )


def knows_miles(model: str) -> bool:
    """Whether a model has learned of distances: the records of its feed have them."""
    return model not in _WITHOUT_DISTANCE


def known_miles(miles: float | None, model: str) -> float:
    """The miles that a model is asked with: NaN where the client says none, or where the model has learned of none."""
    return miles if miles is not None and knows_miles(model) else nan


def local_seconds(pickup: datetime, field: str) -> int:
    """Seconds since 1970-01-01 in New York local time.

    Args:
        pickup: In New York local time, or with an offset.
        field: Its place in the request.

    Raises:
        BadRequest: If its year is not one that is taken.
    """
    if not FIRST_YEAR <= pickup.year <= LAST_YEAR:
        raise BadRequest(422, f"{field} is {pickup.isoformat()}: {_RULES['pickup_datetime']}.", field)
    if pickup.tzinfo is not None:
        pickup = pickup.astimezone(_NEW_YORK).replace(tzinfo=None)
    since = pickup - _EPOCH
    return since.days * 86_400 + since.seconds
