"""The replay page: what the loop would have made of past months, beside models trained once and one trained monthly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripcast.monitoring.replay import EventKind, Replay, ReplayMonth
from tripcast.reports.monitoring import rule_sentences
from tripcast.reports.page import render
from tripcast.reports.pictures import INK, LINE, MARKS, MUTED, SERIES, VARIABLES, WIDTH, legend, style, svg
from tripcast.reports.timeline import Timeline

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
    """One of the four that are compared, by ``rmse``: always in the same colour, with the same mark and line."""

    name: str
    note: str
    colour: str
    mark: str
    line: str | tuple[int, tuple[float, ...]]
    rmse: str

    @property
    def variable(self) -> str:
        """The style sheet's name of the colour."""
        return VARIABLES[self.colour]


_MODELS = (
    _Model("the system", "what riders were answered", SERIES[0], MARKS[0], "-", "system_rmse"),
    _Model(
        "anew each month",
        "the best candidate of each month",
        SERIES[3],
        MARKS[3],
        (0, (3, 1, 1, 1)),
        "retrained_monthly_rmse",
    ),
    _Model("trained once", "the first version, for ever", SERIES[1], MARKS[1], (0, (5, 2)), "trained_once_rmse"),
    _Model("notebook", "the notebook's model, trained once", SERIES[2], MARKS[2], (0, (1, 1.5)), "notebook_rmse"),
)


def _draw(replay: Replay, width: float) -> Markup:
    """Errors by month above, what happened and which version served below, on one axis of months."""
    timeline = Timeline.of([month.month for month in replay.months])
    kinds = [kind for kind in _KINDS if replay.count(kind)]
    lanes = len(kinds) + 1
    figure = Figure(figsize=(width, 3.4 + 0.27 * lanes), layout="constrained")
    errors, happened = figure.subplots(2, sharex=True, height_ratios=[3.0, 0.27 * lanes])
    for model in _MODELS:
        errors.plot(
            *timeline.line([getattr(month, model.rmse) for month in replay.months]),
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
        (
            month.month,
            [f"{model.name} {rmse:.2f}" for model in _MODELS if (rmse := getattr(month, model.rmse)) is not None],
        )
        for month in replay.months
    )
    described = "; ".join(f"{month} {', '.join(errors)}" for month, errors in months if errors)
    return f"RMSE by month, in minutes: {described}"
