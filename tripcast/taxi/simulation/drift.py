"""How the simulated city changes on command, and in which months."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from tripcast.errors import InvalidRequest
from tripcast.months import Month

_N = TypeVar("_N", int, float)


@dataclass(frozen=True)
class Drift:
    """A change of the city: in which months, and how strong.

    Attributes:
        first: The first month of it.
        last: The last month of it; None if it stays.
        strength: How strong; what the number means is written at the fields of ``City``.
    """

    first: Month
    last: Month | None
    strength: float

    @classmethod
    def parse(cls, name: str, text: str) -> Drift:
        """Read ``2021-06`` (from then on) or ``2021-06..2021-08`` (in these months), with or without ``:0.7``.

        Args:
            name: Which drift of a city it is; it has a strength of its own if none is given.
            text: When, and how strong.

        Raises:
            InvalidRequest: If a month or the strength cannot be read, or the months run backwards.
        """
        months, colon, strength = text.partition(":")
        first, dots, last = months.partition("..")
        drift = cls(
            Month.parse(first),
            Month.parse(last) if dots else None,
            read_number(float, strength, f"The strength of {name}") if colon else DRIFT_KINDS[name].default,
        )
        if drift.last and drift.last < drift.first:
            raise InvalidRequest(f"The months '{months}' of {name} run backwards: write {last}..{first}.")
        return drift

    def holds_in(self, month: Month) -> bool:
        """Whether the city is changed in this month."""
        return self.first <= month and (self.last is None or month <= self.last)


class DriftKind(NamedTuple):
    """What strength a drift has if none is given, the one that changes nothing, and the range allowed."""

    default: float
    none: float
    least: float
    most: float


#: The drifts of a city, by the names of its fields.
DRIFT_KINDS = {
    "slower_streets": DriftKind(default=0.75, none=1.0, least=0.1, most=2.0),
    "closed_bridge": DriftKind(default=3.0, none=1.0, least=1.0, most=20.0),
    "new_zones": DriftKind(default=0.3, none=0.0, least=0.0, most=0.9),
    "bad_rows": DriftKind(default=0.5, none=0.0, least=0.0, most=1.0),
}


def read_number(kind: type[_N], text: str, what: str) -> _N:
    """A number that somebody wrote.

    Raises:
        InvalidRequest: If it is none; ``what`` says of what.
    """
    try:
        return kind(text)
    except ValueError:
        raise InvalidRequest(f"{what} is '{text}': give a {'whole ' if kind is int else ''}number.") from None
