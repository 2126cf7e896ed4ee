"""kill -9 at random moments: every restart resumes, and the end is that of an undisturbed run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fsbench.runs.directory import RunDirectory

TIMES = ("seconds", "seconds_per_epoch", "seconds_per_step", "peak_memory")
RUN = ["dataset=digits", "model=cnn", "optimizer=fsam", "trainer.epochs=12", "dataset.subset=400"]
SWEEP = ["-m", *RUN, "trainer.epochs=3", "optimizer=sgd,fsam", "seed=0,1"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fsbench", "train", *arguments]


def whole_files(directory: Path) -> None:
    """Whatever lies there can be read, and no leftovers are taken for results."""
    for path in directory.rglob("*.json"):
        json.loads(path.read_text())
    for path in directory.rglob("metrics.jsonl"):
        [json.loads(line) for line in path.read_text().splitlines()]
    for path in directory.rglob("checkpoint.pt"):
        torch.load(path, weights_only=True)
    for path in directory.rglob("model.safetensors"):
        load_file(path)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [RUN, SWEEP], ids=["run", "sweep"])
def test_ten_kills(arguments, tmp_path) -> None:
    subprocess.run(command(*arguments, "runs_dir=undisturbed"), cwd=tmp_path, check=True, capture_output=True)
    started = time.perf_counter()
    subprocess.run(command(*arguments, "runs_dir=timed"), cwd=tmp_path, check=True, capture_output=True)
    whole = time.perf_counter() - started

    chance = random.Random(0)
    broken = tmp_path / "broken"
    for _ in range(10):
        process = subprocess.Popen(
            command(*arguments, "runs_dir=broken"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # From within start-up to well into training, so that ten together outlast one run.
        time.sleep(chance.uniform(0.2, 0.6) * whole)
        process.kill()
        process.wait()
        whole_files(broken)
    done = subprocess.run(command(*arguments, "runs_dir=broken"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole_files(broken)
    names = {path.name for path in (tmp_path / "undisturbed").iterdir()}
    assert {path.name for path in broken.iterdir()} == names
    for name in names:
        a, b = RunDirectory(tmp_path / "undisturbed" / name), RunDirectory(broken / name)
        mine, theirs = load_file(a.model), load_file(b.model)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
        left, right = ({key: value for key, value in run.read_results().items() if key not in TIMES} for run in (a, b))
        assert left == right
        assert len(a.metrics.read_text().splitlines()) == len(b.metrics.read_text().splitlines())
        assert not [path for path in b.path.iterdir() if path.name.startswith(".")]
