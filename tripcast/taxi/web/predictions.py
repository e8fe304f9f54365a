"""Predictions of single trips and of batches."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tripcast.models import Prediction
from tripcast.serving.arms import Arm, Arms
from tripcast.serving.asgi import MODEL, Scope, encode
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.service import Service
from tripcast.taxi.explanation import Explanation, explain
from tripcast.taxi.trips import Trip, Trips
from tripcast.taxi.ways import way_of, ways_of
from tripcast.taxi.web.answers import PredictionAnswer
from tripcast.taxi.web.requests import (
    BAD_JSON,
    Batch,
    PredictionRequest,
    TripRequest,
    decode_again,
    served_model,
    to_trip,
)

#: Fewer trips than this are predicted at once, more in a thread beside the other requests.
_FEW_TRIPS = 50

#: Trips of a batch that are turned into numbers and back at a time: other requests wait for that.
_SLICE = 1_000

_decode_trip = msgspec.json.Decoder(PredictionRequest).decode
_decode_batch = msgspec.json.Decoder(Batch).decode


class Predictions:
    """Answers to the requests for predictions.

    Args:
        service: Says which models answer.
        log: Keeps every answer.
    """

    def __init__(self, service: Service, log: PredictionLog) -> None:
        self._service = service
        self._log = log
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="batch")

    async def predict(self, scope: Scope, body: bytes) -> bytes:
        """One trip."""
        try:
            asked = _decode_trip(body)
        except BAD_JSON as trouble:
            asked = decode_again(_decode_trip, body, trouble)
        model = served_model(self._service, asked.taxi)
        scope[MODEL] = model.name
        trip = to_trip(asked, model.name, "pickup_datetime")
        way = way_of(trip.trip_distance_miles, metered=False)
        arm, prediction = model.arms.answer(asked.rider_id, trip)
        prediction_id = self._log.append(arm.answerer, asked.rider_id, trip, way, prediction)
        self._service.metrics.predictions[arm.answerer] += 1
        answer = PredictionAnswer(prediction_id, *prediction, *arm.answerer, way)
        if asked.explain:
            answer.explanation = await self._explain(arm, trip, prediction[0])
        return encode(answer)

    async def _explain(self, arm: Arm, trip: Trip, minutes: float) -> Explanation | None:
        # It takes as long as a hundred predictions.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._beside, explain, arm.model, trip, minutes)

    async def predict_batch(self, scope: Scope, body: bytes) -> bytes:
        """Up to 10,000 trips, each by its rider's arm."""
        try:
            batch = _decode_batch(body)
        except BAD_JSON as trouble:
            batch = decode_again(_decode_batch, body, trouble)
        model = served_model(self._service, batch.taxi)
        scope[MODEL] = model.name
        arms, asked = model.arms, batch.trips
        trips = [to_trip(trip, model.name, f"trips[{row}].pickup_datetime") for row, trip in enumerate(asked)]
        # Slice by slice, and other requests in between.
        parts = [
            await self._predict_slice(arms, asked[first : first + _SLICE], trips[first : first + _SLICE])
            for first in range(0, len(asked), _SLICE)
        ]
        return b'{"predictions":[%s]}' % b",".join(parts)

    async def _predict_slice(self, arms: Arms, asked: list[TripRequest], trips: list[Trip]) -> bytes:
        """The answers to some trips as JSON, without the brackets of the list."""
        chosen = [arms.choose(trip.rider_id) for trip in asked]
        answers: list[PredictionAnswer | None] = [None] * len(asked)
        for arm in arms.all:
            rows = [row for row, by in enumerate(chosen) if by is arm]
            if not rows:
                continue
            part = Trips.of([trips[row] for row in rows])
            by, prediction = await self.in_thread(arms, arm, part)
            ids = self.log(by, [asked[row].rider_id for row in rows], part, prediction)
            numbers = zip(
                prediction.minutes.tolist(), prediction.lower.tolist(), prediction.upper.tolist(), strict=True
            )
            ways = ways_of(part, metered=False).tolist()
            for row, prediction_id, minutes, way in zip(rows, ids, numbers, ways, strict=True):
                answers[row] = PredictionAnswer(prediction_id, *minutes, *by.answerer, way)
        return encode(answers)[1:-1]

    async def in_thread(self, arms: Arms, arm: Arm, trips: Trips) -> tuple[Arm, Prediction]:
        """Predict trips by one arm, in a thread if they are many; as ``Arms.predict``."""
        if len(trips) < _FEW_TRIPS:
            return arms.predict(arm, trips)
        return await asyncio.get_running_loop().run_in_executor(self._beside, arms.predict, arm, trips)

    def log(self, arm: Arm, riders: list[str | None], trips: Trips, prediction: Prediction) -> list[str]:
        """Count and log the answers of one arm to n trips, and return their ids."""
        self._service.metrics.predictions[arm.answerer] += len(trips)
        return self._log.extend(arm.answerer, riders, trips, ways_of(trips, metered=False).tolist(), prediction)
