"""Cells laid out as a table: the measured mean over the published one and their difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fsbench.report.axes import axis_words
from fsbench.report.cells import Cell, find
from fsbench.report.grid import Entry, Grid
from fsbench.report.numbers import block_decimals, difference_text, mean_text

HOW_TO_READ = "Mean ± sample standard deviation over seeds, and in brackets how many."


def layout(
    cells: Sequence[Cell],
    value: str,
    label: str,
    rows: Mapping[str, Sequence[str]],
    columns: tuple[str, Sequence[str]] | None,
    higher_is_better: bool | None,
) -> Grid:
    """A line of the table for each combination of row values that was planned; three where the paper has numbers.

    Args:
        value, label: the result and what it is called.
        rows: row axes and their values.
        columns: column axis and its values; None: one column, called `label`.
        higher_is_better: the best mean of a line is bold; None: none is.
    """
    cells = [cell for cell in cells if cell.value == value]
    has_paper = any(not math.isnan(cell.published) for cell in cells)
    decimals = decimals_of(cells, label)
    heads = [label] if columns is None else list(columns[1])
    lines: list[list[str | Entry]] = []
    for names in combinations(cells, rows):
        where = dict(zip(rows, names, strict=True))
        found = [
            find(cells, value, where if columns is None else {**where, columns[0]: column})
            for column in (heads if columns is None else columns[1])
        ]
        measured = [mean_text(*_measured(cell), decimals) for cell in found]
        best = best_of([_measured(cell)[0] for cell in found], decimals, higher_is_better)
        texts = [_with_n(text, cell) for text, cell in zip(measured, found, strict=True)]
        entries = [Entry(text, bold) for text, bold in zip(texts, best, strict=True)]
        if not has_paper:
            lines.append([*names, *entries])
            continue
        paper = [mean_text(*_published(cell), decimals) for cell in found]
        best = best_of([_published(cell)[0] for cell in found], decimals, higher_is_better)
        blank = [""] * len(names)
        lines.append([*names, "measured", *entries])
        lines.append([*blank, "paper", *(Entry(text, bold) for text, bold in zip(paper, best, strict=True))])
        gaps = [math.nan if cell is None else cell.difference for cell in found]
        lines.append([*blank, "difference", *(difference_text(gap, decimals) for gap in gaps)])
    head = [*map(axis_words, rows), *([""] if has_paper else []), *heads]
    return Grid(head, lines, left=len(rows) + has_paper, groups=3 if has_paper else 0)


def decimals_of(cells: Sequence[Cell], label: str) -> int | None:
    """Decimals for the measured and published means of one result alike."""
    return block_decimals(label, [mean for cell in cells for mean in (cell.mean, cell.published)])


def combinations(cells: Sequence[Cell], rows: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Combinations of row values that have a cell, the first axis slowest."""
    found = dict.fromkeys(tuple(cell.where[axis] for axis in rows) for cell in cells)
    rank = [{name: i for i, name in enumerate(values)} for values in rows.values()]
    return sorted(found, key=lambda names: [rank[i][name] for i, name in enumerate(names)])


def best_of(means: Sequence[float], decimals: int | None, higher_is_better: bool | None) -> list[bool]:
    """Which means are the best of a line; means that are written alike are equally good, one alone is no best."""
    known = [mean for mean in means if not math.isnan(mean)]
    if higher_is_better is None or len(known) < 2:
        return [False] * len(means)
    best = max(known) if higher_is_better else min(known)
    written = {mean_text(mean, None, decimals) for mean in known if mean == best}
    return [not math.isnan(mean) and mean_text(mean, None, decimals) in written for mean in means]


def _measured(cell: Cell | None) -> tuple[float, float]:
    return (math.nan, math.nan) if cell is None else (cell.mean, cell.std)


def _published(cell: Cell | None) -> tuple[float, float]:
    return (math.nan, math.nan) if cell is None else (cell.published, cell.published_std)


def _with_n(text: str, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.n == 0:
        return "missing"
    return f"{text} ({cell.n})" if cell.n == cell.planned else f"{text} ({cell.n} of {cell.planned})"
