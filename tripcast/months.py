"""Calendar months, the unit in which trip records are published, trained on and judged."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tripcast.errors import InvalidRequest

#: Months that can be asked for at once: twenty years, which is more than has been published.
_MOST_MONTHS = 240

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


@dataclass(frozen=True, order=True)
class Month:
    """One calendar month; orders by time and prints as ``2021-01``."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """Read ``YYYY-MM``.

        Raises:
            InvalidRequest: If the text is not a month.
        """
        match = _MONTH.fullmatch(text.strip())
        if not match:
            raise InvalidRequest(f"'{text}' is not a month: write it as YYYY-MM, for example 2021-01.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    def next(self) -> Month:
        """The month after this one."""
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    @property
    def start(self) -> np.datetime64:
        """The first moment of the month, New York local time."""
        return np.datetime64(str(self), "us")

    @property
    def end(self) -> np.datetime64:
        """The first moment after the month, New York local time."""
        return self.next().start


@dataclass(frozen=True)
class MonthUsed:
    """A month that went into a training run.

    Attributes:
        month: As ``2021-01``.
        role: train or test.
        location: Where it came from: a URL, a path or the simulated city's options.
        rows: Number of records that were read.
        kept: Number of trips that passed validation.
        digest: The content hash of what was read.
        remarks: What people should know of how it was read, as sentences.
    """

    month: str
    role: str
    location: str
    rows: int
    kept: int
    digest: str
    remarks: str = ""


def parse_months(text: str) -> list[Month]:
    """Read months written as a person writes them: ``2021-01..2021-03``, ``2021-01,2022-01`` or one month.

    Returns:
        The months in time order, none twice.

    Raises:
        InvalidRequest: If a part is not a month, a range runs backwards, there is no month at all, or too many.
    """
    months: set[Month] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dots, last = part.partition("..")
        month, until = Month.parse(first), Month.parse(last if dots else first)
        if until < month:
            raise InvalidRequest(f"The months '{part}' run backwards: write {until}..{month}.")
        count = (until.year - month.year) * 12 + until.month - month.month + 1
        if count > _MOST_MONTHS:
            raise InvalidRequest(
                f"'{part}' is {count:,} months, and at most {_MOST_MONTHS} are taken at once: check the years."
            )
        while month <= until:
            months.add(month)
            month = month.next()
    if not months:
        raise InvalidRequest("No month was given: write for example 2021-01..2021-02.")
    return sorted(months)
