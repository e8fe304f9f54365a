"""The written rule by which a window of monitoring calls for nothing, for a person's eye, or for training anew.

Training costs seconds. A wrong promotion costs riders, and so does a right one that comes late. So every window whose
trips keep the contract trains a candidate on the freshest sound months, and what is weighed is the promotion: the gate
(``tripcast.evaluation.gate``) judges the candidate beside the champion on the window's own trips, which neither has
seen, and asks for a gain that depends on what the window says of the champion.

- Its error is what was expected of it: nothing has changed, and what a candidate gains comes from more or luckier
  trips. The gain has to be worth a roll-out, ``min_gain``.
- Its error is above that, by ``aged_ratio``: it has aged, and waiting costs riders every day. A small gain is enough,
  ``min_gain_aged``.

A candidate that is proven to gain as much (the whole confidence interval) is rolled out at once; one that gains as much
but by chance, perhaps, goes on trial beside the champion; any other changes nothing. What was promoted is held against
its predecessor on the next window, and goes back if that is clearly better (``tripcast.monitoring.trial``).

A single odd month does no harm by itself: what learned from a blizzard is judged on the month after it, and fails; and
the refit with the latest month is dropped where it has become worse on the month before (``tripcast.jobs.refit``). A
window whose data broke its contract is set aside: it calls for a person, and is no evidence about the model.

Where training is dear, ``k`` of the last ``n`` windows have to be bad, the latest among them, before it starts, and
none starts in the ``cool_down`` after another. A window is *bad* when RMSE is clearly above what was expected: by more
than ``max_rmse_ratio``, and with the whole confidence interval above it.

What is wrong besides is an *incident*, which people are told of once: broken data, a bad window, shifted inputs,
intervals that hold too few or too many trips, too few trips. Shifted inputs alone change nothing: the truth is known by
then, and it says whether they did any harm.

The rule looks at nothing but the recorded windows. The same history gives the same decision, on any machine and however
often it is asked, so exactly-once follows from recording each window's result under its key.

Source:
    Databricks, MLOps Stacks, model monitoring (retrains after k violations within the last n evaluation windows, the
    latest among them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any, Literal

from tripcast.errors import InvalidRequest
from tripcast.evaluation.confidence import Measure
from tripcast.evaluation.scores import NOMINAL_COVERAGE

#: What an incident may be about.
Kind = Literal["data", "error", "drift", "coverage", "volume"]

#: What a window may call for.
Action = Literal["nothing", "alert", "retrain"]


@dataclass(frozen=True)
class Rule:
    """The thresholds of the rule. A window is a calendar month, in which the truth is published.

    What the default ratio rests on, in simulated cities of 5,000 trips a month: where nothing changed the RMSE was at
    most 1.06 times what was expected (lightgbm and linear, 273 windows in thirteen runs), and interval coverage at most
    0.05 off. Where streets became 10 % slower it was 1.12 to 1.16 times that for lightgbm, 1.06 to 1.12 times for
    linear. lightgbm trained on 2021-01..02 reached 1.09, 1.16 and 1.17 times it in the real 2022-01, 02 and 03.

    The gains are chosen by regret over simulated cities and real months (``benchmarks/loop``).

    Attributes:
        k: How many of the last n windows have to be bad before a candidate is trained; 0 trains one in every window.
        n: Of how many.
        cool_down: How many windows after a training start none.
        min_gain: The least reduction of RMSE, as a share of the champion's, while its error is as expected. With 3.5 %
            the real months had a regret of 1.2 %, of 3.6 % when published two months late; with 2 % there is none, and
            none of ten promotions in 99 months where nothing changed was false.
        aged_ratio: RMSE as a multiple of what was expected, above which the champion has aged.
        min_gain_aged: The least reduction of RMSE from there on.
        max_rmse_ratio: RMSE as a multiple of what was expected, above which a window is bad.
        psi_alert: Population stability index of a feature above which its shift is an incident; by custom a shift.
        coverage_tolerance: How far interval coverage may be from nominal, as a share of trips. Wider than the gate's:
            intervals are not calibrated again while a version serves.
        min_volume_ratio: Least trips of a usual day, as a multiple of the training months'.
        trial_windows: After how many windows without proof that it is better a challenger is withdrawn.
    """

    k: int = 0
    n: int = 3
    cool_down: int = 0
    min_gain: float = 0.02
    aged_ratio: float = 1.06
    min_gain_aged: float = 0.01
    max_rmse_ratio: float = 1.10
    psi_alert: float = 0.2
    coverage_tolerance: float = 0.08
    min_volume_ratio: float = 0.5
    trial_windows: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.k <= self.n:
            raise InvalidRequest(f"k is {self.k} of n = {self.n} windows: give 0 <= k <= n.")
        if self.cool_down < 0:
            raise InvalidRequest(f"The cool-down is {self.cool_down} windows: give 0 or more.")
        if self.trial_windows < 1:
            raise InvalidRequest(f"A trial of {self.trial_windows} windows proves nothing: give 1 or more.")
        for name in ("min_gain", "min_gain_aged"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidRequest(f"{name} is {getattr(self, name)}: give a share of the RMSE, 0 to 1.")

    @classmethod
    def from_dict(cls, thresholds: Mapping[str, float]) -> Rule:
        """The rule with some thresholds by name, the others as they are by default.

        Raises:
            InvalidRequest: If there is no such threshold, or it is no number, or out of range.
        """
        kinds = {name: type(value) for name, value in asdict(cls()).items()}
        given: dict[str, Any] = {}
        for name, value in thresholds.items():
            if name not in kinds:
                raise InvalidRequest(f"The rule has no threshold '{name}': it has {', '.join(kinds)}.")
            try:
                given[name] = kinds[name](value)
            except (OverflowError, TypeError, ValueError):
                given[name] = math.nan
            # A pipeline's parameter knows no whole numbers: 2.0 is 2, and 2.5 is a mistake.
            if not math.isfinite(given[name]) or given[name] != float(value):
                raise InvalidRequest(f"The threshold {name} cannot be '{value}': give a {kinds[name].__name__}.")
        return cls(**given)


DEFAULT_RULE = Rule()


@dataclass(frozen=True)
class WindowResult:
    """What monitoring recorded of one window.

    Attributes:
        key: The window, for example ``2021-06``; keys sort by time.
        version: The champion that served.
        expected_rmse: What was to be expected of it on these trips, minutes, by what it reached on the test month when
            it was registered, or when the gate last kept it against newly trained candidates (see ``Expectation``);
            None where nothing could be judged, or that is not known.
        rmse: What it reached, minutes; None where nothing could be judged.
        interval_coverage: Share of trips that ended within their interval; None likewise.
        psi: Population stability index by feature, 0 where chance explains it.
        volume_ratio: Trips of a usual day, as a multiple of the training months'; None where the data is broken.
        data_problem: The sentence with which the contract refused the window's data; None if it keeps the contract.
        retrained: Whether retraining was started on this window. Not looked at in the latest one.
    """

    key: str
    version: int
    expected_rmse: float | None = None
    rmse: Measure | None = None
    interval_coverage: Measure | None = None
    psi: Mapping[str, float] = field(default_factory=dict)
    volume_ratio: float | None = None
    data_problem: str | None = None
    retrained: bool = False

    @property
    def rmse_ratio(self) -> float | None:
        """RMSE as a multiple of what was expected; None where either is not known."""
        return self.rmse.value / self.expected_rmse if self.rmse and self.expected_rmse else None


@dataclass(frozen=True)
class Incident:
    """Something that is wrong in the latest window.

    Attributes:
        kind: ``data`` that breaks its contract, an ``error`` or interval ``coverage`` off what is expected, ``drift``
            of the inputs or of the predictions, or a ``volume`` that is too low.
        since: The key of the window in which it began: the first of those in a row, served by one version, that have
            it. Broken data is an incident of its own in each window.
        sentence: What is wrong, and how bad.
    """

    kind: Kind
    since: str
    sentence: str


@dataclass(frozen=True)
class Seen:
    """A window as the rule saw it.

    Attributes:
        key: The window.
        rmse_ratio: RMSE as a multiple of what was expected.
        bad: Whether that is clearly too much.
    """

    key: str
    rmse_ratio: float
    bad: bool


@dataclass(frozen=True)
class Decision:
    """What the rule decided on the latest window, and why.

    Attributes:
        action: Nothing, alert, or train a candidate anew.
        reason: The decision in one sentence or two.
        incidents: What is wrong in the latest window.
        evidence: The windows that were counted, in order: the last n that could be judged, of one version.
        min_gain: The least reduction of RMSE, as a share of the champion's, for which a candidate replaces it.
        rule: The thresholds.
    """

    action: Action
    reason: str
    incidents: tuple[Incident, ...] = ()
    evidence: tuple[Seen, ...] = ()
    min_gain: float = DEFAULT_RULE.min_gain
    rule: Rule = DEFAULT_RULE


def decide(history: Sequence[WindowResult], rule: Rule = DEFAULT_RULE, *, newest: bool = True) -> Decision:
    """Apply the rule to the latest window of a history.

    Args:
        history: The windows up to the one to decide on, in order of time.
        rule: The thresholds.
        newest: Whether no later window has been watched: one that came late trains nothing by itself.

    Raises:
        InvalidRequest: If there is no window, or they are not in order.
    """
    keys = [window.key for window in history]
    if not keys or keys != sorted(set(keys)):
        raise InvalidRequest(f"The windows to decide on are {', '.join(keys) or 'none'}: give each once, in order.")
    latest = history[-1]
    incidents = tuple(_incidents(history, rule))
    seen = tuple(
        Seen(window.key, ratio, _error(window, rule) is not None)
        for window in _comparable(history)
        if (ratio := window.rmse_ratio) is not None
    )[-rule.n :]
    broken = latest.data_problem is not None
    bad = sum(window.bad for window in seen)
    enough_are_bad = rule.k == 0 or (bad >= rule.k and _error(latest, rule) is not None)
    cooling = [window.key for window in history[:-1][-rule.cool_down :] if window.retrained] if rule.cool_down else []
    watch: Action = "alert" if incidents else "nothing"
    last = "".join(cooling[-1:])
    table: tuple[tuple[bool, Action, str], ...] = (
        (broken, "alert", f"The data of {latest.key} is broken, so no model is judged by it or learns from it."),
        (not newest, watch, f"{latest.key} came late: later months were watched before it. It may be learned from."),
        (not enough_are_bad, watch, f"When {rule.k} of {rule.n} windows are bad, and the latest is, training starts."),
        (bool(cooling), watch, f"Training was started on {last} and has to show what it brought first."),
        (True, "retrain", "A candidate is trained on what is new."),
    )
    action, reason = next((action, reason) for applies, action, reason in table if applies)
    aged = (latest.rmse_ratio or 0.0) > rule.aged_ratio
    return Decision(
        action,
        reason if broken else f"{_state(latest, bad, seen)} {reason}",
        incidents,
        () if broken else seen,
        rule.min_gain_aged if aged else rule.min_gain,
        rule,
    )


def _state(latest: WindowResult, bad: int, seen: Sequence[Seen]) -> str:
    """What the window says of the champion."""
    ratio = latest.rmse_ratio
    if ratio is None:
        return f"The error of {latest.key} cannot be judged."
    if seen and seen[-1].bad:
        return (
            f"RMSE of version {latest.version} is too high in {bad} of the last {len(seen)} windows, in the latest "
            f"{ratio:.2f} times what was expected."
        )
    return f"Version {latest.version} does what is expected of it: RMSE is {ratio:.2f} times that."


def _comparable(history: Sequence[WindowResult]) -> list[WindowResult]:
    """The windows with sound data that the latest one's version served."""
    return [window for window in history if window.version == history[-1].version and window.data_problem is None]


def _incidents(history: Sequence[WindowResult], rule: Rule) -> Iterator[Incident]:
    latest = history[-1]
    broken = latest.data_problem is not None
    # Each broken month has to be mended, so each is an incident of its own.
    windows = [latest] if broken else _comparable(history)
    for kind, symptom in _SYMPTOMS.items():
        sentence = symptom(latest, rule)
        if sentence is not None and broken is (kind == "data"):
            yield Incident(kind, _since(windows, symptom, rule), sentence)


def _since(windows: Sequence[WindowResult], symptom: Symptom, rule: Rule) -> str:
    """The first of the windows in a row, up to the latest, that have a symptom as the latest has."""
    return list(takewhile(lambda window: symptom(window, rule) is not None, reversed(windows)))[-1].key


# What may be wrong in a window: each gives the sentence that says so, or None.

Symptom = Callable[[WindowResult, Rule], str | None]


def _data(window: WindowResult, rule: Rule) -> str | None:
    return window.data_problem


def _error(window: WindowResult, rule: Rule) -> str | None:
    """One day alone, which has no confidence interval, proves nothing."""
    rmse, expected = window.rmse, window.expected_rmse
    if rmse is None or rmse.low is None or expected is None:
        return None
    if rmse.low <= expected or rmse.value <= rule.max_rmse_ratio * expected:
        return None
    return (
        f"RMSE of version {window.version} is {rmse.value:.2f} minutes, {rmse.value / expected:.3f} times the "
        f"{expected:.2f} expected of it; {rule.max_rmse_ratio:.2f} times is allowed."
    )


def _drift(window: WindowResult, rule: Rule) -> str | None:
    shifted = [f"{feature} ({psi:.2f})" for feature, psi in window.psi.items() if psi > rule.psi_alert]
    if not shifted:
        return None
    return (
        f"Trips are not those that version {window.version} learned from: the population stability index is above "
        f"{rule.psi_alert:.2f} for {', '.join(shifted)}."
    )


def _coverage(window: WindowResult, rule: Rule) -> str | None:
    coverage = window.interval_coverage
    if coverage is None or coverage.low is None or coverage.high is None:
        return None
    if coverage.low <= NOMINAL_COVERAGE <= coverage.high:
        return None
    if abs(coverage.value - NOMINAL_COVERAGE) <= rule.coverage_tolerance:
        return None
    least, most = NOMINAL_COVERAGE - rule.coverage_tolerance, NOMINAL_COVERAGE + rule.coverage_tolerance
    return (
        f"{coverage.value:.1%} of trips ended within the {NOMINAL_COVERAGE:.0%} interval of version {window.version}; "
        f"{least:.1%} to {most:.1%} is asked."
    )


def _volume(window: WindowResult, rule: Rule) -> str | None:
    if window.volume_ratio is None or window.volume_ratio >= rule.min_volume_ratio:
        return None
    return (
        f"A usual day has {window.volume_ratio:.0%} of the trips that it had in the training months; "
        f"at least {rule.min_volume_ratio:.0%} is asked."
    )


_SYMPTOMS: dict[Kind, Symptom] = {
    "data": _data,
    "error": _error,
    "drift": _drift,
    "coverage": _coverage,
    "volume": _volume,
}
