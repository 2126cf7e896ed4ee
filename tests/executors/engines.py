"""Ray and submitit for real, each with two workers: what their tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from fsbench.runs.directory import RunDirectory

TIMES = ("seconds", "seconds_per_epoch", "seconds_per_step", "peak_memory")
# A package, and the words that choose the executor. Ray takes seconds to start.
ENGINES = {
    "ray": ("ray", ("executor=ray", "executor.workers=2")),
    "slurm-local": ("submitit", ("executor=slurm", "executor.cluster=local", "executor.workers=2")),
}


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """As from a terminal: in a process group of its own, which is what Ctrl-C reaches."""
    return subprocess.Popen(
        [sys.executable, "-m", "fsbench", *arguments], cwd=directory, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@dataclass
class Ended:
    code: int
    out: str
    err: str


def end(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=480)
    return Ended(process.returncode, out, err)


def results(run: Path) -> dict:
    return {key: value for key, value in RunDirectory(run).read_results().items() if key not in TIMES}


def assert_same_runs(mine: Path, theirs: Path) -> None:
    """The same directories with the same results and weights, bit for bit."""
    names = sorted(path.parent.name for path in theirs.glob("*/summary.json"))
    assert sorted(path.parent.name for path in mine.glob("*/summary.json")) == names
    for name in names:
        assert results(mine / name) == results(theirs / name)
        ours, others = load_file(mine / name / "model.safetensors"), load_file(theirs / name / "model.safetensors")
        assert all(torch.equal(ours[key], others[key]) for key in others)
        assert _config(mine / name) == _config(theirs / name)


def _config(run: Path) -> str:
    """As written, but for the directory that all runs lie in."""
    return (run / "config.yaml").read_text().replace(f"runs_dir: {run.parent.name}\n", "")


def holder(lock: Path) -> int | None:
    """The process that has the run's lock open."""
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if Path(os.readlink(place)) == lock.resolve():
                return int(place.parts[2])
        except OSError:
            continue
    return None


def wait_for(what, driver: subprocess.Popen[str], seconds: float = 240.0):
    """What a function finds, as soon as it does; a driver that never gets there is ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    raise TimeoutError(end(driver))


def under_way(root: Path) -> RunDirectory | None:
    """A run that has saved a checkpoint of at least three epochs and goes on."""
    for run in map(RunDirectory, sorted(root.glob("*-s1-*"))):
        if run.checkpoint.is_file() and run.metrics.is_file() and len(run.metrics.read_text().splitlines()) >= 3:
            return run
    return None
