"""Writes an artefact: its numbers as CSV, Markdown and LaTeX, and its picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import pandas as pd

from fsbench.papers.artefact import Artefact, Lines, Scatter, Table
from fsbench.report.figures import dot_figure, line_figure, scatter_figure
from fsbench.report.frame import cell_frame, correlations, gaps, groups, labels_of, unfold
from fsbench.report.style import save
from fsbench.report.table import (
    HOW_TO_READ_ORDER,
    Grid,
    compare,
    decimals_of,
    latex_table,
    layout,
    markdown,
    order_grid,
    order_summary,
)
from fsbench.report.text import axis_words, csv_text, markdown_text, sentences
from fsbench.runs.atomic import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOW_TO_READ = "Mean ± sample standard deviation over seeds, and in brackets how many."
# More digits than a mean over seeds has, fewer than would show in which order it was summed.
_DIGITS = "%.10g"
# How well a run was fitted belongs to every measure of it.
_FITTED = ("train_accuracy", "test_accuracy")


@dataclass
class Parts:
    """The parts of an artefact that its form decides on.

    Args:
        numbers: the lines of its CSV.
        grids: the tables, each with a heading where there are several.
        how: how they are read.
        order: tables of comparisons, each with its heading and a sentence that sums it up.
        comparisons: the same as frames.
        facts: sentences for the caption that come from the paper's numbers.
    """

    numbers: pd.DataFrame
    grids: list[tuple[str, Grid]]
    how: str
    figure: Figure | None
    order: list[tuple[str, Grid, str]] = field(default_factory=list)
    comparisons: list[pd.DataFrame] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def write(artefact: Artefact, runs: pd.DataFrame, directory: Path, caption: Sequence[str]) -> list[Path]:
    """Write `<what>.csv`, `<what>_runs.csv`, `<what>.md`, `<what>.tex`, `<what>.png` and `<what>.svg` into `directory`.

    A table also has `<what>_order.csv`.

    Each file is written whole or not at all. The same runs give the same bytes. Where nothing was measured there is
    no picture, and one that was there before is removed.

    Args:
        runs: one line per planned run, see `fsbench.report.frame`.
        caption: what was cut, a sentence each.

    Raises:
        UsageError: the published numbers cannot be read, or the disk is full.
    """
    texts, figure = render(artefact, runs, caption)
    directory.mkdir(parents=True, exist_ok=True)
    name = artefact.name.rpartition("/")[2]
    pictures: list[Path] = []
    if figure is not None:
        pictures = save(figure, directory / name)
    else:
        for suffix in ("png", "svg"):
            (directory / f"{name}.{suffix}").unlink(missing_ok=True)
    for file, text in texts.items():
        write_text(directory / file, text)
    return [*(directory / file for file in texts), *pictures]


def render(artefact: Artefact, runs: pd.DataFrame, caption: Sequence[str]) -> tuple[dict[str, str], Figure | None]:
    """The texts that `write` writes, by the names of their files, and the figure if there is one."""
    name, shows, axes = artefact.name.rpartition("/")[2], artefact.shows, list(artefact.axes)
    results = list(labels_of(shows))
    needed = [shows.x, *results] if isinstance(shows, Scatter) else results
    columns = [result for result in needed if result in runs]
    frame = runs
    if isinstance(shows, Lines) and shows.x not in axes:
        frame = unfold(runs, shows.x, results)
        columns = [column for column in runs if column.startswith(tuple(f"{result}_" for result in results))]
    frame = frame.reindex(columns=[*frame.columns, *(result for result in needed if result not in frame)])
    if isinstance(shows, Table):
        parts = _table(artefact, shows, frame)
    else:
        parts = _lines(artefact, shows, frame) if isinstance(shows, Lines) else _scatter(artefact, shows, frame)
    told = sentences([artefact.title, artefact.source, *caption, *parts.facts, *_fitted(runs), *artefact.notes])
    missing = gaps(frame, axes, needed)
    of_runs = runs[[*axes, "seed", "status"]].assign(run=[PurePath(run).name for run in runs["run"]])
    of_runs = of_runs.join(runs[[*columns, *(one for one in _FITTED if one in runs and one not in columns)]])
    texts = {
        f"{name}.csv": csv_text(parts.numbers, _DIGITS),
        f"{name}_runs.csv": csv_text(of_runs, _DIGITS),
        f"{name}.md": _markdown(artefact.name, told, parts, missing),
        f"{name}.tex": latex_table(
            parts.grids,
            sentences([told, parts.how, *(["Missing: " + "; ".join(missing)] if missing else [])]),
            f"tab:{artefact.name.replace('/', ':')}",
        ),
    }
    if parts.comparisons:
        texts[f"{name}_order.csv"] = csv_text(pd.concat(parts.comparisons), _DIGITS)
    return texts, parts.figure


def _fitted(runs: pd.DataFrame) -> list[str]:
    """A sentence on how well the runs are fitted, which sharpness at a minimum takes for granted."""
    if "train_accuracy" not in runs or (known := runs["train_accuracy"].dropna()).empty:
        return []
    low, middle = 100 * known.min(), 100 * known.median()
    return [f"Training accuracy of the runs: {low:.1f} % at least, {middle:.1f} % in the median"]


def _table(artefact: Artefact, shows: Table, runs: pd.DataFrame) -> Parts:
    frame = cell_frame(artefact, runs)
    # An axis that the form leaves out still is a row: cells are never mixed.
    rows = [*_left_out(artefact, frame, [*shows.rows, shows.columns]), *shows.rows]
    parts = Parts(
        numbers=frame.drop(columns="by_seed"),
        grids=[],
        how=sentences([*_how(frame), "The best mean of a line is bold"]),
        figure=dot_figure(frame, rows, shows.columns),
    )
    for label, part in _by_result(frame):
        parts.grids.append((label, layout(part, rows, shows.columns, shows.higher_is_better)))
        compared = compare(part, rows, shows, artefact.seeds)
        if len(compared):
            parts.order.append((label, order_grid(compared, decimals_of(part)), order_summary(compared)))
            parts.comparisons.append(compared.assign(result=label))
    return parts


def _lines(artefact: Artefact, shows: Lines, runs: pd.DataFrame) -> Parts:
    frame = cell_frame(artefact, runs)
    outer = _left_out(artefact, frame, [shows.x, shows.lines])
    figure = line_figure(frame, shows, outer)
    band = ["In the figure bands, or bars, are one standard deviation wide to either side"] if figure else []
    return Parts(
        numbers=frame.drop(columns="by_seed"),
        grids=[
            (label, layout(part, [*outer, shows.x], shows.lines or "label", None)) for label, part in _by_result(frame)
        ],
        how=sentences([*_how(frame), *band]),
        figure=figure,
    )


def _by_result(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The label and the cells of each result."""
    return ((part["label"].iloc[0], part) for _, part in groups(frame, ["result"]))


def _left_out(artefact: Artefact, frame: pd.DataFrame, used: Sequence[str | None]) -> list[str]:
    return [axis for axis in artefact.axes if axis not in used and frame[axis].nunique() > 1]


def _how(frame: pd.DataFrame) -> list[str]:
    published = frame["published_mean"].notna().any()
    return [HOW_TO_READ, *(["A difference is measured less published"] if published else [])]


def _scatter(artefact: Artefact, shows: Scatter, runs: pd.DataFrame) -> Parts:
    frame = correlations(artefact, shows, runs)
    has_paper = bool(frame["published_r"].notna().any())
    one_panel = not shows.panels or len(frame[list(shows.panels)].drop_duplicates()) == 1
    lines, facts = [], []
    for line in frame.to_dict("records"):
        r, paper = ("-" if math.isnan(line[key]) else f"{line[key]:.3f}" for key in ("r", "published_r"))
        interval = "-" if math.isnan(line["low"]) else f"{line['low']:.3f} to {line['high']:.3f}"
        names = [line[axis] for axis in shows.panels]
        lines.append([*names, line["label"], r, interval, str(line["n"]), *([paper] if has_paper else [])])
        if paper != "-":
            of = "" if one_panel else f" ({', '.join(names)})"
            facts.append(f"{line['label']}{of} {paper}")
    head = [*map(axis_words, shows.panels), "measure", "r", "95 % interval", "n", *(["paper"] if has_paper else [])]
    return Parts(
        numbers=frame,
        grids=[("", Grid(head, lines, left=len(shows.panels) + 1))],
        how=f"Pearson's correlation with {shows.x_label} over n runs, of the values as they are, also where an axis of "
        "the figure is logarithmic; the interval is Fisher's, which takes runs as independent.",
        figure=scatter_figure(runs, frame, shows, artefact.axes.get(shows.colour, ())),
        facts=[f"Published correlations with {shows.x_label}: {', '.join(facts)}"] if facts else [],
    )


def _markdown(name: str, caption: str, parts: Parts, missing: Sequence[str]) -> str:
    picture = f"![{name}]({name.rpartition('/')[2]}.png)" if parts.figure is not None else ""
    blocks = [f"# {name}", markdown_text(caption), picture]
    for heading, grid in parts.grids:
        blocks += [f"**{markdown_text(heading)}**" if heading else "", markdown(grid)]
    blocks.append(parts.how)
    if parts.order:
        blocks.append("## Order")
        for heading, grid, summed_up in parts.order:
            blocks += [f"**{markdown_text(heading)}**" if len(parts.order) > 1 else "", markdown(grid), summed_up]
        blocks.append(HOW_TO_READ_ORDER)
    if missing:
        blocks += ["## Missing", "\n".join(f"- {markdown_text(line)}" for line in missing)]
    return "\n\n".join(block.rstrip("\n") for block in blocks if block) + "\n"
