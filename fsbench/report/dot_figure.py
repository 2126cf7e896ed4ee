"""A table as a picture: a dot with an error bar for each cell, the published one beside the measured one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fsbench.report.axes import axis_title, number, value_words
from fsbench.report.cells import Cell, find
from fsbench.report.figure_style import PAPER_GREY, LineStyle, legend_above, panel_mark, style, styles
from fsbench.report.layout import combinations
from fsbench.report.panels import differing, letter, limits, panel_grid, side_by_side, spans_decades, tidy_ticks

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches for each method of a row, and between rows.
_METHOD, _BETWEEN = 0.13, 0.1


def dot_figure(
    cells: Sequence[Cell],
    results: Sequence[tuple[str, str]],
    rows: Mapping[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
) -> Figure | None:
    """Draw the cells; None where not one was measured.

    Args:
        results: results and their labels.
        rows: row axes and their values; the last goes down a panel, the others make panels.
        columns: column axis and its values.
    """
    from matplotlib.lines import Line2D

    if not any(math.isfinite(cell.mean) for cell in cells):
        return None
    looks = styles(list(columns[1]))
    *outer, last = list(rows) or [""]
    groups = combinations(cells, {axis: rows[axis] for axis in outer})
    panels = [(dict(zip(outer, group, strict=True)), result) for group in groups for result in results]
    inside = []
    for where, (value, _) in panels:
        here = [c for c in cells if c.value == value and all(c.where[axis] == name for axis, name in where.items())]
        inside.append((here, [name for (name,) in combinations(here, {last: rows[last]})] if last else [""]))
    marks = differing([where for where, _ in panels])
    with style():
        count = side_by_side(len(panels))
        across = max(len(names) for _, names in inside)
        height = 0.55 + across * (_METHOD * len(looks) + _BETWEEN)
        drawn, axes = panel_grid(len(panels), count, max(1.2, height))
        for i, ((_, (_, label)), (here, names)) in enumerate(zip(panels, inside, strict=True)):
            _panel(axes[i], here, names, last, columns[0], looks)
            axes[i].set_xlabel(label)
            tidy_ticks(axes[i])
            if i % count and names == inside[i - 1][1]:
                axes[i].tick_params(axis="y", labelleft=False)
            if last and i % count == 0:
                axes[i].set_ylabel(axis_title(last))
            if len(panels) > 1:
                panel_mark(axes[i], f"{letter(i)} {marks[i]}".rstrip())
        numbers = all(number(name) is not None for name in columns[1])
        head = f"{axis_title(columns[0])} = " if numbers else ""
        handles: list[Artist] = [
            Line2D([], [], label=head + value_words(name), **{**look.line(), "linestyle": "none"})
            for name, look in looks.items()
        ]
        if any(not math.isnan(cell.published) for cell in cells):
            handles.append(Line2D([], [], label="published", **LineStyle(PAPER_GREY, "o", "-").hollow()))
        legend_above(drawn, handles)
    return drawn


def _panel(
    axes: Axes, cells: Sequence[Cell], names: Sequence[str], row: str, column: str, looks: Mapping[str, LineStyle]
) -> None:
    value = cells[0].value
    share = _METHOD / (_METHOD * len(looks) + _BETWEEN)  # of a row's height that a method has
    shown: list[float] = []
    means: list[float] = []
    for i, name in enumerate(names):
        if i:
            axes.axhline(i - 0.5, color="#D9D9D9", linewidth=0.5, zorder=0)
        for j, (method, look) in enumerate(looks.items()):
            cell = find(cells, value, {column: method} | ({row: name} if row else {}))
            if cell is None:
                continue
            y = i + (j - (len(looks) - 1) / 2) * share
            points = (
                (cell.published, cell.published_std, y + 0.22 * share, look.hollow()),
                (cell.mean, cell.std, y - 0.22 * share, {**look.line(), "linestyle": "none", "zorder": 3}),
            )
            for mean, std, place, look_of in points:
                if not math.isfinite(mean):
                    continue
                half = std if math.isfinite(std) else 0.0
                bar = {"elinewidth": 0.8, "ecolor": look.colour, "capsize": 0}
                axes.errorbar([mean], [place], xerr=[half] if half else None, **look_of, **bar)
                shown += [mean - half, mean + half]
                means.append(mean)
    logarithmic = spans_decades(means)
    if logarithmic:
        axes.set_xscale("log")
        shown = [x for x in shown if x > 0.1 * min(means)]
    if shown:
        axes.set_xlim(limits(shown, logarithmic))
    axes.set_yticks(range(len(names)), [value_words(name) for name in names] if row else [""] * len(names))
    axes.spines["left"].set_visible(bool(row))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
