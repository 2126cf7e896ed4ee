"""Finished runs below a directory, as flat rows; what every table and figure is computed from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError
from fsbench.runs.directory import RunDirectory
from fsbench.runs.identity import flatten


def run_directories(root: Path) -> list[Path]:
    """All run directories at or below `root`, sorted; a run directory is one with a config.yaml."""
    found = []
    for directory, names, files in os.walk(root):
        if "config.yaml" in files:
            found.append(Path(directory))
            names.clear()
    return sorted(found)


@dataclass(frozen=True)
class Records:
    """Finished runs as flat rows.

    A row holds `run` (the directory), the group choices (`optimizer`: "fsam"; a folder of images goes by its
    label), every configuration key (`optimizer.rho`), every result (`test_accuracy`) and every measure of
    sharpness.json (`hessian_trace`; None where the measure was refused). `unfinished` counts the other runs by status.
    `measured` holds, by run and measure, what the number was measured with and why it was refused.
    """

    rows: list[dict[str, Any]]
    choices: list[str]
    configuration: list[str]
    unfinished: dict[str, int]
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """How a number of sharpness.json came about.

    Args:
        settings: the options that determine it.
        refused: why there is none, if there is none.
        method: how it was computed, in a word.
    """

    settings: dict[str, Any]
    refused: str | None
    method: str = ""

    @property
    def gauss_newton(self) -> bool:
        """It is the Gauss-Newton matrix's, not the Hessian's."""
        return self.method.startswith("gauss-newton")


def read_records(roots: list[Path]) -> Records:
    """All runs at or below `roots`. Raises UsageError for a directory that does not exist."""
    rows: list[dict[str, Any]] = []
    # dicts, for their order
    choices: dict[str, None] = {}
    configuration: dict[str, None] = {}
    unfinished: dict[str, int] = {}
    measured: dict[str, dict[str, Measured]] = {}
    seen: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UsageError("runs", root, "no such directory")
        for directory in run_directories(root):
            if (place := directory.resolve()) in seen:
                continue
            seen.add(place)
            try:
                summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
            except (FileNotFoundError, ValueError) as failure:
                status = RunDirectory(directory).status if isinstance(failure, FileNotFoundError) else "unreadable"
                unfinished[status] = unfinished.get(status, 0) + 1
                continue
            flat = flatten(summary["config"])
            choices |= dict.fromkeys(summary["choices"])
            configuration |= dict.fromkeys(flat)
            row = {"run": str(directory), **flat, **summary["choices"], **summary["results"]}
            if row["dataset"] == "folder":
                row["dataset"] = row["dataset.label"] or Path(row["dataset.root"]).name
            entries = read_measures(RunDirectory(directory).sharpness)["measures"]
            row |= {name: number(entry) for name, entry in entries.items()}
            measured[row["run"]] = {
                name: Measured(entry["settings"], entry.get("refused"), entry.get("method") or "")
                for name, entry in entries.items()
            }
            rows.append(row)
    return Records(rows, list(choices), list(configuration), unfinished, measured)


def networks(root: Path) -> list[Path]:
    """Directories at or below `root` with measures of networks that are no runs, sorted."""
    return sorted(file.parent for file in root.rglob("source.yaml") if (file.parent / "sharpness.json").is_file())


def read_measures(file: Path) -> dict[str, Any]:
    """A sharpness.json: `weights` that it is about, `measures` by column, which is what tables take.

    `others`: by column, what was measured with other settings, newest first. Empty where there is no such file.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        others = content.get("others", {})
        entries = [*content["measures"].values(), *(entry for column in others.values() for entry in column)]
        if all(isinstance(entry["settings"], dict) for entry in entries):
            return {"weights": content["weights"], "measures": content["measures"], "others": others}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {"weights": None, "measures": {}, "others": {}}


def number(entry: dict[str, Any]) -> float | None:
    """The value of an entry of sharpness.json; one that JSON can't hold is kept as text (`-inf`) beside a null."""
    return float(entry["not_finite"]) if "not_finite" in entry else entry.get("value")
