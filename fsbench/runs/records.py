"""Finished runs below a directory, as flat rows; what every table and figure is computed from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError
from fsbench.runs.directory import RunDirectory, is_result
from fsbench.runs.identity import flatten
from fsbench.runs.read import Unreadable, read_json


def run_directories(root: Path) -> list[Path]:
    """All run directories at or below `root`, sorted; a run directory is one with a config.yaml."""
    return [root / place for place in _places(root)]


def _places(root: Path) -> list[str]:
    """The places of run directories below `root`, sorted; empty for `root` itself. Links are not followed."""
    start, found = str(root), []
    for directory, names, files in os.walk(start):
        if "config.yaml" in files:
            found.append(directory[len(start) :].lstrip(os.sep))
            names.clear()
    # As paths are: by their parts.
    return sorted(found, key=lambda place: place.split(os.sep))


@dataclass(frozen=True)
class Records:
    """Finished runs as flat rows.

    A row holds `run` (the directory), the group choices (`optimizer`: "fsam"; a folder of images goes by its
    label), every configuration key (`optimizer.rho`), every result (`test_accuracy`) and every measure of
    sharpness.json (`hessian_trace`; None where the measure was refused). `unfinished` counts the other runs by status.
    `measured` holds, by run and measure, what the number was measured with and why it was refused; it is empty where
    no measure was asked for. `unreadable` names files that are there and can't be read: a table goes on without them.
    """

    rows: list[dict[str, Any]]
    choices: list[str]
    configuration: list[str]
    unfinished: dict[str, int]
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)

    @property
    def left_out(self) -> str:
        """`2 failed, 1 running`."""
        return ", ".join(f"{count} {status}" for status, count in sorted(self.unfinished.items()))

    @property
    def none_finished(self) -> str:
        """What is said where there is no row."""
        return "no finished run there" + (f" ({self.left_out})" if self.left_out else "")


@dataclass(frozen=True)
class Measured:
    """The origin of a number of sharpness.json.

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


def read_records(roots: list[Path], asked: Iterable[str] | None = None) -> Records:
    """All runs at or below `roots`. One file is opened a run, or two if measures are needed, and no more as they grow.

    Args:
        asked: the names that the rows are read for: measures are left out, and their files unread, where each is a
            configuration key, a choice or a result of some run. None: all that there is.

    Raises:
        UsageError: a directory does not exist.
    """
    rows: list[dict[str, Any]] = []
    # dicts, for their order
    choices: dict[str, None] = {}
    configuration: dict[str, None] = {}
    unfinished: Counter[str] = Counter()
    seen: set[Path] = set()
    unreadable: list[Path] = []
    for root in roots:
        if not root.is_dir():
            raise UsageError("runs", root, "no such directory")
        real = root.resolve()
        for below in _places(root):
            directory, place = root / below, real / below
            if place in seen:
                continue
            seen.add(place)
            try:
                summary = read_json(directory / "summary.json")
                flat = flatten(summary["config"])
                choice, results = summary["choices"], summary["results"]
                if not all(map(is_result, results.values())) or any(not isinstance(c, str) for c in choice.values()):
                    raise TypeError
                row = {"run": str(directory), **flat, **choice, **results}
                if row["dataset"] == "folder":
                    row["dataset"] = row["dataset.label"] or Path(row["dataset.root"]).name
            except FileNotFoundError:
                unfinished[RunDirectory(directory).status] += 1
                continue
            except (Unreadable, KeyError, TypeError, AttributeError):
                unfinished["unreadable"] += 1
                unreadable.append(directory / "summary.json")
                continue
            choices |= dict.fromkeys(choice)
            configuration |= dict.fromkeys(flat)
            rows.append(row)
    needed = asked is None or any(not any(name in row for row in rows) for name in asked)
    measured = _add_measures(rows, unreadable) if needed else {}
    return Records(rows, list(choices), list(configuration), dict(unfinished), measured, unreadable)


def _add_measures(rows: list[dict[str, Any]], unreadable: list[Path]) -> dict[str, dict[str, Measured]]:
    """Put every run's measures into its row; by run and measure, how they came about."""
    measured = {}
    for row in rows:
        try:
            entries = read_measures(Path(row["run"], "sharpness.json"))["measures"]
        except Unreadable as failure:
            unreadable.append(failure.path)
            entries = {}
        row |= {name: number(entry) for name, entry in entries.items()}
        measured[row["run"]] = {
            name: Measured(entry["settings"], entry.get("refused"), entry.get("method") or "")
            for name, entry in entries.items()
        }
    return measured


def networks(root: Path) -> list[Path]:
    """Directories at or below `root` with measures of networks that are no runs, sorted."""
    return sorted(file.parent for file in root.rglob("source.yaml") if (file.parent / "sharpness.json").is_file())


def read_measures(file: Path) -> dict[str, Any]:
    """A sharpness.json: `weights` that it is about, `measures` by column, which is what tables take.

    `others`: by column, what was measured with other settings, newest first. Empty where there is no such file.
    Raises Unreadable where it is something else.
    """
    try:
        content = read_json(file)
    except FileNotFoundError:
        return {"weights": None, "measures": {}, "others": {}}
    try:
        others = content.get("others", {})
        for entry in [*content["measures"].values(), *(entry for column in others.values() for entry in column)]:
            _check(entry)
        return {"weights": content["weights"], "measures": content["measures"], "others": others}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreadable(file, "no record of measures") from None


_KINDS: dict[str, type | tuple[type, ...]] = {
    "settings": dict, "images": dict, "provenance": dict, "notes": list, "seconds": (int, float), "refused": str,
}  # fmt: skip


def _check(entry: Any) -> None:
    """Raise where an entry of sharpness.json is not what is written there: KeyError, TypeError, ValueError."""
    kinds: list[tuple[Any, type | tuple[type, ...]]] = [(entry["settings"], dict)]
    kinds += [(entry[key], kind) for key, kind in _KINDS.items() if key in entry]
    kinds += [(count, int) for key, count in entry.get("images", {}).items() if key in ("used", "of")]
    kinds += [(note, str) for note in entry.get("notes", ())]
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise TypeError
    float(number(entry) or 0.0)


def number(entry: dict[str, Any]) -> float | None:
    """The value of an entry of sharpness.json; one that JSON can't hold is kept as text (`-inf`) beside a null."""
    return float(entry["not_finite"]) if "not_finite" in entry else entry.get("value")
