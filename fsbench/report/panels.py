"""Panels of a figure: how many side by side, which axes are logarithmic, how much room values take."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fsbench.report.axes import value_words
from fsbench.report.figure_style import COLUMN, PAGE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Orders of magnitude from which an axis is logarithmic.
_DECADES = 2.0
# Letters along a panel's height, and along its width with so many panels side by side.
_LABEL = 30
_LETTERS = {1: 44, 2: 42, 3: 26}


def side_by_side(panels: int, most: int = 3) -> int:
    """How many panels stand in a row: all of them up to `most`, else as many as make full rows."""
    if panels <= most:
        return panels
    return next((columns for columns in range(most, 1, -1) if panels % columns == 0), most)


def panel_grid(panels: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of a column's or the page's width with that many panels, row by row.

    Args:
        height: of one row of panels, in inches; the legend's comes on top.
    """
    rows = -(-panels // columns)
    drawn = figure(COLUMN if columns == 1 else PAGE, rows * height + 0.3)
    return drawn, [drawn.add_subplot(rows, columns, i + 1) for i in range(panels)]


def spans_decades(values: Iterable[float]) -> bool:
    """Whether values are all positive and so far apart that only a logarithmic axis shows them all."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and math.log10(max(finite) / min(finite)) >= _DECADES


def limits(values: Sequence[float], logarithmic: bool, room: float = 0.06) -> tuple[float, float]:
    """Limits of an axis that show all values with some room, also where they are all the same."""
    low, high = min(values), max(values)
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    margin = room * (high - low) or 0.05 * abs(high) or 0.05
    low, high = low - margin, high + margin
    return (10**low, 10**high) if logarithmic else (low, high)


def tidy_ticks(axes: Axes) -> None:
    """Numbers along the axes that do not meet, and a power of ten beside them as it is printed; with limits set."""
    if axes.get_xscale() == "linear" and max(len(f"{tick:g}") for tick in axes.get_xticks()) > 4:
        axes.locator_params(axis="x", nbins=4)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        largest = max(map(abs, axis.get_view_interval()))
        # Not everywhere: numbers set as mathematics take long to draw, and are cut into pieces in an SVG.
        if axis.get_scale() == "linear" and not 1e-3 <= largest < 1e5:
            axes.ticklabel_format(axis=name, useMathText=True)


def mark_values(axes: Axes, places: Sequence[float], names: Sequence[str], across: int) -> None:
    """Names at places of the horizontal axis: broken at their underscores, then aslant, where they would meet.

    Args:
        across: panels side by side.
    """
    room = _LETTERS[min(across, 3)] / max(1, len(names)) - 1
    if max(map(len, names)) > room:
        names = [name.replace("_", "\n").replace(", ", ",\n") for name in names]
    axes.set_xticks(places, names)
    axes.minorticks_off()
    if max(len(line) for name in names for line in name.split("\n")) > room:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def differing(wheres: Sequence[Mapping[str, str]]) -> list[str]:
    """What each panel is of, in words: its values of those axes in which panels differ."""
    return [
        ", ".join(value_words(name) for axis, name in where.items() if len({w[axis] for w in wheres}) > 1)
        for where in wheres
    ]


def wrapped(label: str) -> str:
    """A label of a vertical axis in as many lines as the height of a panel asks for."""
    return "\n".join(textwrap.wrap(label, _LABEL))


def letter(position: int) -> str:
    """`(a)`, `(b)`, ... for a panel."""
    return f"({chr(ord('a') + position % 26)})"
