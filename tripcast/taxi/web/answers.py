"""What the service answers with, as msgspec writes it."""

from __future__ import annotations

from msgspec import Struct


class PredictionAnswer(Struct, gc=False):
    """A prediction, in minutes: eight of ten trips end between the lower and the upper end."""

    prediction_id: str
    duration_minutes: float
    lower_minutes: float
    upper_minutes: float
    model: str
    version: int
    arm: str


class BatchAnswer(Struct):
    """Predictions in the order of the trips."""

    predictions: list[PredictionAnswer]
