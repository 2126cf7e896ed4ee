"""The numbers of a table or figure as CSV: one line per cell, and one per run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import pandas as pd

from fsbench.report.cells import Cell, find
from fsbench.report.confidence import difference
from fsbench.report.escape import csv_frame

# More digits than a mean over seeds has, fewer than would show in which order it was summed.
_DIGITS = "%.10g"


def cells_csv(cells: Sequence[Cell], column: str | None, baseline: str | None) -> str:
    """One line per cell, in the unit of its label.

    Args:
        column: axis along which cells are compared with the one at `baseline`; None: they are not.
    """
    lines = []
    for cell in cells:
        line: dict[str, object] = {
            **cell.where,
            "result": cell.value,
            "label": cell.label,
            "n": cell.n,
            "planned": cell.planned,
            "mean": cell.mean,
            "std": cell.std,
            "published_mean": cell.published,
            "published_std": cell.published_std,
            "difference": cell.difference,
        }
        if column is not None and baseline is not None:
            line |= _against(cells, cell, column, baseline)
        lines.append(line)
    return csv_text(pd.DataFrame(lines))


def runs_csv(frame: pd.DataFrame, axes: Sequence[str], values: Sequence[str]) -> str:
    """One line per run, results as they were measured: what every other number is computed from."""
    runs = frame[[*axes, "seed", "status"]].copy()
    runs["run"] = ["" if not isinstance(run, str) else PurePath(run).name for run in frame["run"]]
    for value in values:
        runs[value] = frame.get(value, math.nan)
    return csv_text(runs)


def csv_text(frame: pd.DataFrame) -> str:
    """CSV with the same bytes on every system."""
    return csv_frame(frame).to_csv(index=False, float_format=_DIGITS, lineterminator="\n")


def _against(cells: Sequence[Cell], cell: Cell, column: str, baseline: str) -> Mapping[str, object]:
    other = find(cells, cell.value, {**cell.where, column: baseline})
    if other is None or other is cell or not cell.n or not other.n:
        return {"baseline": "", "baseline_difference": math.nan, "test": "", "p": math.nan}
    measured = difference(cell.by_seed, other.by_seed)
    return {"baseline": baseline, "baseline_difference": measured.value, "test": measured.test, "p": measured.p}
