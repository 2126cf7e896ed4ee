"""What each form of an artefact, table, lines or scatter, makes of its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from fsbench.papers.artefact import Artefact, Lines, Scatter, Table
from fsbench.report import comparison
from fsbench.report.axes import axis_words, ordered
from fsbench.report.caption import sentences
from fsbench.report.cells import Cell, collect
from fsbench.report.dot_figure import dot_figure
from fsbench.report.grid import Grid
from fsbench.report.layout import HOW_TO_READ, decimals_of, layout
from fsbench.report.line_figure import line_figure
from fsbench.report.long_form import cells_csv, csv_text
from fsbench.report.published_table import PublishedTable, published_table
from fsbench.report.scatter_figure import clouds, scatter_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Results and their labels.
Results = tuple[tuple[str, str], ...]

# What a difference is, where there are published numbers.
_DIFFERENCE = "A difference is measured less published"
_BAND = "In the figure bands, or bars, are one standard deviation wide to either side"


@dataclass
class Parts:
    """What a form makes of the cells.

    Args:
        csv: the numbers of the table.
        grids: the tables, each with a heading where there are several.
        how: how they are read.
        order: tables of comparisons, each with its heading and a sentence that sums it up.
        facts: sentences for the caption that come from the paper's numbers.
    """

    csv: str
    grids: list[tuple[str, Grid]]
    how: str
    figure: Figure | None
    order: list[tuple[str, Grid, str]] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def results_of(shows: Table | Lines | Scatter) -> Results:
    """The results that a form shows, and their labels."""
    if isinstance(shows, Table):
        return ((shows.value, shows.label), *shows.more)
    return shows.panels if isinstance(shows, Lines) else shows.measures


def parts_of(artefact: Artefact, frame: pd.DataFrame) -> Parts:
    """The tables, the picture and the comparisons of an artefact.

    Args:
        frame: one line per run, and per strength where results were measured at several.
    """
    shows, results = artefact.shows, results_of(artefact.shows)
    published = published_table(artefact, results[0][0])
    if isinstance(shows, Scatter):
        return _scatter(artefact, shows, frame, published)
    axes = list(artefact.axes)
    if isinstance(shows, Lines) and shows.x not in axes:
        axes.append(shows.x)
    cells = collect(frame, axes, results, published)
    values = {axis: ordered((cell.where[axis] for cell in cells), artefact.axes.get(axis, ())) for axis in axes}
    if isinstance(shows, Table):
        return _table(artefact, shows, cells, values, results)
    return _lines(artefact, shows, cells, values, results)


def _table(
    artefact: Artefact,
    shows: Table,
    cells: Sequence[Cell],
    values: Mapping[str, Sequence[str]],
    results: Results,
) -> Parts:
    # An axis that the form leaves out still is a row: cells are never mixed.
    left_out = [a for a in artefact.axes if a not in (*shows.rows, shows.columns) and len(values[a]) > 1]
    rows = {axis: values[axis] for axis in (*left_out, *shows.rows)}
    columns = (shows.columns, values[shows.columns])
    parts = Parts(
        csv=cells_csv(cells, shows.columns, shows.baseline),
        grids=[(label, layout(cells, value, label, rows, columns, shows.higher_is_better)) for value, label in results],
        how=sentences([*_how(cells), "The best mean of a line is bold"]),
        figure=dot_figure(cells, results, rows, columns),
    )
    for value, label in results:
        compared = comparison.compare(cells, value, rows, columns, shows.baseline, shows.higher_is_better)
        if compared:
            grid = comparison.order_grid(
                compared, list(rows), decimals_of([c for c in cells if c.value == value], label)
            )
            parts.order.append((label, grid, comparison.summary(compared)))
    return parts


def _lines(
    artefact: Artefact,
    shows: Lines,
    cells: Sequence[Cell],
    values: Mapping[str, Sequence[str]],
    results: Results,
) -> Parts:
    outer = [axis for axis in artefact.axes if axis not in (shows.x, shows.lines) and len(values[axis]) > 1]
    rows = {axis: values[axis] for axis in (*outer, shows.x)}
    columns = None if shows.lines is None else (shows.lines, values[shows.lines])
    figure = line_figure(cells, shows, values, outer)
    return Parts(
        csv=cells_csv(cells, None, None),
        grids=[(label, layout(cells, value, label, rows, columns, None)) for value, label in results],
        how=sentences([*_how(cells), *([_BAND] if figure else [])]),
        figure=figure,
    )


def _how(cells: Sequence[Cell]) -> list[str]:
    return [HOW_TO_READ, *([_DIFFERENCE] if any(not math.isnan(cell.published) for cell in cells) else [])]


def _scatter(artefact: Artefact, shows: Scatter, frame: pd.DataFrame, published: PublishedTable) -> Parts:
    panels = clouds(frame, shows)
    paper = {id(panel): published.find(panel.value, panel.where) for panel in panels}
    several = len({tuple(panel.where.values()) for panel in panels}) > 1
    texts, lines, facts = [], [], []
    for panel in panels:
        r, number = panel.correlation, paper[id(panel)]
        theirs = math.nan if number is None else number.mean
        interval = "-" if math.isnan(r.low) else f"{r.low:.3f} to {r.high:.3f}"
        ours = "-" if math.isnan(r.r) else f"{r.r:.3f}"
        names = list(panel.where.values())
        texts.append([*names, panel.label, ours, interval, str(r.n)] + ([f"{theirs:.3f}"] if number else ["-"]))
        lines.append(
            {**panel.where, "x": shows.x, "measure": panel.value, "label": panel.label, "n": r.n, "r": r.r}
            | {"low": r.low, "high": r.high, "published_r": theirs, "difference": r.r - theirs}
        )
        if number is not None:
            of = f" ({', '.join(names)})" if several else ""
            facts.append(f"{panel.label}{of} {theirs:.3f}")
    head = [*map(axis_words, shows.panels), "measure", "r", "95 % interval", "n", "paper"]
    if not any(paper.values()):
        head, texts = head[:-1], [line[:-1] for line in texts]
    figure = scatter_figure(panels, shows, artefact.axes.get(shows.colour, ()))
    how = (
        f"Pearson's correlation with {shows.x_label} over n runs, of the values as they are, also where an axis of the "
        "figure is logarithmic; the interval is Fisher's, which takes runs as independent."
    )
    return Parts(
        csv=csv_text(pd.DataFrame(lines)),
        grids=[("", Grid(head, texts, left=len(shows.panels) + 1))],
        how=how,
        figure=figure,
        facts=[f"Published correlations with {shows.x_label}: {', '.join(facts)}"] if facts else [],
    )
