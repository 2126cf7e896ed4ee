"""A table of means as Markdown, CSV or LaTeX (booktabs)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd


def is_share(column: str) -> bool:
    """Whether a column lies in [0, 1] and is shown in percent."""
    # adversarial_accuracy_0.5: the accuracy at alpha = 0.5
    return column.endswith(("accuracy", "error", "generalization_gap")) or column.startswith("adversarial_accuracy_")


def header(column: str) -> str:
    return column.replace("_", " ") + (" %" if is_share(column) else "")


def cell(column: str, mean: float, std: float, plus_minus: str) -> str:
    """`97.22 ± 0.13`, or the mean alone where there is no deviation."""
    if math.isnan(mean):
        return "-"
    scale, digits = (100, ".2f") if is_share(column) else (1, ".4g")
    text = f"{mean * scale:{digits}}"
    return text if math.isnan(std) else f"{text} {plus_minus} {std * scale:{'.2f' if is_share(column) else '.2g'}}"


def markdown(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> str:
    head, lines = _texts(table, by, columns, "±")
    # A rule needs three characters to be one everywhere.
    widths = [max(3, *(len(line[i]) for line in [head, *lines])) for i in range(len(head))]
    left = len(by)

    def row(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([row(head), f"| {' | '.join(rule)} |", *map(row, lines)]) + "\n"


def latex(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> str:
    head, lines = _texts(table, by, columns, r"$\pm$")
    escaped = [[_escape(text) for text in line] for line in [head, *lines]]
    rows = [" & ".join(line) + r" \\" for line in escaped]
    alignment = "l" * len(by) + "r" * (len(head) - len(by))
    body = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}"]) + "\n"


def csv(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> str:
    """Plain numbers, mean and std apart, shares in [0, 1]."""
    return table.rename(columns={f"{c}.{s}": f"{c}_{s}" for c in columns for s in ("mean", "std")}).to_csv(index=False)


FORMATS: dict[str, Callable[[pd.DataFrame, Sequence[str], Sequence[str]], str]] = {
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
}


def _texts(
    table: pd.DataFrame, by: Sequence[str], columns: Sequence[str], plus_minus: str
) -> tuple[list[str], list[list[str]]]:
    head = [*by, "n", *map(header, columns)]
    lines = [
        [*(str(row[name]) for name in by), str(row["n"])]
        + [cell(c, row[f"{c}.mean"], row[f"{c}.std"], plus_minus) for c in columns]
        for row in table.to_dict("records")
    ]
    return head, lines


def _escape(text: str) -> str:
    for character in "%_&#":
        text = text.replace(character, "\\" + character)
    return text
