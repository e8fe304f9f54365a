"""The written rule by which a candidate becomes the champion, or does not.

Candidates are tried from the lowest RMSE upwards, and the first that passes every check is promoted; if none does, the
best one's checks are the reasons. A candidate passes when

1. floor: it explains enough of the durations' variance to be of use at all;
2. coverage: its prediction intervals hold about as many trips as they promise;
3. gain: its RMSE is lower than the champion's by a minimum share;
4. confidence: the whole confidence interval of that difference is below zero, or the gain that has to be proven;
5. slices: there is no slice of the trips that it serves clearly worse than the champion does;
6. ways: it is not clearly worse than the champion where more or less is known of the trips.

Without a champion, 1 and 2 decide. When the next candidate to try *is* the champion (the same data gave the same
model again), it and the slower ones behind it cannot beat it: nothing changes, and nothing is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tripcast.evaluation.confidence import CONFIDENCE
from tripcast.evaluation.scores import NOMINAL_COVERAGE, Evaluation, Scores


@dataclass(frozen=True)
class GateRule:
    """The thresholds of the rule.

    Attributes:
        min_r2: The least R2. It has no unit, so it suits any month; a linear model on green taxis has 0.59,
            and below 0.4 most of what makes trips differ is not understood.
        coverage_tolerance: How far interval coverage may be from nominal, as a share of trips. With a champion that is
            further off, being no further off than it is enough.
        min_gain: The least reduction of RMSE, as a share of the champion's. A smaller gain is not worth a roll-out.
        proven_gain: The reduction of RMSE that the whole confidence interval has to show, as a share of the champion's.
        slice_min_trips: Slices with fewer trips are not judged: their RMSE hangs on a handful of odd trips.
        slice_max_loss: How much higher than the champion's a slice's RMSE may be, as a share of the champion's. More
            than this blocks the candidate if the slice's confidence interval, too, is wholly above zero.
        way_max_loss: The same for all trips, asked in another way than users do.
    """

    min_r2: float = 0.4
    coverage_tolerance: float = 0.05
    min_gain: float = 0.005
    proven_gain: float = 0.0
    slice_min_trips: int = 300
    slice_max_loss: float = 0.05
    way_max_loss: float = 0.01


DEFAULT_RULE = GateRule()

#: A sentence names as many slices as this, the worst first; the evaluation has all.
_NAMED_SLICES = 4


@dataclass(frozen=True)
class Check:
    """One condition of the rule, put to one candidate.

    Attributes:
        name: floor, coverage, gain, confidence, slices, ways, champion or predictions.
        passed: Whether it holds.
        observed: What was measured; None where there is no single number.
        threshold: What it was held against; None where there is none.
        sentence: The same for a person.
    """

    name: str
    passed: bool
    observed: float | None
    threshold: float | None
    sentence: str


@dataclass(frozen=True)
class Decision:
    """What the rule decided, and why.

    Attributes:
        verdict: Whether the winner is promoted, refused, or the champion already.
        winner: The candidate that was promoted, or is the champion already, or came closest; None if there was none.
        sentence: The decision in one sentence.
        reasons: The winner's checks.
        passed_over: The checks of the other candidates that were tried, by name: each has one that failed.
        rule: The thresholds.
    """

    verdict: Literal["promoted", "refused", "unchanged"]
    winner: str | None
    sentence: str
    reasons: tuple[Check, ...]
    passed_over: dict[str, tuple[Check, ...]] = field(default_factory=dict)
    rule: GateRule = DEFAULT_RULE

    @property
    def promote(self) -> bool:
        """Whether the winner is to become the champion."""
        return self.verdict == "promoted"

    @property
    def may_be_chance(self) -> bool:
        """Whether the winner passes every check but that its gain may be chance: weak evidence in its favour."""
        failed = [check for check in self.reasons if not check.passed]
        return (
            self.verdict == "refused"
            and [check.name for check in failed] == ["confidence"]
            and failed[0].observed is not None
            and failed[0].observed >= 0
        )


def decide(
    evaluation: Evaluation,
    others: Mapping[str, Evaluation] | None = None,
    *,
    rule: GateRule = DEFAULT_RULE,
    identical: Collection[str] = (),
) -> Decision:
    """Apply the rule.

    Args:
        evaluation: All candidates and the champion on the same trips, asked as users ask.
        others: The same, asked in other ways, by the way.
        rule: The thresholds.
        identical: The candidates whose model is, byte for byte, the champion's.
    """
    # Of two that are equally good, the one in service already.
    order = sorted(evaluation.candidates, key=lambda name: (evaluation.candidates[name].rmse, name not in identical))
    failed: dict[str, tuple[Check, ...]] = {
        name: (Check("predictions", False, None, None, problem),) for name, problem in evaluation.disqualified.items()
    }
    for name in order:
        if name in identical:
            return _unchanged(name, failed, rule)
        checks = tuple(_checks(name, evaluation, others or {}, rule))
        if all(check.passed for check in checks):
            return Decision("promoted", name, _promotion(name, evaluation), checks, failed, rule)
        failed[name] = checks
    stays = "The champion stays" if evaluation.champion else "Nothing is promoted"
    if not order:
        return Decision("refused", None, f"{stays}: no candidate can be judged.", (), failed, rule)
    best = order[0]
    reasons = failed.pop(best)
    names = ", ".join(check.name for check in reasons if not check.passed)
    return Decision("refused", best, f"{stays}: {best}, the best candidate, fails on {names}.", reasons, failed, rule)


def _unchanged(name: str, failed: dict[str, tuple[Check, ...]], rule: GateRule) -> Decision:
    same = Check("champion", True, None, None, f"{name} is the champion, byte for byte: there is nothing to promote.")
    sentence = f"The champion stays: {name} came out identical to it."
    return Decision("unchanged", name, sentence, (same,), failed, rule)


def _promotion(name: str, evaluation: Evaluation) -> str:
    rmse = evaluation.candidates[name].rmse
    if evaluation.champion is None:
        return f"{name} is good enough to serve: RMSE {rmse:.2f} minutes."
    gain = _gain(rmse, evaluation.champion.rmse)
    former = f"{gain:.1%} below the champion's {evaluation.champion.rmse:.2f}"
    return f"{name} is good enough to serve: RMSE {rmse:.2f} minutes, {former}."


def _checks(name: str, evaluation: Evaluation, others: Mapping[str, Evaluation], rule: GateRule) -> list[Check]:
    scores, champion = evaluation.candidates[name], evaluation.champion
    checks = [_floor(scores, rule), _coverage(scores, champion, rule)]
    if champion:
        checks += [
            _minimum_gain(scores, champion, rule),
            _confidence(scores, champion, rule),
            _slices(scores, champion, rule),
            *([_ways(name, others, rule)] if others else []),
        ]
    else:
        problem = evaluation.champion_problem
        why = f"The champion cannot be judged: {problem}" if problem else "There is no champion yet to be better than."
        checks.append(Check("champion", True, None, None, why))
    return checks


def _floor(scores: Scores, rule: GateRule) -> Check:
    sentence = f"R² is {scores.r2:.3f}; at least {rule.min_r2:.2f} is asked of any model."
    return Check("floor", scores.r2 >= rule.min_r2, scores.r2, rule.min_r2, sentence)


def _coverage(scores: Scores, champion: Scores | None, rule: GateRule) -> Check:
    low, high = coverage_band(champion, rule)
    coverage = scores.interval_coverage
    widened = champion and abs(champion.interval_coverage - NOMINAL_COVERAGE) > rule.coverage_tolerance
    sentence = (
        f"{coverage:.1%} of trips ended within their {NOMINAL_COVERAGE:.0%} interval; {low:.1%} to {high:.1%} is asked"
        + (", no further off than the champion." if widened else ".")
    )
    return Check("coverage", low <= coverage <= high, coverage, low if coverage < NOMINAL_COVERAGE else high, sentence)


def coverage_band(champion: Scores | None, rule: GateRule) -> tuple[float, float]:
    """The least and the greatest interval coverage that the rule allows, 0 to 1; the champion's own is allowed."""
    off = abs(champion.interval_coverage - NOMINAL_COVERAGE) if champion else 0.0
    allowed = max(rule.coverage_tolerance, off)
    return NOMINAL_COVERAGE - allowed, min(1.0, NOMINAL_COVERAGE + allowed)


def _gain(rmse: float, champion_rmse: float) -> float:
    """The share of the champion's RMSE that is saved; nothing can be saved of an RMSE of zero."""
    return 1 - rmse / champion_rmse if champion_rmse else 0.0


def _minimum_gain(scores: Scores, champion: Scores, rule: GateRule) -> Check:
    gain = _gain(scores.rmse, champion.rmse)
    passed = gain >= rule.min_gain
    sentence = (
        f"RMSE is {scores.rmse:.3f} minutes against the champion's {champion.rmse:.3f}, {_less_or_more(-gain)}: "
        f"{'at least' if passed else 'not better by the minimum gain of'} {rule.min_gain:.1%}"
        f"{' is asked.' if passed else '.'}"
    )
    return Check("gain", passed, gain, rule.min_gain, sentence)


def _less_or_more(change: float) -> str:
    return f"{abs(change):.2%} {'less' if change < 0 else 'more'}" if change else "a tie"


def _confidence(scores: Scores, champion: Scores, rule: GateRule) -> Check:
    interval = scores.difference.interval if scores.difference else None
    bound = -rule.proven_gain * champion.rmse
    if interval is None:
        return Check("confidence", False, None, bound, "All trips are of one day: too few to tell a gain from chance.")
    low, high = interval
    below = f"{bound:+.3f}, {rule.proven_gain:.1%} of the champion's" if rule.proven_gain else "zero"
    sentence = (
        f"With {CONFIDENCE:.0%} confidence the difference in RMSE is between {low:+.3f} and {high:+.3f} minutes; "
        f"all of it has to be below {below}."
    )
    return Check("confidence", high < bound, high, bound, sentence)


def _ways(name: str, others: Mapping[str, Evaluation], rule: GateRule) -> Check:
    """Whether it is clearly worse than the champion when asked in another way."""
    losses = {}
    for way, evaluation in others.items():
        scores, champion = evaluation.candidates.get(name), evaluation.champion
        if champion and (scores is None or (scores.difference and (scores.difference.low or 0.0) > 0)):
            losses[way] = -_gain(scores.rmse, champion.rmse) if scores else math.inf
    worst = max(losses.values(), default=0.0)
    worse = [f"{way} ({loss:+.1%})" for way, loss in losses.items() if loss > rule.way_max_loss]
    bound = f"more than {rule.way_max_loss:.0%} above the champion's"
    if worse:
        return Check("ways", False, worst, rule.way_max_loss, f"RMSE is clearly {bound} if asked {'; '.join(worse)}.")
    return Check("ways", True, worst, rule.way_max_loss, f"In no other way of asking is RMSE clearly {bound}.")


def _slices(scores: Scores, champion: Scores, rule: GateRule) -> Check:
    before = {(part.dimension, part.label): part.rmse for part in champion.slices}
    losses = [
        (-_gain(part.rmse, before[part.dimension, part.label]), part)
        for part in scores.slices
        if part.trips >= rule.slice_min_trips and part.difference and (part.difference.low or 0.0) > 0
    ]
    losses.sort(key=lambda item: item[0], reverse=True)
    worst = losses[0][0] if losses else 0.0
    worse = [
        f"{part.dimension} {part.label} ({loss:+.1%} on {part.trips:,} trips)"
        for loss, part in losses
        if loss > rule.slice_max_loss
    ]
    bound = f"more than {rule.slice_max_loss:.0%} above the champion's"
    if worse:
        more = f"; and {len(worse) - _NAMED_SLICES} more" if len(worse) > _NAMED_SLICES else ""
        sentence = f"RMSE is clearly {bound} on {'; '.join(worse[:_NAMED_SLICES])}{more}."
    else:
        sentence = f"On no slice of {rule.slice_min_trips} trips or more is RMSE clearly {bound}."
    return Check("slices", not worse, worst, rule.slice_max_loss, sentence)
