"""The model card: what one model is, what it is for, how good it is and where it is not.

It is made from what training leaves behind: the manifest of the model folder, the scores on the test month and the
gate's decision. It travels with the model, so it says nothing that is decided later, such as whether the model serves.

Source: Mitchell et al. (2019), Model Cards for Model Reporting, Proceedings of the Conference on Fairness,
    Accountability, and Transparency, 220-229 (the sections, and figures by group).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tripcast.evaluation.gate import Decision
from tripcast.evaluation.scores import NOMINAL_COVERAGE, Scores
from tripcast.models.model import Manifest
from tripcast.reports.page import render
from tripcast.reports.training import TrainingContext

#: A slice of fewer trips has figures that hang on a handful of odd ones.
ENOUGH_TRIPS = 1_000

#: How many of the weakest slices are named.
_NAMED = 5


@dataclass(frozen=True)
class Way:
    """One way in which the model can be asked, and how good it is then.

    Attributes:
        name: As the service's answers name it.
        meaning: What is known of the trip, for people.
        scores: On the test month, asked in this way.
    """

    name: str
    meaning: str
    scores: Scores


def model_card(
    name: str,
    digest: str,
    manifest: Manifest,
    ways: Sequence[Way],
    decision: Decision,
    context: TrainingContext,
    yardsticks: Mapping[str, float],
) -> str:
    """The HTML page. Everything that comes from outside is escaped.

    Args:
        name: Of the registered model.
        digest: SHA-256 of the model folder.
        manifest: What the model says of itself.
        ways: The ways in which it can be asked; the first is the one that the gate decides on.
        decision: What the gate said of it.
        context: The months, their source, and the versions of the code.
        yardsticks: What to compare with: RMSE on the same trips in minutes, asked in the first way, by name.
    """
    scores = ways[0].scores
    slices = [part for part in scores.slices if part.dimension != "all" and part.trips >= ENOUGH_TRIPS]
    return render(
        "model_card.html",
        name=name,
        digest=digest,
        manifest=manifest,
        ways=ways,
        decision=decision,
        context=context,
        yardsticks=yardsticks,
        nominal=NOMINAL_COVERAGE,
        enough=ENOUGH_TRIPS,
        dimensions={name: list(parts) for name, parts in groupby(slices, key=lambda part: part.dimension)},
        largest_errors=sorted(slices, key=lambda part: -part.rmse)[:_NAMED],
        thinnest_coverage=sorted(slices, key=lambda part: part.interval_coverage)[:_NAMED],
    )
