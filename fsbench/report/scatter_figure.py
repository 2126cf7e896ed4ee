"""One point per run: a measure against another result, with Pearson's correlation over each panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from fsbench.papers.artefact import Scatter
from fsbench.report.axes import axis_title, number, ordered, value_words
from fsbench.report.cells import numbers_of
from fsbench.report.confidence import Correlation, pearson
from fsbench.report.figure_style import SEQUENTIAL, legend_above, panel_mark, style, styles
from fsbench.report.numbers import unit_scale
from fsbench.report.panels import (
    differing,
    letter,
    limits,
    panel_grid,
    side_by_side,
    spans_decades,
    tidy_ticks,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_HEIGHT = 2.2


@dataclass(frozen=True)
class Cloud:
    """The points of one panel.

    Args:
        where: values of the axes that make panels.
        value, label: the measure and what it is called.
        x, y: in the units of their labels; only runs that have both.
        colour: value of the colouring axis of each.
        correlation: of `x` and `y` as they are, also where an axis is logarithmic.
    """

    where: Mapping[str, str]
    value: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: tuple[str, ...]
    correlation: Correlation


def clouds(frame: pd.DataFrame, shows: Scatter) -> list[Cloud]:
    """The panels, row by row."""
    groups: dict[tuple[str, ...], list[int]] = {}
    keys = zip(*(frame[axis].astype(str) for axis in shows.panels), strict=True) if shows.panels else [()] * len(frame)
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    x_all = numbers_of(frame, shows.x)
    made = []
    for key, positions in groups.items():
        for value, label in shows.measures:
            y_all = numbers_of(frame, value)
            kept = [i for i in positions if math.isfinite(x_all[i]) and math.isfinite(y_all[i])]
            x = tuple(unit_scale(shows.x_label) * x_all[i] for i in kept)
            y = tuple(unit_scale(label) * y_all[i] for i in kept)
            colour = tuple(str(frame[shows.colour].iloc[i]) for i in kept)
            where = dict(zip(shows.panels, key, strict=True))
            made.append(Cloud(where, value, label, x, y, colour, pearson(x, y)))
    return made


def correlation_text(correlation: Correlation) -> str:
    """`r = 0.91 [0.86, 0.95], n = 55`."""
    if math.isnan(correlation.r):
        return f"n = {correlation.n}"
    interval = "" if math.isnan(correlation.low) else f" [{correlation.low:.2f}, {correlation.high:.2f}]"
    return f"r = {correlation.r:.2f}{interval}, n = {correlation.n}"


def scatter_figure(panels: Sequence[Cloud], shows: Scatter, declared: Sequence[str]) -> Figure | None:
    """Draw the panels; None where there is no point.

    Args:
        declared: values of the colouring axis, in order.
    """
    from matplotlib.lines import Line2D

    names = ordered((name for panel in panels for name in panel.colour), declared)
    if not names:
        return None
    numbers = [number(name) for name in names]
    looks = {name: look.line() | {"linestyle": "none"} for name, look in styles(names).items()}
    rows = len({tuple(panel.where.items()) for panel in panels})
    columns = len(shows.measures) if rows > 1 and 1 < len(shows.measures) <= 3 else side_by_side(len(panels))
    marks = differing([panel.where for panel in panels])
    with style():
        drawn, axes = panel_grid(len(panels), columns, _HEIGHT)
        if len(names) > 1 and None not in numbers:
            scale = _colour_scale([float(name) for name in names])
            looks = {name: {"linestyle": "none", "marker": "o", "color": scale.to_rgba(float(name))} for name in names}
            bar = drawn.colorbar(scale, ax=axes, aspect=30, pad=0.02, shrink=0.9)
            bar.set_label(axis_title(shows.colour))
            bar.outline.set_linewidth(0.6)
        else:
            head = "" if None in numbers else f"{axis_title(shows.colour)} = "
            legend_above(drawn, [Line2D([], [], label=head + value_words(name), **looks[name]) for name in names])
        for i, panel in enumerate(panels):
            for name in names:
                points = [(a, b) for a, b, c in zip(panel.x, panel.y, panel.colour, strict=True) if c == name]
                if points:
                    axes[i].plot(
                        *zip(*points, strict=True), **looks[name], markeredgecolor="white", markeredgewidth=0.3
                    )
            _finish(axes[i], panel, shows)
            tidy_ticks(axes[i])
            mark = [letter(i)] if len(panels) > 1 else []
            # A real minus sign, as the axes have.
            fit = correlation_text(panel.correlation).replace("-", "\N{MINUS SIGN}")
            panel_mark(axes[i], "\n".join([" ".join([*mark, marks[i]]), fit] if marks[i] else [" ".join([*mark, fit])]))
        drawn.align_ylabels()
    return drawn


def _colour_scale(values: Sequence[float]) -> ScalarMappable:
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    full = matplotlib.colormaps[SEQUENTIAL]
    # The upper end of viridis, a yellow, does not read on white.
    colours = ListedColormap([full(0.9 * i / 255) for i in range(256)])
    return ScalarMappable((LogNorm if spans_decades(values) else Normalize)(min(values), max(values)), colours)


def _finish(axes: Axes, panel: Cloud, shows: Scatter) -> None:
    axes.set_xlabel(shows.x_label)
    axes.set_ylabel(wrapped(panel.label))
    if not panel.x:
        return
    logarithmic = spans_decades(panel.y)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylim(limits(panel.y, logarithmic))
    axes.set_xlim(limits(panel.x, False))
