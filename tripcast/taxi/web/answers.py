"""What the service answers with, as msgspec writes it."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from tripcast.taxi.explanation import Explanation


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
    explanation: Explanation | UnsetType | None = UNSET


class BatchAnswer(Struct):
    """Predictions in the order of the trips."""

    predictions: list[PredictionAnswer]
