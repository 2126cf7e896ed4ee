"""Forty signals at random moments: every one ends with exit 130 and one line, and what goes on comes to the same."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from drill.processes import Place, measures, same_files, same_runs

from fsbench.runs.directory import RunDirectory

pytestmark = pytest.mark.slow

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
EACH = 8
# Python itself takes as long to begin; before that there is nobody to hear.
DEAF = 0.5
SMALL = ("dataset=digits", "trainer.progress=false", "trainer.device=cpu")
RUN = (*SMALL, "model=cnn", "optimizer=fsam", "dataset.subset=400", "trainer.epochs=12")
SWEEP = ("-m", *RUN, "trainer.epochs=3", "optimizer=sgd,fsam", "seed=0,1")
DEVICES = (*SMALL, "model=mlp", "optimizer=sam", "dataset.subset=400", "trainer.epochs=30", "trainer.devices=2")
TRAINED = {"run": RUN, "sweep": SWEEP, "devices": DEVICES}


def drill(
    name: str, place: Place, line: Callable[[int], Sequence[str]], check: Callable[[int], None], whole: float
) -> str:
    """Send a command `EACH` signals, one a start, and `check` whatever comes to its end; says what it came to."""
    chance, sent, finished, slowest = random.Random(name), [], 0, 0.0
    while True:
        process = place.start(*line(finished))
        left = len(sent) < EACH
        try:
            said = process.communicate(timeout=chance.uniform(DEAF, whole) if left else 600)[1]
        except subprocess.TimeoutExpired:
            number, begun = SIGNALS[(len(name) + len(sent)) % len(SIGNALS)], time.monotonic()
            process.send_signal(getattr(signal, number))
            said = process.communicate(timeout=120)[1]
            if process.returncode != 0:  # it was done at that moment
                told = said.strip().splitlines()
                assert process.returncode == 130, (number, said)
                assert "interrupted" in told[-1], (number, said)
                assert "Traceback" not in said, (number, said)
                sent.append(number)
                slowest = max(slowest, time.monotonic() - begun)
                place.wait_until_gone()
                resumable(place.path)
                continue
        assert process.returncode == 0, said
        check(finished)
        finished += 1
        if not left:
            counts = ", ".join(f"{sent.count(one)} {one}" for one in SIGNALS if one in sent)
            return (
                f"{name}: {counts}: all 130; {finished} finished, the same bits; ended {slowest:.1f} s after a signal"
            )


def resumable(root: Path) -> None:
    """Every run that took a step has a checkpoint, or is finished; none says that it is still running."""
    for config in root.glob("broken*/*/config.yaml"):
        run = RunDirectory(config.parent)
        assert run.status in ("done", "interrupted"), run.status
        assert run.finished or run.checkpoint.is_file() or not run.metrics.exists()


@pytest.mark.parametrize("name", TRAINED)
def test_train(name, tmp_path, capsys) -> None:
    place, line = Place(tmp_path), TRAINED[name]
    begun = time.monotonic()
    place.run("train", *line, "runs_dir=whole")
    figures = drill(
        name, place, lambda number: ["train", *line, f"runs_dir=broken{number}"],
        lambda number: same_runs(tmp_path / f"broken{number}", tmp_path / "whole"), time.monotonic() - begun,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{figures}")


def test_sharpness(tmp_path, capsys) -> None:
    place = Place(tmp_path)
    place.run("train", *SMALL, "model=mlp", "model.widths=[16]", "trainer.epochs=1", "run_name=run")
    for number in range(EACH * 2):
        shutil.copytree(tmp_path / "runs/run", tmp_path / f"measured{number}")
    line = ("measures=[all]", "samples=100", "progress=false", "device=cpu")
    begun = time.monotonic()
    place.run("sharpness", "run=runs/run", *line)
    whole = measures(tmp_path / "runs/run")

    def check(number: int) -> None:
        assert measures(tmp_path / f"measured{number}") == whole

    figures = drill(
        "sharpness", place, lambda number: ["sharpness", f"run=measured{number}", *line], check,
        time.monotonic() - begun,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{figures}")


def test_reproduce(papers, tmp_path, capsys) -> None:
    place = Place(tmp_path)
    asked = ("reproduce", "--papers", str(papers), "made2099/table1", "made2099/fig1", "kim2022/fig1", "scale=tiny",
             "device=cpu", "progress=false")  # fmt: skip

    def line(name: str) -> list[str]:
        return [*asked, f"runs_dir={name}", f"results_dir=results-{name}"]

    def check(number: int) -> None:
        same_files(tmp_path / f"results-broken{number}", tmp_path / "results-whole")
        same_runs(tmp_path / f"broken{number}", tmp_path / "whole")

    begun = time.monotonic()
    place.run(*line("whole"))
    figures = drill("reproduce", place, lambda number: line(f"broken{number}"), check, time.monotonic() - begun)
    with capsys.disabled():
        print(f"\n{figures}")
