"""What came of a replay: past months as the loop would have lived through them, beside other ways."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tripcast.monitoring.rule import Rule

#: What may happen in a month: people are told; a candidate is promoted, refused, or tried on a share of the riders; a
#: version is withdrawn, or goes back to the one before it; the month's data is broken.
EventKind = Literal["alert", "promote", "refuse", "challenge", "withdraw", "relapse", "data"]

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

    def overall(self, rmse: str) -> float | None:
        """RMSE over the trips of all months that could be judged, minutes; None if there is no such month.

        Args:
            rmse: Which of the four that are compared, as ``ReplayMonth`` names it.
        """
        known = [(month.trips, value) for month in self.months if (value := getattr(month, rmse)) is not None]
        trips = sum(of_month for of_month, _ in known)
        return math.sqrt(sum(of_month * value**2 for of_month, value in known) / trips) if trips else None

    @property
    def regret(self) -> float | None:
        """How much higher the system's RMSE is than that of the model trained anew each month, as a share of it."""
        system, reference = self.overall("system_rmse"), self.overall("retrained_monthly_rmse")
        return None if system is None or not reference else system / reference - 1

    @property
    def headline(self) -> str:
        """What came of it, in a sentence or two."""
        system, once = self.overall("system_rmse"), self.overall("trained_once_rmse")
        if system is None or once is None or self.regret is None:
            return "No month could be judged, so nothing can be said about the loop."
        reference = self.overall("retrained_monthly_rmse")
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
