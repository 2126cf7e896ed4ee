"""Finished runs below a directory, as flat rows; what every table and figure is computed from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError
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
    label), every configuration key (`optimizer.rho`) and every result (`test_accuracy`).
    `unfinished` counts the other runs by status.
    """

    rows: list[dict[str, Any]]
    choices: list[str]
    configuration: list[str]
    unfinished: dict[str, int]


def read_records(roots: list[Path]) -> Records:
    """All runs at or below `roots`. Raises UsageError for a directory that does not exist."""
    rows: list[dict[str, Any]] = []
    # dicts, for their order
    choices: dict[str, None] = {}
    configuration: dict[str, None] = {}
    unfinished: dict[str, int] = {}
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
                status = _status(directory) if isinstance(failure, FileNotFoundError) else "unreadable"
                unfinished[status] = unfinished.get(status, 0) + 1
                continue
            flat = flatten(summary["config"])
            choices |= dict.fromkeys(summary["choices"])
            configuration |= dict.fromkeys(flat)
            row = {"run": str(directory), **flat, **summary["choices"], **summary["results"]}
            if row["dataset"] == "folder":
                row["dataset"] = row["dataset.label"] or Path(row["dataset.root"]).name
            rows.append(row)
    return Records(rows, list(choices), list(configuration), unfinished)


def _status(directory: Path) -> str:
    try:
        return json.loads((directory / "status.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError):
        return "unknown"
