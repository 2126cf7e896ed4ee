"""The origin of a result: code, versions, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import fsbench
from fsbench.plugins import plugins_read

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "pydantic", "pandas", "scikit-learn")


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
