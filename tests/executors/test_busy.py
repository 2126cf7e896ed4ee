"""A run that another process is at work on is come back to last."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fsbench.executors import executor
from fsbench.runs.directory import RunDirectory

SWEEP = ("-m", "seed=0,1", "trainer.max_steps=1")


@pytest.fixture
def held(fsbench, quick) -> RunDirectory:
    """The first run of the sweep, begun by somebody."""
    fsbench("train", *quick, *SWEEP)
    run = RunDirectory(sorted(Path("runs").iterdir())[0])
    run.summary.unlink()
    return run


@pytest.mark.parametrize("population", [(), ("trainer.population=true",)], ids=["serial", "population"])
def test_it_is_waited_for(fsbench, quick, held, population) -> None:
    other = RunDirectory(sorted(Path("runs").iterdir())[1])
    other.summary.unlink()
    holds = threading.Event()

    def hold() -> None:
        with held.locked():
            holds.set()
            while not other.finished:
                time.sleep(0.05)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    ended = fsbench("train", *quick, *SWEEP, *population)
    thread.join()
    assert ended.code == 0
    first, second, counts = ended.out.splitlines()
    assert first.startswith(f"[1/2] {other.path}: done")
    assert second.startswith(f"[2/2] {held.path}: done")
    assert counts == "2 done, 0 skipped, 0 failed"
    if not population:  # else it was free when it was come back to
        assert ended.err == f"{held.path}: another process is at work on it, which is waited for\n"


def test_it_is_not_waited_for_for_ever(fsbench, quick, held, monkeypatch) -> None:
    monkeypatch.setattr(executor, "_PATIENCE", 0.2)
    with held.locked():
        ended = fsbench("train", *quick, *SWEEP)
    assert ended.code == 3
    assert ended.out.splitlines()[1:] == [
        f"[2/2] {held.path}: busy, another process trains it",
        "0 done, 1 skipped, 0 failed, 1 busy in another process",
    ]
    assert ended.err.endswith(
        "fsbench: 1 of 2 runs are busy in another process; the same command runs what is missing\n"
    )
