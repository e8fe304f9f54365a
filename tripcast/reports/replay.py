"""The replay page: what would have come of retraining over past months, beside models that are trained once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from tripcast.monitoring.rule import Rule
from tripcast.reports.monitoring import rule_sentences
from tripcast.reports.page import INK, LINE, MARKS, MUTED, SERIES, STYLE, VARIABLES, WIDTH, legend, render, svg
from tripcast.reports.timeline import Timeline

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

#: What may happen in a month: people are told; training starts; its winner is promoted, refused, or tried on a share of
#: the riders; a version is withdrawn; the month's data is broken.
EventKind = Literal["alert", "retrain", "promote", "refuse", "challenge", "withdraw", "data"]

# How the page names each kind, and the mark it draws for it.
_KINDS: dict[EventKind, tuple[str, str]] = {
    "data": ("data broken", "X"),
    "alert": ("alert", "^"),
    "retrain": ("retraining", "o"),
    "challenge": ("challenger", "D"),
    "promote": ("promotion", "*"),
    "refuse": ("refusal", "s"),
    "withdraw": ("withdrawal", "v"),
}

#: Inches: the picture across the whole page.
_WIDE = 11.5

#: Errors that differ by less than this share are called equal.
_EQUAL = 0.005


@dataclass(frozen=True)
class Event:
    """Something that happened in a month.

    Attributes:
        kind: What.
        sentence: What and why.
    """

    kind: EventKind
    sentence: str


@dataclass(frozen=True)
class ReplayMonth:
    """A month as it would have gone.

    Attributes:
        month: As ``2021-06``.
        system_rmse: RMSE of what riders were answered, minutes; None where the month could not be judged.
        trained_once_rmse: The same of the first version, had it served for ever.
        notebook_rmse: The same of the notebook's model, trained once on the same months as the first version.
        served_version: The champion at the start of the month.
        challenger_version: The challenger beside it, None if there was none.
        challenger_share: The share of riders that it answered, 0 to 1.
        trips: Number of trips judged.
        events: In the order in which they happened.
    """

    month: str
    system_rmse: float | None
    trained_once_rmse: float | None
    notebook_rmse: float | None
    served_version: int
    challenger_version: int | None
    challenger_share: float
    trips: int
    events: Sequence[Event] = ()


@dataclass(frozen=True)
class Replay:
    """Past months, lived through one by one.

    Attributes:
        subject: What is predicted, for people: for example ``green taxi``.
        source: Where the months came from.
        train_months: Those that the first version was trained on.
        test_month: The one that it was judged on before it served.
        rollout_share: The share of riders, 0 to 1, on which a new version is tried before it answers all.
        rule: By which retraining starts.
        months: Those that were lived through, in order, at least one.
    """

    subject: str
    source: str
    train_months: Sequence[str]
    test_month: str
    rollout_share: float
    rule: Rule
    months: Sequence[ReplayMonth]

    def count(self, kind: EventKind) -> int:
        """How many events there were of a kind."""
        return sum(event.kind == kind for month in self.months for event in month.events)

    @property
    def compared(self) -> list[tuple[str, float, float]]:
        """The months that both could be judged on, with the RMSE of the system and of the model trained once."""
        return [
            (month.month, month.system_rmse, month.trained_once_rmse)
            for month in self.months
            if month.system_rmse is not None and month.trained_once_rmse is not None
        ]

    @property
    def headline(self) -> str:
        """What came of retraining, in one sentence."""
        if not self.compared:
            return "No month could be judged, so nothing can be said about retraining."
        last, system, once = self.compared[-1]
        if not self.count("retrain"):
            return f"Nothing called for retraining: in {last} the RMSE was {system:.2f} minutes."
        if not self.count("promote"):
            return (
                f"Retraining promoted no model up to {last}: the RMSE was {system:.2f} minutes, and that of the model "
                f"trained once {once:.2f}."
            )
        if abs(once / system - 1) < _EQUAL:
            return (
                f"Retraining made no difference in the end: in {last} the RMSE was {system:.2f} minutes, with it "
                "or without."
            )
        if once < system:
            return (
                f"Retraining did not help: in {last} the RMSE was {system:.2f} minutes, and that of the model "
                f"trained once {once:.2f}, {1 - once / system:.0%} better."
            )
        return (
            f"Retraining kept the RMSE at {system:.2f} minutes in {last}; trained once, the model would be at "
            f"{once:.2f}, {once / system - 1:.0%} worse."
        )


def replay_page(replay: Replay) -> str:
    """The HTML page of a replay: what came of it, the errors by month with what happened, every month in words.

    Everything that comes from outside is escaped.

    Raises:
        InvalidRequest: If a month is not written as one.
    """
    import matplotlib

    pictures = {}
    for name, width in (("wide", _WIDE), ("narrow", WIDTH)):
        # Only one of them is shown, so neither may refer to a part of the other.
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
            pictures[name] = _draw(replay, width)
    return render(
        "replay.html",
        replay=replay,
        pictures=pictures,
        models=_MODELS,
        overall={model.name: _overall(replay, model) for model in _MODELS},
        kinds={kind: name for kind, (name, _) in _KINDS.items()},
        counts=[(name, replay.count(kind)) for kind, (name, _) in _KINDS.items() if kind != "challenge"],
        rule_sentences=rule_sentences(replay.rule),
    )


@dataclass(frozen=True)
class _Model:
    """One of the three that are compared: always in the same colour, with the same mark and line."""

    name: str
    note: str
    colour: str
    mark: str
    line: str | tuple[int, tuple[float, float]]
    rmse: Callable[[ReplayMonth], float | None]

    @property
    def variable(self) -> str:
        """The style sheet's name of the colour."""
        return VARIABLES[self.colour]


_MODELS = (
    _Model("with retraining", "what riders were answered", SERIES[0], MARKS[0], "-", lambda month: month.system_rmse),
    _Model(
        "trained once",
        "the first version, for ever",
        SERIES[1],
        MARKS[1],
        (0, (5, 2)),
        lambda month: month.trained_once_rmse,
    ),
    _Model(
        "notebook",
        "the notebook's model, trained once",
        SERIES[2],
        MARKS[2],
        (0, (1, 1.5)),
        lambda month: month.notebook_rmse,
    ),
)


def _overall(replay: Replay, model: _Model) -> float | None:
    """RMSE over the trips of all months in which all three are known; None if there is no such month."""
    known = [
        (month.trips, rmse)
        for month in replay.months
        if (rmse := model.rmse(month)) is not None and all(each.rmse(month) is not None for each in _MODELS)
    ]
    trips = sum(of_month for of_month, _ in known)
    return math.sqrt(sum(of_month * rmse**2 for of_month, rmse in known) / trips) if trips else None


def _draw(replay: Replay, width: float) -> Markup:
    """Errors by month above, what happened and which version served below, on one axis of months."""
    from matplotlib.figure import Figure

    timeline = Timeline.of([month.month for month in replay.months])
    kinds = [kind for kind in _KINDS if replay.count(kind)]
    lanes = len(kinds) + 1
    figure = Figure(figsize=(width, 3.4 + 0.27 * lanes), layout="constrained")
    errors, happened = figure.subplots(2, sharex=True, height_ratios=[3.0, 0.27 * lanes])
    for model in _MODELS:
        errors.plot(
            *timeline.line([model.rmse(month) for month in replay.months]),
            marker=model.mark,
            markersize=4.5,
            linewidth=1.7,
            linestyle=model.line,
            color=model.colour,
            label=model.name,
        )
    errors.set_ylabel("RMSE, minutes")
    errors.tick_params(axis="y", labelcolor=MUTED)
    errors.tick_params(axis="x", labelbottom=False)
    legend(figure, errors)
    _draw_versions(happened, timeline, replay.months)
    for lane, kind in enumerate(kinds, 1):
        places = [
            place
            for place, month in zip(timeline.places, replay.months, strict=True)
            if any(event.kind == kind for event in month.events)
        ]
        size = 9 if kind == "promote" else 6  # a star looks smaller than it is
        happened.plot(places, [lane] * len(places), _KINDS[kind][1], color=INK, markersize=size)
    happened.set_yticks(range(lanes), ["version", *(_KINDS[kind][0] for kind in kinds)])
    happened.set_ylim(lanes - 0.4, -0.6)
    for axes in (errors, happened):
        timeline.draw(axes)
    return svg(figure, _described(replay))


def _draw_versions(axes: Axes, timeline: Timeline, months: Sequence[ReplayMonth]) -> None:
    """A bar for each version, as long as it was champion."""
    served = zip(timeline.places, (month.served_version for month in months), strict=True)
    for version, run in groupby(served, key=lambda pair: pair[1]):
        places = [place for place, _ in run]
        axes.barh(0, places[-1] - places[0] + 0.9, 0.7, places[0] - 0.45, color=LINE)
        axes.text((places[0] + places[-1]) / 2, 0, f"{version}", ha="center", va="center", color=INK)


def _described(replay: Replay) -> str:
    """The picture in words."""
    months = (
        (month.month, [f"{model.name} {rmse:.2f}" for model in _MODELS if (rmse := model.rmse(month)) is not None])
        for month in replay.months
    )
    described = "; ".join(f"{month} {', '.join(errors)}" for month, errors in months if errors)
    return f"RMSE by month, in minutes: {described}"
