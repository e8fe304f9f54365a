"""What a client may send: the types of the request bodies, their ranges, and the sentence for each way to miss them."""

from __future__ import annotations

import json
import re
from datetime import datetime
from math import nan
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from tripcast.serving.asgi import BadRequest
from tripcast.taxi.trips import FARTHEST_MILES, Trip
from tripcast.taxi.zones import LAST_ZONE

#: Trips in one request.
MAX_TRIPS = 10_000

#: Pickup years that are taken: others are slips, of a unit for example.
FIRST_YEAR, LAST_YEAR = 2000, 2099

_NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1)

Zone = Annotated[int, Meta(ge=1, le=LAST_ZONE, description="Taxi zone number; GET /zones lists them.")]
Miles = Annotated[float, Meta(ge=0, le=FARTHEST_MILES)]
Pickup = Annotated[
    datetime,
    Meta(
        description="ISO 8601, of the years 2000 to 2099. New York local time, or with an offset from UTC.",
        extra_json_schema={"pattern": "^20[0-9]{2}-", "examples": ["2021-02-10T08:15:00", "2021-02-10T13:15:00Z"]},
    ),
]
RiderId = Annotated[str, Meta(min_length=1, max_length=128)]


class TripRequest(Struct, forbid_unknown_fields=True, gc=False):
    """A trip to predict.

    Attributes:
        pickup_zone: Taxi zone number, 1 to 265.
        dropoff_zone: Taxi zone number, 1 to 265.
        pickup_datetime: New York local time, or with an offset.
        trip_distance_miles: Of the planned route, 0 to 100. None or 0 is not known: the interval is as wide as that
            makes it.
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
        explain: Whether to say what makes the prediction what it is, too; that takes milliseconds.
    """

    explain: bool = False


class Batch(Struct, forbid_unknown_fields=True):
    """Trips to predict, at most 10,000."""

    trips: Annotated[list[TripRequest], Meta(max_length=MAX_TRIPS)]


#: What is asked of each field, by its last name.
_RULES = {
    "pickup_zone": f"a taxi zone number from 1 to {LAST_ZONE} is asked (GET /zones lists them)",
    "dropoff_zone": f"a taxi zone number from 1 to {LAST_ZONE} is asked (GET /zones lists them)",
    "pickup_datetime": f"an ISO 8601 time of the years {FIRST_YEAR} to {LAST_YEAR} is asked, for example "
    "2021-02-10T08:15:00 (New York local time) or 2021-02-10T13:15:00Z",
    "trip_distance_miles": f"a number of miles from 0 to {FARTHEST_MILES} is asked, or null if it is not known",
    "rider_id": "a text of 1 to 128 characters is asked, or null",
    "trips": f"a list of at most {MAX_TRIPS:,} trips is asked; send more in several requests",
}

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_MISSING = re.compile(r"missing required field `(.+)`")
_UNKNOWN = re.compile(r"unknown field `(.+)`")

#: What decoding a body may raise.
BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: Characters of a value that a sentence repeats.
_SHOWN = 60


class _Digits(str):
    """A whole number as it was written: Python takes no more than 4,300 digits for one."""


def bad_body(body: bytes, trouble: msgspec.DecodeError | UnicodeDecodeError | RecursionError) -> BadRequest:
    """What to answer to a body that could not be decoded.

    Args:
        body: The body.
        trouble: What msgspec said.
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
    text = value if isinstance(value, _Digits) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def to_trip(asked: TripRequest, pickup_field: str) -> Trip:
    """The trip that a model is asked for.

    Args:
        asked: The trip as the client wrote it.
        pickup_field: The place of its pickup in the request.

    Raises:
        BadRequest: If its year is not one that is taken.
    """
    miles = asked.trip_distance_miles
    return Trip(
        asked.pickup_zone,
        asked.dropoff_zone,
        nan if miles is None else miles,
        local_seconds(asked.pickup_datetime, pickup_field),
    )


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
