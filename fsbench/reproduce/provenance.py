"""provenance.json beside a table or figure: where every number in it comes from."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError
from fsbench.papers.artefact import SCALES
from fsbench.reproduce.measure import answered
from fsbench.reproduce.plan import Plan, PlannedRun
from fsbench.runs.atomic import write_json
from fsbench.runs.directory import RunDirectory
from fsbench.runs.identity import identity
from fsbench.runs.provenance import provenance
from fsbench.runs.read import Unreadable, read_json

FILE = "provenance.json"
_PLACES = ("runs_dir", "data_dir", "results_dir", "out", "trainer.device", "trainer.progress")
_FILES = ("dataset.root", "model.checkpoint")


def command_provenance(artefact: str, scale: str, command: str) -> dict[str, Any]:
    """The record of any artefact: its scale, the command, and code, versions and hardware that it was written with."""
    written = provenance()
    del written["started"]
    date = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {"artefact": artefact, "scale": scale, "command": command, "written": date, **written}


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


def trained_with(directories: Iterable[RunDirectory]) -> dict[str, Any]:
    """The code, versions, hardware and data of finished runs."""
    trained = [_read(directory.provenance) for directory in directories if directory.finished]
    return {
        "trained_with": _distinct(trained, ("fsbench", "git_commit", "python", "versions", "hardware")),
        "data": _distinct([data for one in trained if isinstance(data := one.get("data"), dict)], None),
    }


def refuse_smaller(directory: Path, artefact: str, scale: str) -> None:
    """Raise UsageError where the directory holds the artefact at a larger scale, which must not be lost to a trial."""
    found = _read(directory / FILE).get("scale")
    if found in SCALES and SCALES.index(found) < SCALES.index(scale):
        problem = f"{directory} holds {artefact} at scale={found}; give another directory: results_dir=DIR"
        raise UsageError("scale", scale, problem)


def write_provenance(directory: Path, record: dict[str, Any]) -> Path:
    """Written last: it is there if and only if the files beside it are whole."""
    write_json(directory / FILE, record)
    return directory / FILE


def without_places(words: Sequence[str]) -> list[str]:
    """A command line without what names places of this machine: directories go, images go by their folder's name."""
    kept = []
    for word in words:
        key, _, value = word.partition("=")
        if key in _PLACES or key.partition(".")[0] == "executor":
            continue
        name = value.strip("'\"").rstrip("/").rpartition("/")[2]
        kept.append(f"{key}={name}" if key in _FILES else word)
    return kept


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
    if (job := plan.measuring(run)) is None:
        return 0.0
    try:
        found = answered(run.directory, job.config)
    except Unreadable:
        return 0.0
    return sum(next(iter(entries.values()))["seconds"] for _, entries in found if entries)


def _distinct(records: Sequence[dict[str, Any]], keys: Sequence[str] | None) -> list[dict[str, Any]]:
    """Each different record once, and how many runs have it."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        kept = record if keys is None else {key: record.get(key) for key in keys}
        entry = found.setdefault(json.dumps(kept, sort_keys=True), {**kept, "runs": 0})
        entry["runs"] += 1
    return list(found.values())


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (FileNotFoundError, Unreadable):
        return {}
