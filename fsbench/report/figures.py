"""The pictures of an artefact: dots for a table, lines over an axis, clouds of runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from fsbench.papers.artefact import Lines, Scatter
from fsbench.report.frame import groups, in_order
from fsbench.report.style import COLUMN, PAGE, PAPER_GREY, SEQUENTIAL, LineStyle, figure, legend_above, style, styles
from fsbench.report.text import all_numbers, axis_title, unit_scale, value_words

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

# Orders of magnitude from which an axis is logarithmic.
_DECADES = 2.0
# Letters along a panel's height, and along its width with so many panels side by side.
_LABEL = 30
_LETTERS = {1: 44, 2: 42, 3: 26}
# Inches for each method of a table's row, and between rows.
_METHOD, _BETWEEN = 0.13, 0.1


def dot_figure(cells: pd.DataFrame, rows: Sequence[str], column: str) -> Figure | None:
    """A dot with an error bar for each cell of a table, the published one beside the measured one.

    Args:
        rows: row axes; the last goes down a panel, the others make panels, one for each result.
        column: axis of the methods.
    """
    if not np.isfinite(cells["mean"]).any():
        return None
    looks = styles(in_order(cells[column]))
    outer, last = list(rows[:-1]), rows[-1] if rows else None
    parts = list(groups(cells, [*outer, "result"]))
    names = [[""] if last is None else in_order(part[last]) for _, part in parts]
    across = _across(len(parts))

    def draw(axes: Axes, i: int, part: pd.DataFrame) -> None:
        _dots(axes, part, names[i], last, column, looks)
        axes.set_xlabel(part["label"].iloc[0])
        if i % across and names[i] == names[i - 1]:
            axes.tick_params(axis="y", labelleft=False)
        if last is not None and i % across == 0:
            axes.set_ylabel(axis_title(last))

    with style():
        height = max(1.2, 0.55 + max(map(len, names)) * (_METHOD * len(looks) + _BETWEEN))
        drawn = _panels(parts, across, height, draw, outer)
        legend_above(drawn, _handles(column, {name: look.points() for name, look in looks.items()}, cells))
    return drawn


def _dots(
    axes: Axes, part: pd.DataFrame, names: Sequence[str], last: str | None, column: str, looks: Mapping[str, LineStyle]
) -> None:
    share = _METHOD / (_METHOD * len(looks) + _BETWEEN)  # of a row's height that a method has
    drawn_values: list[float] = []
    for i, name in enumerate(names):
        if i:
            axes.axhline(i - 0.5, color="#D9D9D9", linewidth=0.5, zorder=0)
        row = (part if last is None else part[part[last] == name]).set_index(column)
        for j, (method, look) in enumerate(looks.items()):
            if method not in row.index:
                continue
            cell, y = row.loc[method], i + (j - (len(looks) - 1) / 2) * share
            for mean, std, place, look_of in (
                (cell["published_mean"], cell["published_std"], y + 0.22 * share, look.hollow()),
                (cell["mean"], cell["std"], y - 0.22 * share, look.points() | {"zorder": 3}),
            ):
                if math.isfinite(mean):
                    half = std if math.isfinite(std) else 0.0
                    bar: dict[str, Any] = {"elinewidth": 0.8, "ecolor": look.colour, "capsize": 0}
                    axes.errorbar([mean], [place], xerr=[half] if half else None, **look_of, **bar)
                    drawn_values += [mean - half, mean + half]
    means = [*part["mean"], *part["published_mean"]]
    if drawn_values:
        axes.set_xlim(_limits(drawn_values, means, axes.set_xscale))
    axes.set_yticks(range(len(names)), [value_words(name) for name in names])
    axes.spines["left"].set_visible(last is not None)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)


def line_figure(cells: pd.DataFrame, shows: Lines, rows: Sequence[str]) -> Figure | None:
    """Means over an axis with a band of one standard deviation, panels side by side.

    Args:
        rows: axes that are neither drawn as lines nor along x: each combination is a row of panels.
    """
    if not np.isfinite(cells["mean"]).any():
        return None
    looks = styles(in_order(cells[shows.lines]) if shows.lines else ["measured"])
    parts = list(groups(cells, [*rows, "result"]))
    across = _across(len(parts), len(shows.panels))

    def draw(axes: Axes, i: int, part: pd.DataFrame) -> None:
        _lines(axes, part, shows, in_order(cells[shows.x]), looks, across)
        axes.set_ylabel(_wrapped(part["label"].iloc[0]))

    with style():
        drawn = _panels(parts, across, 2.1, draw, rows)
        drawn.align_ylabels()
        handles = _handles(shows.lines, {name: look.line() for name, look in looks.items()}, cells)
        if shows.lines or len(handles) > 1:
            legend_above(drawn, handles)
    return drawn


def _lines(
    axes: Axes, part: pd.DataFrame, shows: Lines, values: Sequence[str], looks: Mapping[str, LineStyle], across: int
) -> None:
    numeric = all_numbers(values)
    scale = unit_scale(shows.x_label)
    places = {value: scale * float(value) if numeric else float(i) for i, value in enumerate(values)}
    drawn_values: list[float] = []
    for rank, (name, look) in enumerate(looks.items()):
        line = part[part[shows.lines] == name] if shows.lines else part
        line = line.assign(place=[places[value] for value in line[shows.x]]).sort_values("place")
        x, means = line["place"], line["mean"].where(np.isfinite(line["mean"]))
        # One run has no deviation: its band is its line.
        spread = line["std"].fillna(0.0)
        low, high = means - spread, means + spread
        if numeric:
            axes.plot(x, means, **look.line(), clip_on=False, zorder=3)
            axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0, zorder=1)
        else:
            # Between kinds there is nothing that a line could run through.
            x = x + 0.12 * (rank - (len(looks) - 1) / 2)
            axes.errorbar(x, means, yerr=spread, **look.points(), elinewidth=0.8, capsize=0, zorder=3)
        paper = line["published_mean"].dropna()
        if len(paper):
            axes.plot(x[paper.index], paper, **look.hollow())
        drawn_values += [*low, *high, *means, *paper]
    if any(map(math.isfinite, drawn_values)):
        axes.set_ylim(_limits(drawn_values, part["mean"], axes.set_yscale))
    axes.set_xlabel(shows.x_label)
    if not numeric:
        _mark_values(axes, list(places.values()), [value_words(value) for value in values], across)
    elif shows.log_x and min(places.values()) > 0:
        axes.set_xscale("log")
        if any(math.log10(place) % 1 for place in places.values()):
            # Powers of ten would be beside the values, or too few.
            _mark_values(axes, list(places.values()), values, across)
    room = 0.05 if numeric else 0.5 / max(1, len(places) - 1)
    axes.set_xlim(_with_room(places.values(), axes.get_xscale() == "log", room))


def scatter_figure(runs: pd.DataFrame, fits: pd.DataFrame, shows: Scatter, declared: Sequence[str]) -> Figure | None:
    """One point per run: a measure against another result, with Pearson's correlation over each panel.

    Args:
        fits: correlation of each panel, row by row.
        declared: values of the colouring axis, in order.
    """
    parts = []
    for where, part in groups(runs, shows.panels, sort=False):
        for measure, label in shows.measures:
            points = part[np.isfinite(part[shows.x]) & np.isfinite(part[measure])]
            x, y = unit_scale(shows.x_label) * points[shows.x], unit_scale(label) * points[measure]
            parts.append((where | {"label": label}, pd.DataFrame({"x": x, "y": y, "colour": points[shows.colour]})))
    found = list(dict.fromkeys(name for _, points in parts for name in points["colour"]))
    if not found:
        return None
    names = [name for name in declared if name in found] if set(found) <= set(declared) else found
    scale, looks = None, {name: look.points() for name, look in styles(names).items()}
    if len(names) > 1 and all_numbers(names):
        scale = _colour_scale([float(name) for name in names])
        colours = {name: scale.to_rgba(np.asarray(float(name))) for name in names}
        looks = {name: {"linestyle": "none", "marker": "o", "color": colour} for name, colour in colours.items()}

    def draw(axes: Axes, i: int, points: pd.DataFrame) -> None:
        for name in names:
            here = points[points["colour"] == name]
            if len(here):
                axes.plot(here["x"], here["y"], **looks[name], markeredgecolor="white", markeredgewidth=0.3)
        axes.set_xlabel(shows.x_label)
        axes.set_ylabel(_wrapped(parts[i][0]["label"]))
        if len(points):
            axes.set_ylim(_limits(points["y"], points["y"], axes.set_yscale))
            axes.set_xlim(_with_room(points["x"], False))

    with style():
        below = [_correlation(fit) for fit in fits.to_dict("records")]
        across = _across(len(parts), len(shows.measures))
        drawn = _panels(parts, across, 2.2, draw, shows.panels, below)
        if scale is not None:
            bar = drawn.colorbar(scale, ax=drawn.axes, aspect=30, pad=0.02, shrink=0.9)
            bar.set_label(axis_title(shows.colour))
            bar.outline.set_linewidth(0.6)
        else:
            legend_above(drawn, _handles(shows.colour, looks, None))
        drawn.align_ylabels()
    return drawn


def _correlation(fit: Mapping[str, Any]) -> str:
    """`r = 0.91 [0.86, 0.95], n = 55`, with a real minus sign, as the axes have."""
    if math.isnan(fit["r"]):
        return f"n = {fit['n']}"
    interval = "" if math.isnan(fit["low"]) else f" [{fit['low']:.2f}, {fit['high']:.2f}]"
    return f"r = {fit['r']:.2f}{interval}, n = {fit['n']}".replace("-", "\N{MINUS SIGN}")


def _colour_scale(values: Sequence[float]) -> ScalarMappable:
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    full = matplotlib.colormaps[SEQUENTIAL]
    # The upper end of viridis, a yellow, does not read on white.
    colours = ListedColormap([full(0.9 * i / 255) for i in range(256)])
    return ScalarMappable((LogNorm if _spans_decades(values) else Normalize)(min(values), max(values)), colours)


# --- panels ---


def _across(panels: int, together: int = 1) -> int:
    """Panels that stand in a row: two or three that belong together, all up to three, else as many as fill rows."""
    if panels > together and together in (2, 3):
        return together
    return panels if panels <= 3 else next((columns for columns in (3, 2) if panels % columns == 0), 3)


def _panels(
    parts: Sequence[tuple[Mapping[str, str], pd.DataFrame]],
    across: int,
    height: float,
    draw: Callable[[Axes, int, pd.DataFrame], None],
    by: Sequence[str],
    below: Sequence[str] | None = None,
) -> Figure:
    """A figure of a column's or the page's width with a panel for each part, row by row.

    Over the left corner of each panel are its letter, and its values of those axes in which panels differ.

    Args:
        height: of one row of panels, in inches; the legend's comes on top.
        by: axes that panels may differ in.
        below: a text for each panel, under these values, or behind the letter where there are none.
    """
    rows = -(-len(parts) // across)
    drawn = figure(COLUMN if across == 1 else PAGE, rows * height + 0.3)
    differing = [axis for axis in by if len({where[axis] for where, _ in parts}) > 1]
    for i, (where, part) in enumerate(parts):
        axes = drawn.add_subplot(rows, across, i + 1)
        draw(axes, i, part)
        _tidy_ticks(axes)
        letter = f"({chr(ord('a') + i % 26)}) " if len(parts) > 1 else ""
        mark = letter + ", ".join(value_words(where[axis]) for axis in differing)
        mark += ("\n" if differing else "") + below[i] if below is not None else ""
        if mark:
            axes.set_title(mark.rstrip(), loc="left")
    return drawn


def _handles(axis: str | None, looks: Mapping[str, dict[str, Any]], cells: pd.DataFrame | None) -> list[Artist]:
    """Lines of a legend: one for each value of an axis, and one for published numbers where cells have them."""
    from matplotlib.lines import Line2D

    numeric = axis is not None and all_numbers(looks)
    head = f"{axis_title(axis)} = " if axis is not None and numeric else ""
    handles: list[Artist] = [Line2D([], [], label=head + value_words(name), **look) for name, look in looks.items()]
    if cells is not None and cells["published_mean"].notna().any():
        handles.append(Line2D([], [], label="published", **LineStyle(PAPER_GREY, "o", "-").hollow()))
    return handles


def _spans_decades(values: Iterable[float]) -> bool:
    """Values are all positive and so far apart that only a logarithmic axis shows them all."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and math.log10(max(finite) / min(finite)) >= _DECADES


def _limits(drawn_values: Iterable[float], means: Iterable[float], set_scale: Any) -> tuple[float, float]:
    """Limits of an axis that show all values; it is made logarithmic where the means ask for that."""
    finite = [value for value in drawn_values if math.isfinite(value)]
    if logarithmic := _spans_decades(means):
        set_scale("log")
        least = min(mean for mean in means if math.isfinite(mean))
        finite = [value for value in finite if value > 0.1 * least]  # a band that reaches zero is cut
    return _with_room(finite, logarithmic)


def _with_room(values: Iterable[float], logarithmic: bool, room: float = 0.06) -> tuple[float, float]:
    """Limits of an axis that show all values with some room, also where they are all the same."""
    low, high = min(values), max(values)
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    margin = room * (high - low) or 0.05 * abs(high) or 0.05
    low, high = low - margin, high + margin
    return (10**low, 10**high) if logarithmic else (low, high)


def _tidy_ticks(axes: Axes) -> None:
    """Numbers along the axes that do not meet, and a power of ten beside them as it is printed; with limits set."""
    if axes.get_xscale() == "linear" and max(len(f"{tick:g}") for tick in axes.get_xticks()) > 4:
        axes.locator_params(axis="x", nbins=4)
    sides: tuple[tuple[Literal["x", "y"], Axis], ...] = (("x", axes.xaxis), ("y", axes.yaxis))
    for name, axis in sides:
        largest = max(map(abs, axis.get_view_interval()))
        # Not everywhere: numbers set as mathematics take long to draw, and are cut into pieces in an SVG.
        if axis.get_scale() == "linear" and not 1e-3 <= largest < 1e5:
            axes.ticklabel_format(axis=name, useMathText=True)


def _mark_values(axes: Axes, places: Sequence[float], names: Sequence[str], across: int) -> None:
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


def _wrapped(label: str) -> str:
    """A label of a vertical axis in as many lines as the height of a panel asks for."""
    return "\n".join(textwrap.wrap(label, _LABEL))
