"""The frame of an artefact, one line for each planned run, and the files that are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fsbench.reproduce.measure import answered
from fsbench.reproduce.plan import Plan, PlannedRun
from fsbench.reproduce.provenance import command_provenance, runs_provenance, write_provenance
from fsbench.runs.read import Unreadable
from fsbench.runs.records import number

if TYPE_CHECKING:
    import pandas as pd


def write_artefact(plan: Plan, directory: Path, command: str, reasons: Mapping[Path, str]) -> list[Path]:
    """Write table, figure and provenance.json.

    Args:
        reasons: why a run has no network or lacks a measure, by its directory.
    """
    from fsbench.report.artefact import write

    paths = write(plan.artefact, gather(plan, reasons), directory, plan.cuts)
    record = command_provenance(plan.artefact.name, plan.scale, command) | runs_provenance(plan)
    return [*paths, write_provenance(directory, record)]


def gather(plan: Plan, reasons: Mapping[Path, str] = {}) -> pd.DataFrame:
    """The frame that tables and figures are made of.

    Columns: the axes, `seed`, `status` (`done`, or why something is missing), `run`, and the results by name.

    Args:
        reasons: why a run has no network or lacks a measure, where that is known from just now.
    """
    import pandas as pd

    rows = []
    for run in plan.runs:
        path = run.directory.path
        results, lacks = ({}, run.waits) if run.waits else _results(plan, run)
        status = lacks if run.waits else reasons.get(path) or lacks or "done"
        place = "" if run.waits else str(path)
        rows.append(
            {**derived(results), **results, **run.cell.values, "seed": run.seed, "status": status, "run": place}
        )
    return pd.DataFrame(rows)


def _results(plan: Plan, run: PlannedRun) -> tuple[dict[str, float], str]:
    """Results and measures of a run as far as they are there, and why others are missing."""
    directory = run.directory
    if not directory.finished:
        status, message = directory.read_status() if directory.path.is_dir() else ("unknown", "")
        return {}, "not run yet" if status == "unknown" else f"{status}: {message}" if message else status
    results: dict[str, float] = {}
    lacks = []
    try:
        results |= {name: float(value) for name, value in directory.read_results().items() if value is not None}
        job = plan.measuring(run)
        measured = [] if job is None else answered(directory, job.config)
    except Unreadable as failure:
        return results, f"unreadable: {failure.path.name}"
    for measure, entries in measured:
        if entries is None:
            lacks.append(f"{measure.column}: not measured")
        for column, entry in (entries or {}).items():
            if (value := number(entry)) is None:
                lacks.append(f"{column}: {entry.get('refused', 'no value')}")
            else:
                results[column] = float(value)
    return results, "; ".join(lacks)


def derived(results: Mapping[str, float | None]) -> dict[str, float]:
    """Results that papers print and runs do not record as such, from the results and measures of a run.

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
