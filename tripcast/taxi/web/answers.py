"""What the service answers with, as msgspec writes it."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class ExplanationAnswer(Struct, gc=False):
    """Why a prediction is what it is, in minutes: an average trip's, and what the others add; the sum is the duration.

    Attributes:
        average: The mean prediction over the trips that the model learned from.
        distance: What the way between the two zones, or the distance that was given, adds.
        hour: What the hour and the weekday add.
        pickup_zone: What starting there adds.
        dropoff_zone: What going there adds.
    """

    average: float
    distance: float
    hour: float
    pickup_zone: float
    dropoff_zone: float


class PredictionAnswer(Struct, gc=False):
    """A prediction, in minutes: eight of ten trips end between the lower and the upper end, nine before the upper.

    ``way`` says what the interval rests on: ``planned`` if a distance was given, ``zones_only`` if none was, or none
    that can be. ``explanation`` is there if it was asked for; null if the model has none.
    """

    prediction_id: str
    duration_minutes: float
    lower_minutes: float
    upper_minutes: float
    model: str
    version: int
    arm: str
    way: str
    explanation: ExplanationAnswer | UnsetType | None = UNSET


class BatchAnswer(Struct):
    """Predictions in the order of the trips."""

    predictions: list[PredictionAnswer]
