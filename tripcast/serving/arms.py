"""The arms of the rollout: the models in memory that answer, and which of them answers whom.

A model takes part only after it has been tried (``version_trial.py``). A challenger that fails in service is stood in
for by the champion, so that trying a model costs no rider an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from tripcast.errors import InvalidRequest
from tripcast.models import Model
from tripcast.models.model import Prediction
from tripcast.months import Month
from tripcast.serving.model_cache import DesiredState
from tripcast.serving.prediction_rows import Answerer, ArmName
from tripcast.serving.traffic_split import takes_part


@dataclass(frozen=True)
class Arm:
    """A model that answers.

    Attributes:
        answerer: Its registered model, version and arm.
        model: Answers; asked for single trips by one thread only.
        tags: What the registry says of the version.
    """

    answerer: Answerer
    model: Model
    tags: Mapping[str, str]

    @property
    def name(self) -> ArmName:
        """``champion`` or ``challenger``."""
        return self.answerer.arm

    @property
    def version(self) -> int:
        """Its number in the registry."""
        return self.answerer.version

    @property
    def month_end(self) -> float:
        """End of the latest month that its model has learned from or was judged on, seconds since 1970; NaN if unknown.

        To the day: for people and alerts.
        """
        months = [*self.model.manifest.train_months, self.tags.get("tripcast.test_month", "")]
        try:
            return float(Month.parse(max(months)).end.astype("datetime64[s]").astype(int))
        except InvalidRequest:  # anybody may write tags in MLflow
            return nan


@dataclass(frozen=True)
class Arms:
    """Who answers now. It is replaced as a whole, so that a request sees one state or the other.

    Attributes:
        champion: Answers.
        challenger: Answers a share of the riders in its place.
        share: That share, 0 to 1.
        salt: Of the riders' places (``rollout.place``).
        on_challenger_failure: Told each time that the challenger raised, or gave no finite number.
    """

    champion: Arm
    challenger: Arm | None
    share: float
    salt: str
    on_challenger_failure: Callable[[Arm, str], None]

    @property
    def all(self) -> list[Arm]:
        """The arms there are, the champion first."""
        return [arm for arm in (self.champion, self.challenger) if arm is not None]

    def choose(self, rider_id: str | None) -> Arm:
        """The arm that is to answer a rider."""
        if self.challenger is not None and takes_part(rider_id, self.share, self.salt):
            return self.challenger
        return self.champion

    def answer(self, rider_id: str | None, trip: Any) -> tuple[Arm, tuple[float, float, float]]:
        """Predict one trip.

        Args:
            rider_id: Who asks, if known.
            trip: The trip, as ``Model.predict_one`` takes it.

        Returns:
            The arm that did answer, and its duration, lower and upper end in minutes.
        """
        arm = self.choose(rider_id)
        if arm is not self.champion:
            try:
                prediction = arm.model.predict_one(trip)
                if isfinite(sum(prediction)):
                    return arm, prediction
                self.on_challenger_failure(arm, f"it predicts {prediction}")
            except Exception as trouble:  # whatever it is, the champion answers
                self.on_challenger_failure(arm, repr(trouble))
        champion = self.champion
        return champion, champion.model.predict_one(trip)

    def predict(self, arm: Arm, trips: Any) -> tuple[Arm, Prediction]:
        """Predict many trips by one arm.

        Args:
            arm: Which is to answer.
            trips: The trips, n, as ``Model.predict`` takes them.

        Returns:
            The arm that did answer, and its predictions.
        """
        if arm is not self.champion:
            try:
                prediction = arm.model.predict(trips)
                if is_finite(prediction):
                    return arm, prediction
                self.on_challenger_failure(arm, "it predicts a duration that is not a finite number")
            except Exception as trouble:  # whatever it is, the champion answers
                self.on_challenger_failure(arm, repr(trouble))
        return self.champion, self.champion.model.predict(trips)


def is_finite(prediction: Prediction) -> bool:
    """Whether every number of a prediction is one."""
    return bool(np.isfinite(prediction.minutes + prediction.lower + prediction.upper).all())


def salt_of(model_name: str, desired: DesiredState) -> str:
    """The salt of a rollout: the challenger's version, so that each one is tried on other riders."""
    return f"{model_name}/{desired.challenger.version if desired.challenger else None}"
