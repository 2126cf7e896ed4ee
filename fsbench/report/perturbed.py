"""Results that were measured at several strengths, `adversarial_accuracy_0.1`, as an axis of their own."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from fsbench.report.axes import number


def unfold(frame: pd.DataFrame, axis: str, results: Iterable[str]) -> pd.DataFrame:
    """One line per run and strength: a column `axis` with the strength, and `result` with what was measured there.

    Args:
        results: the names before the strength (`adversarial_accuracy`).
    """
    columns = {
        (result, column.removeprefix(f"{result}_")): column
        for result in results
        for column in map(str, frame.columns)
        if column.startswith(f"{result}_") and number(column.removeprefix(f"{result}_")) is not None
    }
    strengths = sorted(dict.fromkeys(strength for _, strength in columns), key=float)
    parts = []
    for strength in strengths:
        part = frame.drop(columns=list(columns.values())).assign(**{axis: strength})
        for (result, of), column in columns.items():
            if of == strength:
                part[result] = frame[column]
        parts.append(part)
    # Run by run, as the frame has them.
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True) if parts else frame.assign(**{axis: "-"})
