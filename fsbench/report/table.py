"""Tables as Markdown, LaTeX (booktabs) and CSV: cells beside the published numbers, comparisons, and plain frames."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fsbench.papers.artefact import Table
from fsbench.report.frame import groups, in_order
from fsbench.report.statistics import LEVEL
from fsbench.report.text import (
    axis_words,
    block_decimals,
    difference_text,
    latex_text,
    markdown_text,
    mean_text,
    p_text,
    sentences,
    share_text,
    significant,
)
from fsbench.report.verdicts import Comparison, holm, judged, of_published, paired
from fsbench.runs.atomic import write_text


class Bold(str):
    """The text of a cell that stands out as the best of its row."""


@dataclass(frozen=True)
class Grid:
    """Head and lines of a table.

    Args:
        head: name of each column.
        lines: texts of the cells.
        left: how many columns from the left are names; the others are numbers, and are set flush right.
        groups: how many lines belong together (a thin rule or space between groups in LaTeX); 0: all.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    left: int
    groups: int = 0


def markdown(grid: Grid) -> str:
    """The table with padded columns, so that its source reads too."""

    def cell_text(text: str) -> str:
        return f"**{markdown_text(text)}**" if isinstance(text, Bold) and text else markdown_text(text)

    def width(text: str) -> int:
        return sum(not unicodedata.combining(character) for character in text)

    rows = [[cell_text(text) for text in line] for line in (grid.head, *grid.lines)]
    # A rule needs three characters to be one everywhere.
    widths = [max(3, *map(width, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i < grid.left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        gaps = [" " * (w - width(text)) for text, w in zip(row, widths, strict=True)]
        padded = (
            text + gap if i < grid.left else gap + text for i, (text, gap) in enumerate(zip(row, gaps, strict=True))
        )
        lines.append(f"| {' | '.join(padded)} |\n")
    return "".join(lines)


def tabular(grid: Grid) -> str:
    r"""The table as a `tabular` environment; needs `\usepackage{booktabs}`."""

    def row(texts: Sequence[str]) -> str:
        # \boldmath for the ± and the minus signs, which are set as mathematics.
        cells = (
            rf"\textbf{{\boldmath {latex_text(text)}}}" if isinstance(text, Bold) and text else latex_text(text)
            for text in texts
        )
        return " & ".join(cells) + r" \\"

    alignment = "l" * grid.left + "r" * (len(grid.head) - grid.left)
    body = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", row(grid.head), r"\midrule"]
    for i, line in enumerate(grid.lines):
        body += [r"\addlinespace"] if grid.groups > 1 and i and i % grid.groups == 0 else []
        body.append(row(line))
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_table(grids: Sequence[tuple[str, Grid]], caption: str, label: str) -> str:
    r"""A floating `table` with its caption above; needs `\usepackage{booktabs}`.

    Args:
        grids: one or several, each with the line that stands over it (empty: none).
    """
    blocks = "\\par\\medskip\n".join(
        (f"{latex_text(heading)}\\par\\smallskip\n" if heading else "") + tabular(grid) for heading, grid in grids
    )
    return (
        "% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n\\small\n"
        f"\\caption{{{latex_text(caption)}}}\n\\label{{{label}}}\n{blocks}\\end{{table}}\n"
    )


# --- the cells of one result ---


def decimals_of(cells: pd.DataFrame) -> int | None:
    """Decimals for the measured and published means of one result alike."""
    return block_decimals(cells["label"].iloc[0], [*cells["mean"], *cells["published_mean"]])


def layout(cells: pd.DataFrame, rows: Sequence[str], column: str, higher_is_better: bool | None) -> Grid:
    """The cells of one result: a line for each combination of row values, three where the paper has numbers.

    Args:
        column: axis, or `label` for one column of that name.
        higher_is_better: the best mean of a line is bold; None: none is.
    """
    decimals, heads = decimals_of(cells), in_order(cells[column])
    has_paper = bool(cells["published_mean"].notna().any())

    def bold(texts: Sequence[str], means: pd.Series) -> list[str]:
        """Means that are written alike are equally good, one alone is no best."""
        if higher_is_better is None or means.count() < 2:
            return list(texts)
        best = mean_text(means.max() if higher_is_better else means.min(), math.nan, decimals)
        written = (mean_text(mean, math.nan, decimals) for mean in means)
        return [Bold(text) if one == best else text for text, one in zip(texts, written, strict=True)]

    lines: list[list[str]] = []
    for where, part in groups(cells, rows):
        part = part.set_index(column).reindex(heads)
        names, blank = list(where.values()), [""] * len(rows)
        measured = [
            _with_n(mean_text(mean, std, decimals), n, planned)
            for mean, std, n, planned in zip(part["mean"], part["std"], part["n"], part["planned"], strict=True)
        ]
        entries = bold(measured, part["mean"])
        if not has_paper:
            lines.append([*names, *entries])
            continue
        paper = map(mean_text, part["published_mean"], part["published_std"], [decimals] * len(heads))
        lines.append([*names, "measured", *entries])
        lines.append([*blank, "paper", *bold(list(paper), part["published_mean"])])
        lines.append([*blank, "difference", *(difference_text(one, decimals) for one in part["difference"])])
    head = [*map(axis_words, rows), *([""] if has_paper else []), *heads]
    return Grid(head, lines, left=len(rows) + has_paper, groups=3 if has_paper else 0)


def _with_n(text: str, n: float, planned: float) -> str:
    if math.isnan(planned):  # no such cell
        return "-"
    if n == 0:
        return "missing"
    return f"{text} ({n:.0f})" if n == planned else f"{text} ({n:.0f} of {planned:.0f})"


# --- the order of methods ---

NOT_DECIDED, AGREES, DISAGREES, MISSING = "not decided", "agrees", "disagrees", "missing"

_MEASURED = ("n", "difference", "low", "high", "superiority", "p", "detectable")

HOW_TO_READ_ORDER = (
    "Methods are compared seed by seed (one seed is one initialisation and one order of the data). The interval is "
    "Student's t over the differences, P(A > B) the share of seeds on which the first is larger, p of the paired "
    "t-test, two-sided, after Holm over the comparisons of the table; detectable is what so many seeds show with 80 % "
    "power at the level 0.05 divided by their number. Not decided: p > 0.05, or too few runs for a test. The paper's p "
    "is Welch's test of its means and deviations, with as many runs as it says or, where it says nothing, three, after "
    "Holm over its comparisons. The best method is compared with the second best where it is the paper's, else with "
    "the paper's best, unless the two have a line anyway."
)


def compare(cells: pd.DataFrame, rows: Sequence[str], shows: Table, published_runs: int) -> pd.DataFrame:
    """For each row of the cells of one result: the best method beside another, every method beside the baseline, pairs.

    Columns: the row axes, `comparison` (`fsam - sgd`, or `best: fsam (paper: sam)`), `order` (whether the measured
    difference has the paper's sign, if it is decided; without a paper's, which is better), the difference of the paper
    (`paper`) and its p (`paper's p`; NaN where it has none), `same sign` (None where the paper has none), and of the
    measured difference `n`, `difference`, `low`, `high`, `superiority`, `p` and `detectable` of
    `fsbench.report.verdicts.Comparison`.

    Args:
        published_runs: of how many runs the paper's means are.
    """
    found: list[tuple[dict[str, Any], float, Comparison]] = []
    for where, part in groups(cells, rows):
        row = {line[shows.columns]: line for line in part.sort_values(shows.columns).to_dict("records")}
        pairs = [(name, shows.baseline) for name in row if name != shows.baseline]
        pairs = [pair for pair in (*pairs, *shows.pairs) if set(pair) <= row.keys()]
        # What is compared anyway needs no line of its own.
        best = [line for line in _best(row, shows.higher_is_better) if not {line[1:3], (line[2], line[1])} & {*pairs}]
        for comparison, one, other, agrees in [*best, *((f"{a} - {b}", a, b, None) for a, b in pairs)]:
            a, b = row[one], row[other]
            measured, published = paired(a["by_seed"], b["by_seed"]), a["published_mean"] - b["published_mean"]
            # A tie in the paper's digits is no order that could be met.
            if agrees is None and not math.isnan(published + measured.difference) and abs(published) >= 1e-9:
                agrees = (published > 0) == (measured.difference > 0)
            one_paper, other_paper = ((line["published_mean"], line["published_std"]) for line in (a, b))
            p = of_published(one_paper, other_paper, published_runs)
            line = {**where, "comparison": comparison, "paper": published, "same sign": agrees}
            found.append((line, p, measured))
    measures = judged([measured for *_, measured in found], math.nan, higher_is_better=shows.higher_is_better)
    papers = holm([p for _, p, _ in found])
    return pd.DataFrame(
        {**line, "order": _order(line["same sign"], one), "paper's p": p, **{key: vars(one)[key] for key in _MEASURED}}
        for (line, *_), p, one in zip(found, papers, measures, strict=True)
    )


def _order(agrees: bool | None, measured: Comparison) -> str:
    if not measured.n:
        return MISSING
    if not measured.p <= LEVEL:
        return NOT_DECIDED
    return measured.verdict if agrees is None else AGREES if agrees else DISAGREES


def _best(row: Mapping[str, Mapping[str, Any]], higher_is_better: bool) -> list[tuple[str, str, str, bool | None]]:
    """The best method and the second best where it is the paper's best too, else the paper's best.

    Returns the comparison in words, both methods, and whether the best is the paper's (None: it has no best).
    """
    sign = 1 if higher_is_better else -1
    ranked = sorted((name for name in row if math.isfinite(row[name]["mean"])), key=lambda n: -sign * row[n]["mean"])
    if len(ranked) < 2:
        return []
    first, second = ranked[:2]
    paper = {n: sign * line["published_mean"] for n, line in row.items() if not math.isnan(line["published_mean"])}
    # Of methods that were not run, nothing can be said.
    rivals = {name: value for name, value in paper.items() if row[name]["n"]}
    bests = [name for name, value in rivals.items() if abs(value - max(rivals.values())) < 1e-9]
    if len(rivals) < 2 or first in bests:
        return [(f"best: {first}, then {second}", first, second, None if len(rivals) < 2 else True)]
    # The paper's best may be one that was not run.
    whose = "paper" if max(rivals.values()) == max(paper.values()) else "paper, of these"
    return [(f"best: {first} ({whose}: {' = '.join(bests)})", first, bests[0], False)]


def order_grid(comparisons: pd.DataFrame, decimals: int | None) -> Grid:
    """The comparisons as a table."""
    axes = list(comparisons.columns[: comparisons.columns.get_loc("comparison")])
    has_paper = comparisons["paper"].notna().any()
    lines = []
    for row in comparisons.to_dict("records"):
        low, high, paper, measured = (
            difference_text(row[key], decimals) for key in ("low", "high", "paper", "difference")
        )
        of_paper = [paper, p_text(row["paper's p"]), {True: "yes", False: "no", None: "-"}[row["same sign"]]]
        lines.append(
            [
                *(row[axis] for axis in axes), row["comparison"], row["order"], *(of_paper if has_paper else []),
                measured, "-" if low == "-" else f"{low} to {high}", share_text(row["superiority"]), p_text(row["p"]),
                mean_text(row["detectable"], math.nan, decimals), str(row["n"]),
            ]
        )  # fmt: skip
    of_paper = ["paper", "paper's p", "same sign"] if has_paper else []
    head = [*map(axis_words, axes), "comparison", "order", *of_paper]
    head += ["measured", "95 % interval", "P(A > B)", "p (Holm)", "detectable", "n"]
    return Grid(head, lines, left=len(axes) + 2)


def order_summary(comparisons: pd.DataFrame) -> str:
    """One sentence that counts the comparisons with the baseline that the paper has too."""
    with_baseline = ~comparisons["comparison"].str.startswith("best: ")
    judged = comparisons[comparisons["same sign"].notna() & with_baseline]
    if judged.empty:
        return ""
    counts = [(word, (judged["order"] == word).sum()) for word in (AGREES, DISAGREES, NOT_DECIDED)]
    missing = (comparisons["order"] == MISSING).sum()
    counted = ", ".join(f"{word}: {count}" for word, count in [*counts, *([(MISSING, missing)] if missing else [])])
    return (
        f"Of {len(judged)} comparisons that the paper has too, {sum(judged['same sign'])} have the paper's sign. "
        f"With p ≤ 0.05: {counted}."
    )


# --- plain frames ---


def write_frame(frame: pd.DataFrame, directory: Path, name: str, caption: Sequence[str]) -> list[Path]:
    """Write `<name>.csv`, `<name>.md` and `<name>.tex` into `directory`, each whole or not at all.

    Args:
        frame: its columns in order; the CSV has the numbers as they are, the others four significant digits.
        caption: sentences.
    """
    directory.mkdir(parents=True, exist_ok=True)
    columns = [[_plain(value) for value in frame[key]] for key in frame]
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    table = Grid(list(frame), list(zip(*columns, strict=True)), left=[*numeric, True].index(True))
    text = sentences(caption)
    paths = [directory / f"{name}.{suffix}" for suffix in ("csv", "md", "tex")]
    write_text(paths[0], frame.to_csv(index=False, lineterminator="\n"))
    write_text(paths[1], f"# {name}\n\n{markdown_text(text)}\n\n{markdown(table)}")
    write_text(paths[2], latex_table([("", table)], text, f"tab:{name}"))
    return paths


def _plain(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return significant(value) if isinstance(value, float) else str(value)
