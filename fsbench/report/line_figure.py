"""Means over an axis with a band of one standard deviation, panels side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fsbench.papers.artefact import Lines
from fsbench.report.axes import axis_title, number, value_words
from fsbench.report.cells import Cell
from fsbench.report.figure_style import PAPER_GREY, LineStyle, legend_above, panel_mark, style, styles
from fsbench.report.layout import combinations
from fsbench.report.numbers import unit_scale
from fsbench.report.panels import (
    differing,
    letter,
    limits,
    mark_values,
    panel_grid,
    side_by_side,
    spans_decades,
    tidy_ticks,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.1


def line_figure(
    cells: Sequence[Cell], shows: Lines, values: Mapping[str, Sequence[str]], rows: Sequence[str]
) -> Figure | None:
    """Draw the cells; None where not one was measured.

    Args:
        values: of each axis, in order.
        rows: axes that are neither drawn as lines nor along x: each combination is a row of panels.
    """
    from matplotlib.lines import Line2D

    if not any(math.isfinite(cell.mean) for cell in cells):
        return None
    names = list(values[shows.lines]) if shows.lines else [""]
    looks = styles(names)
    groups = combinations(cells, {axis: values[axis] for axis in rows})
    count = len(groups) * len(shows.panels)
    own_row = len(groups) > 1 and 1 < len(shows.panels) <= 3
    across = len(shows.panels) if own_row else side_by_side(count)
    with style():
        drawn, axes = panel_grid(count, across, _HEIGHT)
        panels = [(group, panel) for group in groups for panel in shows.panels]
        marks = differing([dict(zip(rows, group, strict=True)) for group, _ in panels])
        for i, (group, (value, label)) in enumerate(panels):
            where = dict(zip(rows, group, strict=True))
            inside = [
                c for c in cells if c.value == value and all(c.where[axis] == name for axis, name in where.items())
            ]
            _panel(axes[i], inside, shows, values[shows.x], looks, across)
            tidy_ticks(axes[i])
            axes[i].set_ylabel(wrapped(label))
            if len(panels) > 1:
                panel_mark(axes[i], f"{letter(i)} {marks[i]}".rstrip())
        drawn.align_ylabels()
        handles: list[Artist] = []
        if shows.lines:
            numbers = all(number(name) is not None for name in names)
            head = f"{axis_title(shows.lines)} = " if numbers else ""
            handles += [Line2D([], [], label=head + value_words(name), **looks[name].line()) for name in names]
        if any(not math.isnan(cell.published) for cell in cells):
            grey = LineStyle(PAPER_GREY, "o", "-")
            if not shows.lines:
                handles.append(Line2D([], [], label="measured", **looks[""].line()))
            handles.append(Line2D([], [], label="published", **grey.hollow()))
        legend_above(drawn, handles)
    return drawn


def _panel(
    axes: Axes,
    cells: Sequence[Cell],
    shows: Lines,
    x_values: Sequence[str],
    looks: Mapping[str, LineStyle],
    across: int,
) -> None:
    numeric = all(number(value) is not None for value in x_values)
    scale = unit_scale(shows.x_label)
    places = {value: scale * float(value) if numeric else float(i) for i, value in enumerate(x_values)}
    shown: list[float] = []
    for rank, (name, look) in enumerate(looks.items()):
        line = [c for c in cells if not shows.lines or c.where[shows.lines] == name]
        line.sort(key=lambda cell: places[cell.where[shows.x]])
        x = [places[cell.where[shows.x]] for cell in line]
        means = [cell.mean if math.isfinite(cell.mean) else math.nan for cell in line]
        # One run has no deviation: its band is its line.
        spread = [cell.std if math.isfinite(cell.std) else 0.0 for cell in line]
        low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        if numeric:
            axes.plot(x, means, **look.line(), clip_on=False, zorder=3)
            axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0, zorder=1)
        else:
            # Between kinds there is nothing that a line could run through.
            x = [place + 0.12 * (rank - (len(looks) - 1) / 2) for place in x]
            look_of = {**look.line(), "linestyle": "none"}
            axes.errorbar(x, means, yerr=spread, **look_of, elinewidth=0.8, capsize=0, zorder=3)
        paper = [(a, cell.published) for a, cell in zip(x, line, strict=True) if not math.isnan(cell.published)]
        if paper:
            axes.plot(*zip(*paper, strict=True), **look.hollow())
        shown += [*low, *high, *means, *(value for _, value in paper)]
    finite = [value for value in shown if math.isfinite(value)]
    means = [cell.mean for cell in cells if math.isfinite(cell.mean)]
    logarithmic = spans_decades(means)
    if logarithmic:
        axes.set_yscale("log")
        finite = [value for value in finite if value > 0.1 * min(means)]  # a band that reaches zero is cut
    if finite:
        axes.set_ylim(limits(finite, logarithmic))
    axes.set_xlabel(shows.x_label)
    if not numeric:
        mark_values(axes, list(places.values()), [value_words(value) for value in x_values], across)
    elif shows.log_x and min(places.values()) > 0:
        axes.set_xscale("log")
        if any(math.log10(place) % 1 for place in places.values()):
            # Powers of ten would be beside the values, or too few.
            mark_values(axes, list(places.values()), list(x_values), across)
    axes.set_xlim(
        limits(
            list(places.values()), axes.get_xscale() == "log", room=0.05 if numeric else 0.5 / max(1, len(places) - 1)
        )
    )
