"""The origin of a run, or of a table that was made of runs: code, versions, hardware, command, data."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import fsbench
from fsbench.plugins import plugins_read
from fsbench.runs.atomic import write_json
from fsbench.runs.directory import RunDirectory
from fsbench.runs.read import read_json_or_nothing

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "pydantic", "pandas", "scikit-learn")

FILE = "provenance.json"
# Keys of commands that name places of this machine.
_PLACES = ("runs_dir", "data_dir", "results_dir", "out", "trainer.device", "trainer.progress")
_FILES = ("dataset.root", "model.checkpoint")


def provenance() -> dict[str, Any]:
    """Commit (of a checkout), versions, hardware and time; no paths, no host name."""
    return {
        "fsbench": fsbench.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "machine": platform.machine()},
        "platform": platform.system(),
        **({"plugins": read} if (read := plugins_read()) else {}),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_commit() -> str | None:
    """The checkout's commit, with `+` behind it if tracked files are changed; outside a checkout $FSBENCH_COMMIT."""
    root = Path(fsbench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return os.environ.get("FSBENCH_COMMIT")
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def available_cores() -> int:
    """The number of cores that this process is bound to, where that is known; else all of the machine's."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def command_provenance(command: str, **about: str) -> dict[str, Any]:
    """The record of a table: the command, and code, versions and hardware that it was written with."""
    now = provenance()
    return {**about, "command": command, "written": now.pop("started"), **now}


def trained_with(directories: Iterable[RunDirectory]) -> dict[str, Any]:
    """The code, versions, hardware and data of finished runs."""
    trained = [read_json_or_nothing(directory.provenance) for directory in directories if directory.finished]
    return {
        "trained_with": _distinct(trained, ("fsbench", "git_commit", "python", "versions", "hardware")),
        "data": _distinct([data for one in trained if isinstance(data := one.get("data"), dict)], None),
    }


def write_provenance(directory: Path, record: dict[str, Any]) -> Path:
    """Written last: it is there if and only if the files beside it are whole."""
    write_json(directory / FILE, record)
    return directory / FILE


def without_places(words: Sequence[str]) -> list[str]:
    """A command line without what names places of this machine: directories go, images go by their folder's name."""
    kept = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            kept.append(PurePath(word).name if PurePath(word).is_absolute() else word)
            continue
        if key in _PLACES or key.partition(".")[0] == "executor":
            continue
        name = value.strip("'\"").rstrip("/").rpartition("/")[2]
        kept.append(f"{key}={name}" if key in _FILES else word)
    return kept


def _distinct(records: Sequence[dict[str, Any]], keys: Sequence[str] | None) -> list[dict[str, Any]]:
    """Each different record once, and how many runs have it."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        kept = record if keys is None else {key: record.get(key) for key in keys}
        entry = found.setdefault(json.dumps(kept, sort_keys=True), {**kept, "runs": 0})
        entry["runs"] += 1
    return list(found.values())
