"""What the pictures of all reports have in common.

They are SVG within the page, so they take on its font and its light or dark colours.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# A picture is drawn in these stand-ins for colours; in the page each becomes a variable of the style sheet, which has
# one value in light and another in dark. They are no colours that anybody would choose.

#: Stand-ins for the colour of text, of text of less weight, and of lines and areas in the background.
INK, MUTED, LINE = "#010101", "#020202", "#030303"

#: Stand-ins for the colours of what is compared, the most important first.
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506")

#: The style sheet's name of each colour.
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)},
}

#: Marks differ as colours do, for those who cannot tell the colours apart: one for each of ``SERIES``.
MARKS = ("o", "D", "s", "^", "v", "P")

#: Inches. A picture is as wide as a column of the page, which is the whole of a telephone's screen.
WIDTH = 4.8

#: What matplotlib is told while it draws.
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, in the page's own font
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.4,
}


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows."""

    title: str
    caption: str
    svg: Markup


def style(hashsalt: str = "tripcast") -> AbstractContextManager[None]:
    """The style of all pictures while the body draws; the same figures make the same picture.

    Args:
        hashsalt: Names a picture's parts: pictures that stand for each other in a page may not share them.
    """
    return matplotlib.rc_context({**_STYLE, "svg.hashsalt": hashsalt})


def canvas(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Empty axes on a figure of its own, which pyplot does not know of; height and width are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Figure, description: str) -> Markup:
    """The picture as an element of the page: in its colours, as wide as its column, described for those who listen."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = file.getvalue()
    for replacement, variable in VARIABLES.items():
        drawing = drawing.replace(replacement, f"var({variable})")
    # What stands before the element's content (XML declaration, DOCTYPE, a size in points) is for files, not for pages.
    content = drawing[drawing.index("<svg") :].partition(">")[2]
    width, height = figure.get_size_inches() * 72  # SVG counts in points
    opening = Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(width, height, description)
    return opening + Markup(content)  # matplotlib has escaped the text within


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Name what the axes show, above them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2)
