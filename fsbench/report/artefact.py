"""Writes an artefact: its numbers as CSV, Markdown and LaTeX, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fsbench.papers.artefact import Artefact, Lines, Scatter
from fsbench.report import comparison
from fsbench.report.caption import caption as caption_of
from fsbench.report.caption import sentences
from fsbench.report.escape import markdown_text
from fsbench.report.figure_style import save
from fsbench.report.forms import Parts, parts_of, results_of
from fsbench.report.gaps import gaps
from fsbench.report.grid import latex_table, markdown
from fsbench.report.long_form import runs_csv
from fsbench.report.perturbed import unfold
from fsbench.runs.atomic import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(artefact: Artefact, cells: pd.DataFrame, directory: Path, caption: Sequence[str]) -> list[Path]:
    """Write `<what>.csv`, `<what>_runs.csv`, `<what>.md`, `<what>.tex`, `<what>.png` and `<what>.svg` into `directory`.

    Each file is written whole or not at all. The same cells give the same bytes. Where nothing was measured there is
    no picture, and one that was there before is removed.

    Args:
        cells: one line per planned run: the artefact's axes, `seed`, `status` (`done`, or why it is missing), `run`,
            and the run's results.
        caption: what was cut, a sentence each.

    Raises:
        UsageError: the published numbers cannot be read, or the disk is full.
    """
    texts, figure = render(artefact, cells, caption)
    directory.mkdir(parents=True, exist_ok=True)
    name = _file(artefact)
    if figure is not None:
        pictures = save(figure, directory / name)
    else:
        pictures = []
        for suffix in ("png", "svg"):
            (directory / f"{name}.{suffix}").unlink(missing_ok=True)
    for file, text in texts.items():
        write_text(directory / file, text)
    return [*(directory / file for file in texts), *pictures]


def render(artefact: Artefact, cells: pd.DataFrame, caption: Sequence[str]) -> tuple[dict[str, str], Figure | None]:
    """What `write` writes: the texts by the names of their files, and the figure if there is one."""
    name, shows = _file(artefact), artefact.shows
    values = [value for value, _ in results_of(shows)]
    needed = [shows.x, *values] if isinstance(shows, Scatter) else values
    unfolded = isinstance(shows, Lines) and shows.x not in artefact.axes
    frame = unfold(cells, shows.x, values) if unfolded else cells
    parts = parts_of(artefact, frame)
    told = caption_of(artefact, [*caption, *parts.facts, *_fitted(cells)])
    missing = gaps(frame, list(artefact.axes), needed)
    picture = f"{name}.png" if parts.figure is not None else ""
    texts = {
        f"{name}.csv": parts.csv,
        f"{name}_runs.csv": runs_csv(cells, list(artefact.axes), _columns(cells, needed, unfolded)),
        f"{name}.md": _markdown(artefact.name, told, picture, parts, missing),
        f"{name}.tex": _latex(artefact.name, told, parts, missing),
    }
    return texts, parts.figure


_FITTED = ("train_accuracy", "test_accuracy")


def _file(artefact: Artefact) -> str:
    return artefact.name.rpartition("/")[2]


def _fitted(frame: pd.DataFrame) -> list[str]:
    """How well the runs are fitted, which sharpness at a minimum takes for granted."""
    if "train_accuracy" not in frame or (known := frame["train_accuracy"].dropna()).empty:
        return []
    low, middle = 100 * known.min(), 100 * known.median()
    return [f"Training accuracy of the runs: {low:.1f} % at least, {middle:.1f} % in the median"]


def _columns(frame: pd.DataFrame, values: Sequence[str], unfolded: bool) -> list[str]:
    """Columns of the results, at all strengths where they were measured at several."""
    columns = list(map(str, frame.columns))
    wanted = [value for value in values if value in columns]
    if unfolded:
        wanted = [column for column in columns if any(column.startswith(f"{value}_") for value in values)]
    # How well a run was fitted belongs to every measure of it.
    return [*wanted, *(name for name in _FITTED if name in columns and name not in wanted)]


def _markdown(name: str, caption: str, picture: str, parts: Parts, missing: Sequence[str]) -> str:
    blocks = [f"# {name}", markdown_text(caption), f"![{name}]({picture})" if picture else ""]
    for heading, grid in parts.grids:
        blocks += [f"**{markdown_text(heading)}**" if heading else "", markdown(grid)]
    blocks.append(parts.how)
    if parts.order:
        blocks.append("## Order")
        for heading, grid, summary in parts.order:
            blocks += [f"**{markdown_text(heading)}**" if len(parts.order) > 1 else "", markdown(grid), summary]
        blocks.append(comparison.HOW_TO_READ)
    if missing:
        blocks += ["## Missing", "\n".join(f"- {markdown_text(line)}" for line in missing)]
    return "\n\n".join(block.rstrip("\n") for block in blocks if block) + "\n"


def _latex(name: str, caption: str, parts: Parts, missing: Sequence[str]) -> str:
    told = [caption, parts.how, *(["Missing: " + "; ".join(missing)] if missing else [])]
    return latex_table(parts.grids, sentences(told), f"tab:{name.replace('/', ':')}")
