"""The axis of months: months side by side in order, with a visible break where some are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from tripcast.months import Month
from tripcast.reports.pictures import LINE, MUTED

Floats = npt.NDArray[np.float64]

#: How much wider a break is than a month.
_BREAK = 0.6

#: Inches that the name of a month takes.
_NAME_INCHES = 0.36

_NAMES = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


@dataclass(frozen=True)
class Timeline:
    """Where months stand on an axis.

    Attributes:
        months: In order of time.
        places: Of each month on the axis: one apart where they follow each other, more where some are left out.
    """

    months: tuple[Month, ...]
    places: tuple[float, ...]

    @classmethod
    def of(cls, months: Sequence[str]) -> Timeline:
        """Lay months out.

        Args:
            months: At least one, as ``2021-01``, in order of time.

        Raises:
            InvalidRequest: If one is not a month.
        """
        parsed = tuple(map(Month.parse, months))
        steps = [1.0 if before.next() == after else 1.0 + _BREAK for before, after in pairwise(parsed)]
        return cls(parsed, tuple(np.cumsum([0.0, *steps]).tolist()))

    @property
    def breaks(self) -> list[float]:
        """The middle of each break."""
        return [(left + right) / 2 for left, right in pairwise(self.places) if right - left > 1]

    def line(self, values: Sequence[float | None]) -> tuple[Floats, Floats]:
        """The points of a line that ends at each break, and where a value is missing.

        Args:
            values: One for each month.
        """
        points = list(zip(self.places, (np.nan if value is None else value for value in values), strict=True))
        points += [(middle, np.nan) for middle in self.breaks]
        places, heights = zip(*sorted(points), strict=True)
        return np.array(places), np.array(heights)

    def draw(self, axes: Axes) -> None:
        """Name the months below the axes, the year below its first one, and mark the breaks."""
        room = axes.get_figure(root=True).get_figwidth() - 0.9  # type: ignore[union-attr]
        span = self.places[-1] + 1
        step = next(step for step in (1, 2, 3, 4, 6, 12, len(self.months)) if span * _NAME_INCHES <= step * room)
        ticks, names, year = [], [], None
        for place, month in list(zip(self.places, self.months, strict=True))[::step]:
            ticks.append(place)
            names.append(_NAMES[month.month - 1] + (f"\n{month.year}" if month.year != year else ""))
            year = month.year
        axes.set_xticks(ticks, names)
        axes.set_xlim(-0.6, self.places[-1] + 0.6)
        axes.grid(visible=False, axis="x")
        for middle in self.breaks:
            axes.axvspan(middle - _BREAK / 2, middle + _BREAK / 2, color=LINE, alpha=0.45, linewidth=0)
            axes.annotate("⋯", (middle, 0.5), xycoords=("data", "axes fraction"), color=MUTED, ha="center", va="center")
