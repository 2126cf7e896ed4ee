"""Forty signals at random moments: every one ends with exit 130 and one line, and what goes on comes to the same."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from drill.processes import RUN, SMALL, SWEEP, Command, Place, measuring, reproducing, training

from fsbench.runs.directory import RunDirectory

pytestmark = pytest.mark.slow

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
EACH = 8
# Python itself takes as long to begin; before that there is nobody to hear.
DEAF = 0.5
DEVICES = (*SMALL, "model=mlp", "optimizer=sam", "dataset.subset=400", "trainer.epochs=30", "trainer.devices=2")
TRAINED = {"run": RUN, "sweep": SWEEP, "devices": DEVICES}


def drill(name: str, place: Place, command: Command) -> str:
    """Send a command `EACH` signals, one a start, and check whatever comes to its end; says what it came to."""
    chance, sent, finished, slowest = random.Random(name), [], 0, 0.0
    while True:
        process = place.start(*command.line(finished))
        left = len(sent) < EACH
        try:
            said = process.communicate(timeout=chance.uniform(DEAF, command.seconds) if left else 600)[1]
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
        command.check(finished)
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
    place = Place(tmp_path)
    figures = drill(name, place, training(place, TRAINED[name]))
    with capsys.disabled():
        print(f"\n{figures}")


def test_sharpness(tmp_path, capsys) -> None:
    place = Place(tmp_path)
    figures = drill("sharpness", place, measuring(place, 2 * EACH))
    with capsys.disabled():
        print(f"\n{figures}")


def test_reproduce(papers, tmp_path, capsys) -> None:
    place = Place(tmp_path)
    figures = drill("reproduce", place, reproducing(place, papers))
    with capsys.disabled():
        print(f"\n{figures}")
