"""The monitoring report: how a month's predictions turned out, what has drifted, and what the rule makes of it.

A page for who has to decide whether to look closer, and the same in a few lines of Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes

from tripcast.evaluation.confidence import CONFIDENCE, Measure
from tripcast.evaluation.scores import NOMINAL_COVERAGE
from tripcast.monitoring.drift import Drift, FeatureDrift
from tripcast.monitoring.quality import JoinCounts, Quality
from tripcast.monitoring.rule import Decision, Rule, WindowResult
from tripcast.monitoring.trial import Trial
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
from tripcast.reports.timeline import Timeline

# As in the training report: who wants to take the champion's place, and the champion.
_CHALLENGER, _CHAMPION = SERIES[:2]
_CHAMPION_MARK = MARKS[1]

#: Pictures reach back over this many windows, two years of months.
_WINDOWS_DRAWN = 24

#: Places that are named one by one; the others are counted.
_PLACES_NAMED = 10

#: Inches: the picture of one feature's drift, as high as a row of the table.
_SPARK_WIDTH, _SPARK_HEIGHT = 1.5, 0.34

#: Share of a picture's height that is left for marks below what is drawn.
_FOOT = 0.12

_VERDICTS = {"nothing": "nothing to do", "alert": "alert", "retrain": "a candidate is trained"}

#: A population stability index below this is by custom no change to speak of (Siddiqi, Credit Risk Scorecards, 2006).
_PSI_MOVED = 0.1


@dataclass(frozen=True)
class MonitoringContext:
    """Everything that the monitoring report of one window tells.

    Attributes:
        subject: What is predicted, for people: for example ``green taxi``.
        location: Where the window's trips came from: a URL, a path or the simulated city's options.
        created: When the run was made, for people.
        decision: What the rule decided on the window.
        history: The windows up to this one, in order, at least one: what the decision was taken on.
        quality: How good the predictions were, by version and arm; empty where none could be judged.
        drift: How far the window's trips are from those that the champion learned from; None where the data is broken.
        joined: How logged predictions found their truth; None where nothing was logged, and the champion was scored on
            the window's trips instead.
        trial: What became of the challenger; None if there is none.
        saved: What the last promotion has saved so far, or why it is undone; None if there was none.
        alerts: What people are told, a sentence each, and whether they have been.
        run_url: Where the time series are, if that is on the web.
        places: The names of the places that trips begin and end at, by their cells in a profile.
    """

    subject: str
    location: str
    created: str
    decision: Decision
    history: Sequence[WindowResult]
    quality: Sequence[Quality] = ()
    drift: Drift | None = None
    joined: JoinCounts | None = None
    trial: Trial | None = None
    saved: str | None = None
    alerts: Sequence[str] = ()
    run_url: str | None = None
    places: Mapping[int, str] = field(default_factory=dict)

    @property
    def latest(self) -> WindowResult:
        """The window that the report is about."""
        return self.history[-1]

    @property
    def champion(self) -> Quality | None:
        """How good the serving version was as champion; None where that could not be judged."""
        of_champion = (part for part in self.quality if (part.version, part.arm) == (self.latest.version, "champion"))
        return next(of_champion, None)

    @property
    def next_step(self) -> str:
        """What happens now, and who has to do it."""
        window, serving = self.latest.key, f"Version {self.latest.version} goes on serving"
        if self.latest.data_problem is not None:
            return f"{serving}. A person has to mend {window} at its source, or wait for a new revision, and run again."
        return {
            "nothing": f"{serving}; the next month is looked at when it is published.",
            "alert": f"{serving} and nothing is trained. A person should look at what is listed under Why.",
            "retrain": f"{serving} while a candidate is trained, which has to pass the gate before it serves anybody.",
        }[self.decision.action]


def monitoring_report(context: MonitoringContext) -> str:
    """The HTML page of a monitored window: decision, incidents, quality, drift, volume, the rule.

    Everything that comes from outside is escaped.

    Raises:
        InvalidRequest: If a window of the history is not a month.
    """
    return render(
        "monitoring.html",
        context=context,
        rule=context.decision.rule,
        verdict=_VERDICTS[context.decision.action],
        colours={"champion": VARIABLES[_CHAMPION], "challenger": VARIABLES[_CHALLENGER]},
        pictures=_pictures(context),
        features=_feature_rows(context),
        gone=sorted(context.places[place] for place in context.drift.gone_places) if context.drift else [],
        most_places=_PLACES_NAMED,
        rule_sentences=rule_sentences(context.decision.rule),
        nominal=NOMINAL_COVERAGE,
        confidence=CONFIDENCE,
    )


def monitoring_summary(context: MonitoringContext) -> str:
    """The decision, the incidents and the quality of a window, as Markdown."""
    decision, latest = context.decision, context.latest
    lines = [
        f"## {markdown(decision.reason)}",
        "",
        f"**{_VERDICTS[decision.action].capitalize()}**, {markdown(context.subject)}, {markdown(latest.key)}. "
        f"{markdown(context.next_step)}",
    ]
    if decision.incidents:
        lines += [
            "",
            *(f"- **{each.kind}** since {each.since}: {markdown(each.sentence)}" for each in decision.incidents),
        ]
    if context.quality:
        lines += [
            "",
            f"| version | trips | RMSE ({CONFIDENCE:.0%} interval) | expected | ratio | MAE | bias | coverage |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for part in context.quality:
            expected, ratio = "", ""
            if part.expected_rmse:
                expected, ratio = f"{part.expected_rmse:.2f}", f"{part.rmse.value / part.expected_rmse:.3f}"
            lines.append(
                f"| {part.version}, {markdown(part.arm)} | {part.trips:,} | {part.rmse.value:.2f} "
                f"({_interval(part.rmse, '{:.2f}')}) | {expected} | {ratio} | {part.mae.value:.2f} | "
                f"{part.bias.value:+.2f} | {part.interval_coverage.value:.1%} |"
            )
        lines += ["", "Errors in minutes; bias is positive where trips are predicted too long."]
    if context.trial:
        lines += ["", f"**Challenger**: {markdown(context.trial.reason)}"]
    if context.saved:
        lines += ["", f"**What the loop has saved**: {markdown(context.saved)}"]
    if context.drift:
        shifted = [row for row in _feature_rows(context) if row.state == "shifted"]
        named = ", ".join(f"{row.name} ({row.drift.psi:.2f})" for row in shifted) or "none"
        lines += ["", f"Features that have shifted (PSI above {decision.rule.psi_alert:g}): {named}."]
    return "\n".join(lines) + "\n"


def _interval(measure: Measure, number: str) -> str:
    """A confidence interval in figures, each written as ``number`` says; a sentence's part where there is none."""
    if measure.low is None or measure.high is None:
        return "one day only"
    return f"{number.format(measure.low)} to {number.format(measure.high)}".replace("-", "\N{MINUS SIGN}")


def rule_sentences(rule: Rule) -> list[str]:
    """The rule with its thresholds, written out."""
    before = "month" if rule.cool_down == 1 else f"{rule.cool_down} months"
    patience = f", and none was started in the {before} before" if rule.cool_down else ""
    when = (
        f"A candidate is trained when the latest month is bad, and {rule.k} of the last {rule.n} that the same version "
        f"served{patience}."
        if rule.k
        else f"Each sound month trains a candidate on the months before it{patience}."
    )
    least, most = NOMINAL_COVERAGE - rule.coverage_tolerance, NOMINAL_COVERAGE + rule.coverage_tolerance
    return [
        f"A month is bad when the RMSE of the champion is more than {rule.max_rmse_ratio:.2f} times what was expected "
        f"of it on these trips, and the whole {CONFIDENCE:.0%} interval lies above what was expected.",
        f"{when} It is judged on the latest, beside the champion, which has not seen it either.",
        f"It becomes the champion at once when the whole {CONFIDENCE:.0%} interval says that it saves at least "
        f"{rule.min_gain:.1%} of the RMSE; {rule.min_gain_aged:.1%} is enough when that of the champion is more than "
        f"{rule.aged_ratio:.2f} times what was expected. Where the gain may be chance, it is tried as the challenger.",
        "A champion that is clearly worse than the one before it, on the first month after its promotion, goes back.",
        f"A person is told when the population stability index of a feature is above "
        f"{rule.psi_alert:g} and above what chance makes it, when fewer than {least:.0%} or more than {most:.0%} of "
        f"trips end within their {NOMINAL_COVERAGE:.0%} interval, or when a usual day has less than "
        f"{rule.min_volume_ratio:.0%} of the trips that it had in the training months.",
        "A challenger becomes the champion when it is clearly better on all live trips since its trial began, and is "
        f"withdrawn when it is clearly worse, or after {rule.trial_windows} months without proof. An equal one is "
        "promoted in at most 2.5 % of trials, all looks together.",
        "A month whose data breaks its contract says nothing about the model: a person is told, and it does not count.",
    ]


class _FeatureRow(NamedTuple):
    """A feature's drift as the page shows it.

    Attributes:
        name: For people.
        state: ``shifted`` above the rule's threshold, ``moved`` from ``_PSI_MOVED`` on, ``slight`` if above
            chance, ``chance``.
        drift: The figures.
        spark: Its PSI by window.
    """

    name: str
    state: str
    drift: FeatureDrift
    spark: Markup


def _feature_rows(context: MonitoringContext) -> list[_FeatureRow]:
    """Those that have shifted first, then by PSI."""
    if context.drift is None:
        return []
    rows = []
    for part in context.drift.features:
        name = part.feature.replace("_", " ")
        above_chance = part.psi > part.psi_chance
        state = "chance"
        if above_chance:
            alert = context.decision.rule.psi_alert
            state = "shifted" if part.psi > alert else "moved" if part.psi >= _PSI_MOVED else "slight"
        with style():
            rows.append(_FeatureRow(name, state, part, _draw_psi(part.feature, name, context)))
    order = ("shifted", "moved", "slight", "chance")
    return sorted(rows, key=lambda row: (order.index(row.state), -row.drift.psi))


def _pictures(context: MonitoringContext) -> list[Picture]:
    windows, rule = context.history[-_WINDOWS_DRAWN:], context.decision.rule
    pictures = []
    with style():
        if any(window.rmse for window in windows):
            pictures = [
                Picture(
                    "Error by month",
                    f"RMSE of the champion, with its {CONFIDENCE:.0%} interval. The stroke is what was expected of it "
                    "on that month's trips, the box above it what the rule allows: up to "
                    f"{rule.max_rmse_ratio:.2f} times that. The axis does not begin at zero.",
                    _draw_error(windows, context.decision),
                ),
                Picture(
                    "Interval coverage by month",
                    f"Share of trips that ended within their interval, with its {CONFIDENCE:.0%} interval. The line is "
                    f"the {NOMINAL_COVERAGE:.0%} that is promised, the band what the rule allows.",
                    _draw_coverage(windows, rule),
                ),
            ]
        if context.drift:
            pictures.append(
                Picture(
                    "Trips by day",
                    "Trips with a pickup on each day of the month. The line is a usual day of the training months.",
                    _draw_days(context.latest.key, context.drift),
                )
            )
    return pictures


def _draw_error(windows: Sequence[WindowResult], decision: Decision) -> Markup:
    """RMSE by window, beside what was expected and what the rule allows."""
    figure, axes = canvas(3.1)
    timeline = Timeline.of([window.key for window in windows])
    for place, window in zip(timeline.places, windows, strict=True):
        expected = window.expected_rmse
        if expected:
            axes.bar(place, (decision.rule.max_rmse_ratio - 1) * expected, 0.8, expected, color=LINE, zorder=1)
            axes.hlines(expected, place - 0.4, place + 0.4, color=INK, linewidth=1.2, zorder=2)
    _draw_measures(axes, timeline, [window.rmse for window in windows])
    _draw_events(axes, timeline, windows, decision)
    axes.set_ylabel("RMSE, minutes")
    axes.tick_params(axis="y", labelcolor=MUTED)
    timeline.draw(axes)
    described = "; ".join(
        f"{window.key} {window.rmse.value:.2f}"
        + (f", expected {window.expected_rmse:.2f}" if window.expected_rmse else "")
        for window in windows
        if window.rmse
    )
    legend(figure, axes)
    return svg(figure, f"RMSE of the champion by month, in minutes: {described}")


def _draw_coverage(windows: Sequence[WindowResult], rule: Rule) -> Markup:
    """Interval coverage by window, beside what was promised and what the rule allows."""
    figure, axes = canvas(3.1)
    timeline = Timeline.of([window.key for window in windows])
    low, high = NOMINAL_COVERAGE - rule.coverage_tolerance, NOMINAL_COVERAGE + rule.coverage_tolerance
    axes.axhspan(low, high, color=LINE, alpha=0.6, zorder=0)
    axes.axhline(NOMINAL_COVERAGE, color=INK, linewidth=1, zorder=1)
    _draw_measures(axes, timeline, [window.interval_coverage for window in windows])
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.tick_params(axis="y", labelcolor=MUTED)
    timeline.draw(axes)
    described = "; ".join(
        f"{window.key} {window.interval_coverage.value:.1%}" for window in windows if window.interval_coverage
    )
    return svg(figure, f"Interval coverage of the champion by month: {described}")


def _draw_measures(axes: Axes, timeline: Timeline, measures: Sequence[Measure | None]) -> None:
    """A line through the values, with a bar over each confidence interval."""
    for place, measure in zip(timeline.places, measures, strict=True):
        if measure and measure.low is not None and measure.high is not None:
            axes.vlines(place, measure.low, measure.high, color=_CHAMPION, linewidth=5, alpha=0.35, zorder=3)
    places, values = timeline.line([measure.value if measure else None for measure in measures])
    axes.plot(
        places, values, marker=_CHAMPION_MARK, color=_CHAMPION, markersize=5, linewidth=1.6, label="champion", zorder=4
    )


def _draw_events(axes: Axes, timeline: Timeline, windows: Sequence[WindowResult], decision: Decision) -> None:
    """Marks at the foot of the axes for what the curve alone does not tell."""
    foot = axes.get_xaxis_transform()
    # The latest window is only marked as retrained once its decision is recorded.
    retrained = [*(window.retrained for window in windows[:-1]), decision.action == "retrain"]
    told = {
        "retraining started": ("^", retrained),
        "data broken": ("X", [window.data_problem is not None for window in windows]),
    }
    low, high = axes.get_ylim()
    axes.set_ylim(low - _FOOT * (high - low), high)
    for label, (mark, there) in told.items():
        places = [place for place, here in zip(timeline.places, there, strict=True) if here]
        if places:
            feet = [_FOOT / 3] * len(places)
            axes.plot(places, feet, mark, color=INK, markersize=6, transform=foot, label=label, zorder=4)
    changes = [
        (place, window.version)
        for place, window, before in zip(timeline.places, windows, [None, *windows], strict=False)
        if before is None or before.version != window.version
    ]
    for place, version in changes:
        axes.annotate(
            f"version {version}",
            (place - 0.45, 1.0),
            (3, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=MUTED,
            fontsize=8.5,
            va="bottom",
        )
        axes.axvline(place - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)


def _draw_days(window: str, drift: Drift) -> Markup:
    """Trips by day of the window, beside a usual day of the training months."""
    days = {int(day[8:]): trips for day, trips in drift.days.items() if day.startswith(f"{window}-")}
    figure, axes = canvas(3.1)
    axes.bar(list(days), list(days.values()), 0.75, color=MUTED, linewidth=0)
    axes.axhline(drift.reference_trips_per_day, color=INK, linewidth=1.2)
    axes.set(xlabel="day of the month", ylabel="trips", xticks=[1, 5, 10, 15, 20, 25, 30], xlim=(0.3, 31.7))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.grid(visible=False, axis="x")
    described = f"{drift.trips_per_day:,.0f} trips on a usual day, {drift.reference_trips_per_day:,.0f} in training"
    return svg(figure, f"Trips by day of {window}: {described}")


def _draw_psi(feature: str, name: str, context: MonitoringContext) -> Markup:
    """The PSI of one feature by window, with the rule's threshold as a line, as high as a row of text."""
    windows = context.history[-_WINDOWS_DRAWN:]
    figure, axes = canvas(_SPARK_HEIGHT, _SPARK_WIDTH)
    threshold = context.decision.rule.psi_alert
    timeline = Timeline.of([window.key for window in windows])
    values = [window.psi.get(feature) for window in windows]
    axes.axhline(threshold, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.plot(*timeline.line(values), color=_CHAMPION, linewidth=1.4, marker=_CHAMPION_MARK, markersize=2)
    axes.plot(*timeline.line(values), _CHAMPION_MARK, color=_CHAMPION, markersize=5, markevery=[-1])
    axes.set_ylim(-0.15 * threshold, 1.15 * max([threshold, *(value for value in values if value is not None)]))
    axes.margins(x=0.06)
    axes.set_axis_off()
    described = ", ".join(f"{value:.2f}" for value in values if value is not None)
    return svg(figure, f"PSI of the {name} by month: {described}")
