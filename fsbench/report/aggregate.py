"""Mean and sample standard deviation of runs that differ only in their seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fsbench.errors import UsageError, did_you_mean

# Differences that are the replication itself, not the experiment.
_REPLICATION = ("seed", "dataset.seed")
_INCIDENTAL = ("run", "run_name", "runs_dir", "data_dir", "overwrite", "trainer.device", "trainer.workers",
               "trainer.progress", "trainer.checkpoint_every", "trainer.compare_every",
               "dataset.label")  # fmt: skip


def aggregate(
    rows: list[dict[str, Any]], by: Sequence[str], columns: Sequence[str], known: Iterable[str] = ()
) -> pd.DataFrame:
    """One line per combination of `by`: n, then `<column>.mean` and `<column>.std` (n - 1; NaN where n = 1).

    Runs that have nothing under a column count in n, but not in that column's mean and deviation.

    Args:
        known: names that a misspelt one may stand for, beside those that runs have.

    Raises:
        UsageError: no run has such a key or a number under such a column.
    """
    # Of some hundred keys those that are shown.
    frame = pd.DataFrame([{name: row[name] for name in (*by, *columns) if name in row} for row in rows])
    for option, names in (("--by", by), ("--columns", columns)):
        for name in names:
            if name not in frame:
                keys = dict.fromkeys(key for row in rows for key in row)
                raise UsageError(option, name, f"no run has such a key{did_you_mean(name, [*keys, *known])}")
    for name in columns:
        try:
            frame[name] = pd.to_numeric(frame[name])
        except (ValueError, TypeError):
            raise UsageError("--columns", name, "is not a number; use it with --by") from None
    frame[list(by)] = frame[list(by)].map(_text)
    groups = frame.groupby(list(by), sort=False)
    table = groups.size().to_frame("n")
    # ln det of a singular matrix is -inf: so is then the mean, and there is no deviation.
    with np.errstate(invalid="ignore"):
        for name in columns:
            table[f"{name}.mean"] = groups[name].mean()
            table[f"{name}.std"] = groups[name].std(ddof=1)
    return table.reset_index().sort_values(list(by), key=lambda c: c.map(_sort_key), ignore_index=True)


def mixed_keys(
    rows: list[dict[str, Any]], by: Sequence[str], choices: Sequence[str], configuration: Sequence[str]
) -> dict[str, list[str]]:
    """Choices and configuration keys, other than the seed, in which runs of one line of the table differ.

    Where a choice (`model`) differs, the keys below it (`model.depth`) are not named too.
    """
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(_text(row.get(name)) for name in by), []).append(row)
    averaged = [members for members in lines.values() if len(members) > 1]
    skipped = {*by, *_REPLICATION, *_INCIDENTAL}
    keys = [key for key in [*choices, *configuration] if key not in skipped]
    found: dict[str, set[str]] = {key: set() for key in keys}
    for members in averaged:
        # Row by row into columns: a row is in the processor's cache while all of its keys are looked up.
        for key, values in zip(keys, zip(*(map(row.get, keys) for row in members), strict=True), strict=True):
            texts = _texts(values)
            found[key] |= texts if len(texts) > 1 else set()
    mixed: dict[str, list[str]] = {}
    for key, texts in found.items():
        if texts and key.partition(".")[0] not in {"logger", *mixed} - {key}:
            mixed[key] = sorted(texts, key=_sort_key)
    return mixed


def _texts(values: Sequence[Any]) -> set[str]:
    """The different ones as text; thousands of runs have few different values, and only those are put into words."""
    try:
        different: Iterable[Any] = {(type(value), value): value for value in values}.values()
    except TypeError:  # lists
        different = values
    return set(map(_text, different))


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sort_key(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)
