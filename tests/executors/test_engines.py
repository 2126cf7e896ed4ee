"""Ray and submitit for real: two workers, a run that is killed, one that fails, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal

import pytest
from executors.engines import ENGINES, assert_same_runs, end, holder, start, under_way, wait_for

TINY = ("dataset=digits", "model=mlp", "model.widths=[16]", "trainer.device=cpu", "trainer.progress=false")


@pytest.fixture(params=[pytest.param(one, marks=pytest.mark.slow if one == "ray" else ()) for one in ENGINES])
def engine(request) -> tuple[str, ...]:
    """The words that choose an executor with two workers."""
    package, words = ENGINES[request.param]
    pytest.importorskip(package)
    return words


def test_two_workers(fsbench, engine, tmp_path) -> None:
    """A sweep comes out as it does one run after the other; one that fails by itself is not tried again."""
    sweep = ("train", "-m", *TINY, "trainer.epochs=2", "optimizer.lr=0.1,1e30")
    alone = fsbench(*sweep, "runs_dir=alone")
    ended = end(start(tmp_path, *sweep, "runs_dir=pooled", *engine))
    assert (alone.code, ended.code) == (3, 3)
    assert ended.out.endswith("1 done, 0 skipped, 1 failed\n")
    assert [line[:6] for line in ended.out.splitlines()[:2]] == ["[1/2] ", "[2/2] "]
    assert ended.out.count(": failed, diverged: ") == 1
    assert ended.err.splitlines() == ["fsbench: 1 of 2 runs failed; the same command runs what is missing"]
    assert_same_runs(tmp_path / "pooled", tmp_path / "alone")
    for run in (tmp_path / "pooled").glob("*/provenance.json"):
        record = json.loads(run.read_text())
        assert record["hardware"]["threads"] == 1
        assert not any("executor" in word for word in (*record["overrides"], *record["choices"]))

    # What is done takes no engine.
    again = fsbench("train", *TINY, "trainer.epochs=2", "optimizer.lr=0.1", "runs_dir=pooled", *engine)
    assert (again.code, again.out.splitlines()[-1]) == (0, "0 done, 1 skipped, 0 failed")


@pytest.mark.slow
def test_a_killed_run_is_tried_again_and_resumes(fsbench, engine, tmp_path) -> None:
    sweep = ("train", "-m", *TINY, "trainer.epochs=60", "seed=0,1")
    fsbench(*sweep, "runs_dir=alone")
    process = start(tmp_path, *sweep, "runs_dir=pooled", *engine)
    run = wait_for(lambda: under_way(tmp_path / "pooled"), process)
    os.kill(holder(run.path / "lock"), signal.SIGKILL)
    assert not run.finished
    ended = end(process)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "2 done, 0 skipped, 0 failed")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"pooled/{run.path.name}: ")
    assert line.endswith("; tried again (1 of 2)")
    assert run.log.read_text().count("resumed at epoch ") == 1
    assert_same_runs(tmp_path / "pooled", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stop_saves_checkpoints(engine, number, tmp_path) -> None:
    """Ctrl-C reaches all processes of the terminal, SIGTERM the driver alone."""
    sweep = ("train", "-m", *TINY, "trainer.epochs=200", "seed=0,1,2")
    process = start(tmp_path, *sweep, *engine)
    run = wait_for(lambda: under_way(tmp_path / "runs"), process)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    ended = end(process)
    assert (ended.code, ended.err) == (130, "fsbench: interrupted; the same command goes on from here\n")
    assert ended.out.splitlines()[-1] == "0 done, 0 skipped, 0 failed, 3 not begun or interrupted"
    assert run.status == "interrupted"
    assert holder(run.path / "lock") is None
    epochs = len(run.metrics.read_text().splitlines())
    again = end(start(tmp_path, "train", *TINY, "trainer.epochs=200", "seed=1", *engine))
    assert (again.code, again.out.splitlines()[-1]) == (0, "1 done, 0 skipped, 0 failed")
    assert f"resumed at epoch {epochs + 1}, step" in run.log.read_text()
