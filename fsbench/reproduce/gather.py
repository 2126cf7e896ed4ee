"""The rows of an artefact: one for each planned run, with its results and measures as far as they are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsbench.reproduce.measure import answered
from fsbench.reproduce.plan import Plan
from fsbench.reproduce.planned_run import PlannedRun
from fsbench.runs.read import Unreadable
from fsbench.runs.records import number, read_records

if TYPE_CHECKING:
    import pandas as pd

DONE = "done"


def gather(plan: Plan, reasons: Mapping[Path, str] = {}) -> pd.DataFrame:
    """The frame that tables and figures are made of.

    Columns: the axes, `seed`, `status` (`done`, or why something is missing), `run`, and the results by name.

    Args:
        reasons: why a run has no network or lacks a measure, where that is known from just now.
    """
    import pandas as pd

    return pd.DataFrame([_row(plan, run, reasons.get(run.directory.path)) for run in plan.runs])


def _row(plan: Plan, run: PlannedRun, reason: str | None) -> dict[str, Any]:
    path = run.directory.path
    if run.waits:
        return {**run.cell.values, "seed": run.seed, "status": run.waits, "run": ""}
    row = {**run.cell.values, "seed": run.seed, "status": reason or _status(run), "run": str(path)}
    found = read_records([path]).rows if path.is_dir() and run.directory.finished else []
    if not found:
        return row
    try:
        results = {name: float(value) for name, value in run.directory.read_results().items() if _is_number(value)}
    except Unreadable:
        return row
    measures, lacks = _measures(plan, run)
    results |= measures
    row["status"] = reason or lacks or DONE
    return {**derived(results), **results, **row}


def _measures(plan: Plan, run: PlannedRun) -> tuple[dict[str, float], str]:
    """Those of the artefact that were measured as it asks, and why others are missing."""
    job = plan.measuring(run)
    if job is None:
        return {}, ""
    values: dict[str, float] = {}
    lacks: list[str] = []
    try:
        found = answered(run.directory, job.config)
    except Unreadable as failure:
        return {}, f"unreadable: {failure.path.name}"
    for one, entries in found:
        if entries is None:
            lacks.append(f"{one.column}: not measured")
            continue
        for column, entry in entries.items():
            value = number(entry)
            if value is not None:
                values[column] = float(value)
            else:
                lacks.append(f"{column}: {entry.get('refused', 'no value')}")
    return values, "; ".join(lacks)


def _status(run: PlannedRun) -> str:
    """What became of a run that is not finished."""
    if run.directory.finished:
        return f"unreadable: {run.directory.summary.name}"
    if not run.directory.path.is_dir():
        return "not run yet"
    status, message = run.directory.read_status()
    if status == "unknown":
        return "not run yet"
    return f"{status}: {message}" if message else status


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def derived(results: Mapping[str, float | None]) -> dict[str, float]:
    """What follows from the results and measures of a run, by name.

    `test_error` is 1 - `test_accuracy`, and so for every accuracy of a split; `top5_generalization_gap` is the gap of
    top-5 accuracies; `half_fisher_log_determinant` is gamma-hat as the code of jia2020 returns it: the sum of ln
    singular values, half of eq. 6.
    """
    # None: a measure that was refused.
    known = {name: value for name, value in results.items() if value is not None}
    found = {
        f"{split}_{top}error": 1 - known[name]
        for split in ("train", "validation", "test")
        for top in ("", "top5_")
        if (name := f"{split}_{top}accuracy") in known
    }
    if {"train_top5_accuracy", "test_top5_accuracy"} <= known.keys():
        found["top5_generalization_gap"] = known["train_top5_accuracy"] - known["test_top5_accuracy"]
    if "fisher_log_determinant" in known:
        found["half_fisher_log_determinant"] = known["fisher_log_determinant"] / 2
    return found
