"""The replay page: what the loop would have made of past months, beside models trained once and one trained monthly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripcast.monitoring.rule import Rule
from tripcast.reports.monitoring import rule_sentences
from tripcast.reports.page import render
from tripcast.reports.pictures import INK, LINE, MARKS, MUTED, SERIES, VARIABLES, WIDTH, legend, style, svg
from tripcast.reports.timeline import Timeline

#: What may happen in a month: people are told; a candidate is promoted, refused, or tried on a share of the riders; a
#: version is withdrawn, or goes back to the one before it; the month's data is broken.
EventKind = Literal["alert", "promote", "refuse", "challenge", "withdraw", "relapse", "data"]

# How the page names each kind, and the mark it draws for it.
_KINDS: dict[EventKind, tuple[str, str]] = {
    "data": ("data broken", "X"),
    "alert": ("alert", "^"),
    "challenge": ("challenger", "D"),
    "promote": ("promotion", "*"),
    "refuse": ("refusal", "s"),
    "withdraw": ("withdrawal", "v"),
    "relapse": ("relapse", "<"),
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
        retrained_monthly_rmse: The same of the best candidate of each month, taken without asking.
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
    retrained_monthly_rmse: float | None
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
        rule: By which the loop decides.
        months: Those that were lived through, in order, at least one.
        published_after: How many months after its end a month was published.
        processor_seconds: What the loop took of the processor, trainings and all.
    """

    subject: str
    source: str
    train_months: Sequence[str]
    test_month: str
    rollout_share: float
    rule: Rule
    months: Sequence[ReplayMonth]
    published_after: int = 0
    processor_seconds: float = 0.0

    def count(self, kind: EventKind) -> int:
        """How many events there were of a kind."""
        return sum(event.kind == kind for month in self.months for event in month.events)

    def overall(self, rmse: Callable[[ReplayMonth], float | None]) -> float | None:
        """RMSE over the trips of all months that could be judged, minutes; None if there is no such month.

        Args:
            rmse: That of a month, of one of the four that are compared.
        """
        known = [(month.trips, value) for month in self.months if (value := rmse(month)) is not None]
        trips = sum(of_month for of_month, _ in known)
        return math.sqrt(sum(of_month * value**2 for of_month, value in known) / trips) if trips else None

    @property
    def regret(self) -> float | None:
        """How much higher the system's RMSE is than that of the model trained anew each month, as a share of it."""
        system, reference = self.overall(_SYSTEM.rmse), self.overall(_REFERENCE.rmse)
        return None if system is None or not reference else system / reference - 1

    @property
    def headline(self) -> str:
        """What came of it, in a sentence or two."""
        system, once = self.overall(_SYSTEM.rmse), self.overall(_ONCE.rmse)
        if system is None or once is None or self.regret is None:
            return "No month could be judged, so nothing can be said about the loop."
        reference = self.overall(_REFERENCE.rmse)
        saved = 1 - system / once if once else 0.0
        what = f"{abs(saved):.1%} {'below' if saved > 0 else 'above'}" if abs(saved) >= _EQUAL else "as good as"
        return (
            f"The system's RMSE is {system:.2f} minutes, {what} that of the model trained once ({once:.2f}); regret "
            f"over the model trained anew each month ({reference:.2f}) is {self.regret:+.1%}."
        )

    @property
    def counted(self) -> str:
        """What it took, in a few words."""
        kinds = (("promotion", "promote"), ("refusal", "refuse"), ("alert", "alert"), ("relapse", "relapse"))
        counts = ((self.count(kind), name) for name, kind in kinds)  # type: ignore[arg-type]
        parts = [f"{number} {name}{'' if number == 1 else 's'}" for number, name in counts]
        return f"{', '.join(parts)}; {self.processor_seconds:.0f} s of processor time."


def replay_page(replay: Replay) -> str:
    """The HTML page of a replay: what came of it, the errors by month with what happened, every month in words.

    Everything that comes from outside is escaped.

    Raises:
        InvalidRequest: If a month is not written as one.
    """
    pictures = {}
    for name, width in (("wide", _WIDE), ("narrow", WIDTH)):
        # Only one of them is shown, so neither may refer to a part of the other.
        with style(hashsalt=name):
            pictures[name] = _draw(replay, width)
    return render(
        "replay.html",
        replay=replay,
        pictures=pictures,
        models=_MODELS,
        overall={model.name: replay.overall(model.rmse) for model in _MODELS},
        kinds={kind: name for kind, (name, _) in _KINDS.items()},
        counts=[(name, replay.count(kind)) for kind, (name, _) in _KINDS.items() if kind != "challenge"],
        rule_sentences=rule_sentences(replay.rule),
    )


@dataclass(frozen=True)
class _Model:
    """One of the four that are compared: always in the same colour, with the same mark and line."""

    name: str
    note: str
    colour: str
    mark: str
    line: str | tuple[int, tuple[float, ...]]
    rmse: Callable[[ReplayMonth], float | None]

    @property
    def variable(self) -> str:
        """The style sheet's name of the colour."""
        return VARIABLES[self.colour]


_SYSTEM = _Model("the system", "what riders were answered", SERIES[0], MARKS[0], "-", lambda month: month.system_rmse)
_REFERENCE = _Model(
    "anew each month",
    "the best candidate of each month",
    SERIES[3],
    MARKS[3],
    (0, (3, 1, 1, 1)),
    lambda month: month.retrained_monthly_rmse,
)
_ONCE = _Model(
    "trained once",
    "the first version, for ever",
    SERIES[1],
    MARKS[1],
    (0, (5, 2)),
    lambda month: month.trained_once_rmse,
)
_NOTEBOOK = _Model(
    "notebook",
    "the notebook's model, trained once",
    SERIES[2],
    MARKS[2],
    (0, (1, 1.5)),
    lambda month: month.notebook_rmse,
)
_MODELS = (_SYSTEM, _REFERENCE, _ONCE, _NOTEBOOK)


def _draw(replay: Replay, width: float) -> Markup:
    """Errors by month above, what happened and which version served below, on one axis of months."""
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
