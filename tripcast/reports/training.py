"""The training report: what a training run found and decided, as a page and as a few lines of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from tripcast.evaluation.confidence import CONFIDENCE
from tripcast.evaluation.gate import Decision, GateRule, coverage_band
from tripcast.evaluation.scores import DENSITY_MINUTES, NOMINAL_COVERAGE, Evaluation, Scores, SliceScores, Slicing
from tripcast.months import MonthUsed
from tripcast.reports.page import markdown, render
from tripcast.reports.pictures import (
    INK,
    LINE,
    MARKS,
    MUTED,
    SERIES,
    VARIABLES,
    Picture,
    canvas,
    legend,
    style,
    svg,
)

#: How the report names the model that was in service when the candidates were judged.
CHAMPION = "champion"

_WINNER, _CHAMPION, *_OTHERS = SERIES
_WINNER_MARK, _CHAMPION_MARK, *_OTHER_MARKS = MARKS
# Pixels cannot follow the style sheet: these are seen as well on white as on black.
_PIXELS = {_WINNER: "#2f7fd6", _CHAMPION: "#e07b22", **dict.fromkeys(_OTHERS, "#2e9e6b")}

#: A mean of fewer trips than this is not drawn.
_ENOUGH_FOR_A_MEAN = 20


@dataclass(frozen=True)
class TrainingContext:
    """What a reader needs to know around the scores.

    Attributes:
        subject: What is predicted, for people: for example ``green taxi``.
        source: Where the months came from.
        months: The training months and the test month.
        created: When the run was made, for people.
        champion: The version in service before the run, such as "version 3"; None if there was none.
        parameters: What the run was asked to do, by name.
        versions: Of the code and of the libraries that matter, by name.
        run_url: Where the run's record is, if that is on the web.
        simulated: Whether the trips are of a simulated city.
        approval: Whether the winner waits for a person before it serves.
        ways: The scores of the same models by what is known of a trip when they are asked, in words.
    """

    subject: str
    source: str
    months: Sequence[MonthUsed]
    created: str
    champion: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    run_url: str | None = None
    simulated: bool = False
    approval: bool = False
    ways: Mapping[str, Evaluation] = field(default_factory=dict)

    def months_to(self, role: str) -> str:
        """The months of a role (train, test), for a sentence."""
        return ", ".join(month.month for month in self.months if month.role == role)


def training_report(evaluation: Evaluation, decision: Decision, context: TrainingContext) -> str:
    """The HTML page of a training run: decision, checks, candidates, pictures, slices, data.

    Everything that comes from outside is escaped.
    """
    models = _models(evaluation, decision)
    return render(
        "training.html",
        evaluation=evaluation,
        decision=decision,
        context=context,
        models=models,
        ways={way: _models(of_way, decision) for way, of_way in context.ways.items()},
        leaders=_leaders(models),
        pictures=_pictures(
            models, evaluation.slicing, decision.rule, coverage_band(evaluation.champion, decision.rule)
        ),
        slices=_slice_table(models, evaluation.slicing),
        nominal=NOMINAL_COVERAGE,
        confidence=CONFIDENCE,
    )


def training_summary(evaluation: Evaluation, decision: Decision, context: TrainingContext) -> str:
    """The decision, the candidates and the checks of a training run, as Markdown."""
    lines = [
        f"## {markdown(decision.sentence)}",
        "",
        *(["**Simulated: these are trips of a made-up city, not of New York.**", ""] if context.simulated else []),
        *(["**It waits for a person's approval before it serves.**", ""] if context.approval else []),
        f"{markdown(context.subject.capitalize())}, trained on {markdown(context.months_to('train'))}, judged on "
        f"{evaluation.trips:,} trips of {markdown(context.months_to('test'))}.",
        "",
        "| model | RMSE | MAE | R² | p90 error | coverage | difference to champion |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for model in _models(evaluation, decision):
        scores, difference = model.scores, model.scores.difference
        compared = f"{difference.value:+.3f}" if difference else ""
        if difference and difference.interval:
            compared += " ({:+.3f} to {:+.3f})".format(*difference.interval)
        lines.append(
            f"| {markdown(model.name)} | {scores.rmse:.3f} | {scores.mae:.3f} | {scores.r2:.3f} | "
            f"{scores.p90_error:.2f} | {scores.interval_coverage:.1%} | {compared} |"
        )
    lines += ["", f"Errors in minutes; the difference is of RMSE, with its {CONFIDENCE:.0%} confidence interval."]
    if context.ways:
        lines += ["", "| asked | model | RMSE | MAE | coverage |", "|---|---|--:|--:|--:|"]
    for way, of_way in context.ways.items():
        for model in _models(of_way, decision):
            scores = model.scores
            lines.append(
                f"| {markdown(way)} | {markdown(model.name)} | {scores.rmse:.3f} | {scores.mae:.3f} | "
                f"{scores.interval_coverage:.1%} |"
            )
    tried = {decision.winner: decision.reasons} if decision.winner else {}
    for name, checks in {**tried, **decision.passed_over}.items():
        lines += ["", f"**{markdown(name)}**", ""]
        lines += [f"- {'✓' if check.passed else '✗'} {check.name}: {markdown(check.sentence)}" for check in checks]
    if context.run_url:
        lines += ["", f"[The run in MLflow]({context.run_url})"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Model:
    """A judged model as the page shows it: always in the same colour and with the same mark."""

    name: str
    role: str
    scores: Scores
    colour: str
    mark: str

    @property
    def variable(self) -> str:
        """The style sheet's name of the colour."""
        return VARIABLES[self.colour]


def _models(evaluation: Evaluation, decision: Decision) -> list[_Model]:
    """Every judged model, lowest RMSE first."""
    models = []
    others = 0
    for name, scores in evaluation.candidates.items():
        if name == decision.winner:
            models.append(_Model(name, decision.verdict, scores, _WINNER, _WINNER_MARK))
        else:
            turn = others % len(_OTHERS)
            models.append(_Model(name, "candidate", scores, _OTHERS[turn], _OTHER_MARKS[turn]))
            others += 1
    if evaluation.champion:
        models.append(_Model(CHAMPION, "in service", evaluation.champion, _CHAMPION, _CHAMPION_MARK))
    return sorted(models, key=lambda model: model.scores.rmse)


def _leaders(models: Sequence[_Model]) -> list[_Model]:
    """The one or two models that a reader is here for: the winner and the champion, else the next best candidate."""
    importance = (_WINNER, _CHAMPION, *_OTHERS)
    return sorted(models, key=lambda model: importance.index(model.colour))[:2]


def _slice_table(models: Sequence[_Model], slicing: Slicing) -> dict[str, list[tuple[SliceScores, ...]]]:
    """By dimension, a row for each slice: the scores of each leader on it."""
    leaders = _leaders(models)
    return {
        dimension: list(zip(*(model.scores.slices_of(dimension) for model in leaders), strict=True))
        for dimension in slicing.labels
    }


def _pictures(
    models: Sequence[_Model], slicing: Slicing, rule: GateRule, coverage: tuple[float, float]
) -> list[list[Picture]]:
    """All pictures of a training report in reading order, in rows of those that belong together."""
    if not models:
        return []
    leaders = _leaders(models)
    faint = f"Faint: fewer than {rule.slice_min_trips} trips, which the gate does not judge."
    with style():
        overall = [
            Picture(
                "Error of each model",
                f"RMSE: lower is better. The bar is its {CONFIDENCE:.0%} confidence interval.",
                _draw_errors(models),
            )
        ]
        if any(model.scores.difference for model in models):
            overall.append(
                Picture(
                    "Difference to the champion",
                    f"On the same trips, with its {CONFIDENCE:.0%} confidence interval. Left of the line is better; "
                    "a bar that crosses it may be chance.",
                    _draw_differences(models),
                )
            )
        against_actual = [
            Picture(
                f"Predicted against actual: {model.name}",
                "A square is a minute by a minute; the stronger, the more trips (logarithmic). The line is the mean "
                "actual duration at each prediction: on the diagonal, predictions are right on average.",
                _draw_density(model),
            )
            for model in leaders
        ]
        others = [dimension for dimension in slicing.labels if dimension not in slicing.series]
        by_time = [
            Picture(f"Error by {dimension}", "At the start of the trip.", _draw_curve(dimension, models, slicing))
            for dimension in slicing.series
        ]
        by_slice = [
            Picture(
                f"Error by {dimension}",
                f"With the number of trips. {faint}",
                _draw_errors_on(dimension, models, rule),
            )
            for dimension in others
        ]
        intervals = [
            Picture(
                "Interval coverage",
                f"The line is the {NOMINAL_COVERAGE:.0%} that the interval promises, the band what the gate allows for "
                f"all trips. {faint}",
                _draw_coverage(others, leaders, rule, coverage),
            ),
            Picture(
                "Interval width",
                f"Of two intervals that hold what they promise, the narrower says more. {faint}",
                _draw_width(others, leaders, rule),
            ),
        ]
    return [overall, against_actual, by_time, by_slice, intervals]


def _draw_errors(models: Sequence[_Model]) -> Markup:
    """The RMSE of each model."""
    estimates = [(model, model.scores.rmse, model.scores.rmse_interval) for model in models]
    figure, axes = canvas(0.55 + 0.4 * len(models))
    _draw_estimates(axes, estimates, "{:.2f}")
    axes.set_xlabel("RMSE, minutes")
    return svg(figure, "RMSE in minutes: " + "; ".join(f"{model.name} {rmse:.2f}" for model, rmse, _ in estimates))


def _draw_differences(models: Sequence[_Model]) -> Markup:
    """The difference of each candidate's RMSE to the champion's."""
    estimates = [
        (model, model.scores.difference.value, model.scores.difference.interval)
        for model in models
        if model.scores.difference
    ]
    figure, axes = canvas(0.55 + 0.4 * len(models))
    axes.axvline(0, color=_CHAMPION, linewidth=1.5)
    _draw_estimates(axes, estimates, "{:+.2f}")
    axes.set_xlabel("RMSE minus the champion's, minutes")
    described = "; ".join(f"{model.name} {value:+.2f}" for model, value, _ in estimates)
    return svg(figure, f"RMSE minus the champion's, in minutes: {described}")


def _draw_estimates(
    axes: Axes, estimates: Sequence[tuple[_Model, float, tuple[float, float] | None]], number: str
) -> None:
    """One row for each model: its name, a mark at the value, a bar over the interval, the value in figures."""
    for row, (model, value, interval) in enumerate(estimates):
        if interval:
            axes.hlines(row, *interval, color=model.colour, linewidth=5, alpha=0.35)
        axes.plot(value, row, model.mark, color=model.colour, markersize=7)
        axes.annotate(number.format(value), (value, row), (0, 7), textcoords="offset points", ha="center", va="bottom")
    axes.set_yticks(range(len(estimates)), [model.name for model, _, _ in estimates])
    axes.set_ylim(len(estimates) - 0.5, -0.75)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")


def _draw_density(model: _Model) -> Markup:
    """Trips by predicted and by actual duration, and the mean actual duration at each prediction."""
    density = model.scores.density
    strength = np.log1p(density) / np.log1p(density.max())
    image = np.tile(to_rgba(_PIXELS[model.colour]), (*density.shape, 1))
    image[..., 3] = np.where(density, 0.06 + 0.94 * strength, 0)

    minutes = np.arange(DENSITY_MINUTES) + 0.5
    trips = density.sum(axis=0)
    enough = trips >= _ENOUGH_FOR_A_MEAN
    figure, axes = canvas(4.4)
    axes.imshow(image, origin="lower", extent=(0, DENSITY_MINUTES, 0, DENSITY_MINUTES), interpolation="none")
    axes.grid(visible=False)
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(minutes[enough], (minutes @ density)[enough] / trips[enough], color=INK, linewidth=1.5)
    axes.set(xlabel="predicted, minutes", ylabel="actual, minutes", xticks=range(0, 61, 10), yticks=range(0, 61, 10))
    axes.tick_params(axis="y", labelcolor=MUTED)
    bias, r2 = model.scores.bias, model.scores.r2
    return svg(figure, f"Predicted against actual minutes of {model.name}: bias {bias:+.2f} minutes, R² {r2:.2f}")


def _draw_curve(dimension: str, models: Sequence[_Model], slicing: Slicing) -> Markup:
    """The RMSE of each model along slices that follow each other in time."""
    labels = slicing.labels[dimension]
    step = max(1, len(labels) // 8)
    ticks = [label if len(label) <= 5 else label[:3] for label in labels[::step]]  # 00:00, 03:00; Mon, Tue
    figure, axes = canvas(3.1)
    described = []
    for model in models:
        parts = model.scores.slices_of(dimension)
        axes.plot(
            [labels.index(part.label) for part in parts],
            [part.rmse for part in parts],
            marker=model.mark,
            color=model.colour,
            markersize=4,
            linewidth=1.6,
            label=model.name,
        )
        described.append(f"{model.name}: " + ", ".join(f"{part.label} {part.rmse:.2f}" for part in parts))
    axes.set_xticks(range(0, len(labels), step), ticks)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("RMSE, minutes")
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.grid(visible=False, axis="x")
    legend(figure, axes)
    return svg(figure, f"RMSE in minutes by {dimension}. " + "; ".join(described))


def _draw_errors_on(dimension: str, models: Sequence[_Model], rule: GateRule) -> Markup:
    """The RMSE of each model on the slices of one dimension."""
    figure, axes, described = _draw_slices([dimension], models, rule, lambda part: part.rmse, "{:.2f}")
    axes.set_xlim(left=0)
    axes.set_xlabel("RMSE, minutes")
    return svg(figure, f"RMSE in minutes by {dimension}. {described}")


def _draw_coverage(
    dimensions: Sequence[str], models: Sequence[_Model], rule: GateRule, band: tuple[float, float]
) -> Markup:
    """The share of trips within their prediction interval, beside what was promised and what the gate allows."""
    figure, axes, described = _draw_slices(dimensions, models, rule, lambda part: part.interval_coverage, "{:.1%}")
    axes.axvspan(*band, color=LINE, alpha=0.6, zorder=0)
    axes.axvline(NOMINAL_COVERAGE, color=INK, linewidth=1, zorder=1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("trips that ended within their interval")
    return svg(figure, f"Interval coverage by slice. {described}")


def _draw_width(dimensions: Sequence[str], models: Sequence[_Model], rule: GateRule) -> Markup:
    """The mean width of the prediction intervals."""
    figure, axes, described = _draw_slices(dimensions, models, rule, lambda part: part.interval_width, "{:.1f}")
    axes.set_xlim(left=0)
    axes.set_xlabel("mean width, minutes")
    return svg(figure, f"Mean interval width in minutes by slice. {described}")


def _draw_slices(
    dimensions: Sequence[str],
    models: Sequence[_Model],
    rule: GateRule,
    measure: Callable[[Scores | SliceScores], float],
    number: str,
) -> tuple[Figure, Axes, str]:
    """A row for all trips and for each slice, with a mark for each model; and the same in words."""
    names, places, trips = ["all trips"], [0.0], [models[0].scores.trips]
    for dimension in dimensions:
        parts = models[0].scores.slices_of(dimension)
        names += [part.label for part in parts]
        trips += [part.trips for part in parts]
        places += [places[-1] + 1.5 + row for row in range(len(parts))]  # half a row apart from what stands before
    figure, axes = canvas(0.9 + 0.23 * places[-1])
    described = []
    for model in models:
        values = [measure(model.scores)]
        values += [measure(part) for dimension in dimensions for part in model.scores.slices_of(dimension)]
        axes.scatter(
            values,
            places,
            s=34,
            marker=model.mark,
            c=[to_rgba(model.colour, 1.0 if count >= rule.slice_min_trips else 0.35) for count in trips],
            linewidths=0,
            label=model.name,
            zorder=3,
        )
        pairs = zip(names, values, strict=True)
        described.append(f"{model.name}: " + ", ".join(f"{name} {number.format(value)}" for name, value in pairs))
    axes.set_yticks(places, [f"{name}  ({count:,})" for name, count in zip(names, trips, strict=True)])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    legend(figure, axes)
    return figure, axes, "; ".join(described)
