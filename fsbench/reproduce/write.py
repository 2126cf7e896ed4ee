"""The files of an artefact: the table and figure of its runs, and provenance.json, which says where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsbench.errors import UsageError
from fsbench.papers.artefact import SCALES
from fsbench.reproduce.cells import PlannedRun
from fsbench.reproduce.plan import Plan
from fsbench.runs.identity import identity
from fsbench.runs.provenance import FILE, command_provenance, trained_with, without_places, write_provenance
from fsbench.runs.read import Unreadable, read_json_or_nothing
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
    record = command_provenance(command, artefact=plan.artefact.name, scale=plan.scale) | runs_provenance(plan)
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
        measured = plan.measured(run)
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


# --- provenance.json ---


def runs_provenance(plan: Plan) -> dict[str, Any]:
    """The runs, what they were trained on and with, and how long that took."""
    planned = [run for run in plan.runs if not run.waits]
    runs = [_run(run) for run in planned]
    chosen = [_run(run) for run in plan.deciding]
    return {
        "cuts": list(plan.cuts),
        "wall_time": {
            "training": sum(run["seconds"] for run in (*runs, *chosen) if "seconds" in run),
            "measuring": sum(_measuring_seconds(plan, run) for run in planned),
        },
        **trained_with([run.directory for run in (*planned, *plan.deciding)]),
        "runs": runs,
        **({"chosen_from": chosen} if chosen else {}),
    }


def refuse_smaller(directory: Path, artefact: str, scale: str) -> None:
    """Raise UsageError where the directory holds the artefact at a larger scale, which must not be lost to a trial."""
    found = read_json_or_nothing(directory / FILE).get("scale")
    if found in SCALES and SCALES.index(found) < SCALES.index(scale):
        problem = f"{directory} holds {artefact} at scale={found}; give another directory: results_dir=DIR"
        raise UsageError("scale", scale, problem)


def _run(run: PlannedRun) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": run.directory.path.name,
        "identity": identity(run.job.config.model_dump(mode="json")),
        "cell": dict(run.cell.values),
        "seed": run.seed,
        "overrides": without_places(run.job.overrides),
        "status": run.directory.status if run.directory.path.is_dir() else "not run",
    }
    results = {}
    with suppress(FileNotFoundError, Unreadable):
        results = run.directory.read_results()
    return row | {key: results[key] for key in ("seconds", "validation_accuracy") if key in results}


def _measuring_seconds(plan: Plan, run: PlannedRun) -> float:
    """Of what the artefact shows; the columns of one measure have its time each."""
    with suppress(Unreadable):
        return sum((next(iter(entries.values()))["seconds"] for _, entries in plan.measured(run) if entries), 0.0)
    return 0.0
