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


class OutputTensor(Struct):
    """An output of the Open Inference Protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferenceAnswer(Struct, omit_defaults=True):
    """An answer of the Open Inference Protocol."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class ErrorAnswer(Struct):
    """Why a request was not answered, and which field of it is meant."""

    error: str
    field: str | None = None
