"""A table of means as Markdown, CSV or LaTeX (booktabs)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from fsbench.report import grid
from fsbench.report.escape import csv_frame


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
    return grid.markdown(_grid(table, by, columns))


def latex(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> str:
    return grid.tabular(_grid(table, by, columns))


def csv(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> str:
    """Plain numbers, mean and std apart, shares in [0, 1]."""
    renamed = table.rename(columns={f"{c}.{s}": f"{c}_{s}" for c in columns for s in ("mean", "std")})
    return csv_frame(renamed).to_csv(index=False)


FORMATS: dict[str, Callable[[pd.DataFrame, Sequence[str], Sequence[str]], str]] = {
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
}


def _grid(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> grid.Grid:
    lines = [
        [*(str(row[name]) for name in by), str(row["n"])]
        + [cell(c, row[f"{c}.mean"], row[f"{c}.std"], "±") for c in columns]
        for row in table.to_dict("records")
    ]
    return grid.Grid([*by, "n", *map(header, columns)], lines, left=len(by))
