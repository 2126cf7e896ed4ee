"""A table of texts as Markdown or LaTeX (booktabs), aligned so that its source reads too."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from fsbench.report.escape import latex_text, markdown_text


@dataclass(frozen=True)
class Entry:
    """One cell: its text, and whether it stands out as the best of its row."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """Head and lines of a table.

    Args:
        head: name of each column.
        lines: cells; a string is one that isn't bold.
        left: how many columns from the left are names; the others are numbers, and are set flush right.
        groups: how many lines belong together (a thin rule or space between groups in LaTeX); 0: all.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[str | Entry]]
    left: int
    groups: int = 0


def markdown(grid: Grid) -> str:
    """The table with padded columns."""
    head = [markdown_text(name) for name in grid.head]
    lines = [[_markdown_entry(entry) for entry in line] for line in grid.lines]
    # A rule needs three characters to be one everywhere.
    widths = [max(3, *(_width(line[i]) for line in [head, *lines])) for i in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        gaps = [" " * (width - _width(text)) for text, width in zip(cells, widths, strict=True)]
        padded = (
            text + gap if i < grid.left else gap + text for i, (text, gap) in enumerate(zip(cells, gaps, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < grid.left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([row(head), f"| {' | '.join(rule)} |", *map(row, lines)]) + "\n"


def tabular(grid: Grid) -> str:
    r"""The table as a `tabular` environment; needs `\usepackage{booktabs}`."""
    alignment = "l" * grid.left + "r" * (len(grid.head) - grid.left)
    body = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", _latex_row(grid.head), r"\midrule"]
    for number, line in enumerate(grid.lines):
        if grid.groups > 1 and number and number % grid.groups == 0:
            body.append(r"\addlinespace")
        body.append(_latex_row(line))
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_table(grids: Sequence[tuple[str, Grid]], caption: str, label: str) -> str:
    r"""A floating `table` with its caption above; needs `\usepackage{booktabs}`.

    Args:
        grids: one or several, each with the line that stands over it (empty: none).
    """
    heads = [f"{latex_text(heading)}\\par\\smallskip\n" if heading else "" for heading, _ in grids]
    blocks = "\\par\\medskip\n".join(head + tabular(grid) for head, (_, grid) in zip(heads, grids, strict=True))
    return (
        "% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n\\small\n"
        f"\\caption{{{latex_text(caption)}}}\n\\label{{{label}}}\n{blocks}\\end{{table}}\n"
    )


def _width(text: str) -> int:
    return sum(not unicodedata.combining(character) for character in text)


def _markdown_entry(entry: str | Entry) -> str:
    if isinstance(entry, str):
        return markdown_text(entry)
    text = markdown_text(entry.text)
    return f"**{text}**" if entry.bold and text else text


def _latex_row(line: Sequence[str | Entry]) -> str:
    texts = []
    for entry in line:
        text = latex_text(entry if isinstance(entry, str) else entry.text)
        # \boldmath for the ± and the minus signs, which are set as mathematics.
        texts.append(rf"\textbf{{\boldmath {text}}}" if isinstance(entry, Entry) and entry.bold and text else text)
    return " & ".join(texts) + r" \\"
