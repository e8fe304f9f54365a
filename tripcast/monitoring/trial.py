"""The trial of a challenger: is it better than the champion on live truth?

The gate has judged a challenger on a month before it served. The trial judges it on what came after: both versions
predict the same trips, those that have ended since, and the difference of their RMSE has its confidence interval.

- Better, with the whole interval below zero: it becomes the champion.
- Worse: it is withdrawn. It need not be proven worse; one that is to replace what works has to be better.
- Better, but the interval reaches zero: it stays on trial, until it has had its windows; then it is withdrawn.

A window whose data breaks its contract proves nothing and does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tripcast.evaluation.confidence import Measure
from tripcast.monitoring.rule import DEFAULT_RULE, Rule


@dataclass(frozen=True)
class Trial:
    """What a window said of a challenger.

    Attributes:
        challenger: The version on trial.
        champion: The version that it is to replace.
        trips: Trips on which both were judged.
        difference: The challenger's RMSE less the champion's, minutes.
        verdict: Promote it, withdraw it, or wait for another window.
        reason: Why, as a sentence.
    """

    challenger: int
    champion: int
    trips: int
    difference: Measure
    verdict: Literal["promote", "withdraw", "wait"]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Trial:
        """Read what ``to_dict`` gave.

        Raises:
            TypeError: If an entry is missing or unknown.
        """
        return cls(**{**entries, "difference": Measure(**entries["difference"])})


def judge(
    challenger: int,
    champion: int,
    trips: int,
    difference: Measure,
    earlier: Sequence[Trial] = (),
    rule: Rule = DEFAULT_RULE,
) -> Trial:
    """Judge a challenger by one window.

    Args:
        challenger: The version on trial.
        champion: The version that it is to replace.
        trips: Trips on which both were judged.
        difference: The challenger's RMSE less the champion's, minutes, see ``monitoring.rmse_difference``.
        earlier: The trials of earlier windows, of any versions.
        rule: Says how many windows a trial has.
    """
    windows = 1 + sum((trial.challenger, trial.champion) == (challenger, champion) for trial in earlier)
    compared = (
        f"Version {challenger} is {abs(difference.value):.3f} minutes {'worse' if difference.value >= 0 else 'better'} "
        f"than version {champion} in RMSE on {trips:,} live trips"
    )
    if difference.low is not None and difference.high is not None:
        compared += f" (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
    verdict: Literal["promote", "withdraw", "wait"]
    if difference.value >= 0:
        verdict, reason = "withdraw", f"{compared}: it is withdrawn."
    elif difference.high is not None and difference.high < 0:
        verdict, reason = "promote", f"{compared}: it becomes the champion."
    elif windows >= rule.trial_windows:
        verdict, reason = "withdraw", f"{compared}, which {windows} windows have not proven: it is withdrawn."
    else:
        verdict, reason = "wait", f"{compared}, which may be chance: its trial goes on."
    return Trial(challenger, champion, trips, difference, verdict, reason)
