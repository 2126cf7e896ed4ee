"""A checkpoint that is not one of the run: one line, exit code 2, and nothing of it is executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fsbench.runs.directory import RunDirectory
from fsbench.training import run as run_module


@pytest.fixture
def interrupted(fsbench, quick, monkeypatch) -> tuple[Callable, RunDirectory]:
    """A run that was stopped after its first epoch, and how to go on with it."""

    def stopped(*arguments, **named) -> None:
        named["stop"].requested = True
        fit(*arguments, **named)

    fit = run_module.fit
    monkeypatch.setattr(run_module, "fit", stopped)
    line = ("train", *quick, "optimizer=fsam", "run_name=x", "base.momentum=0.9")
    assert fsbench(*line).code == 130
    monkeypatch.setattr(run_module, "fit", fit)
    return lambda: fsbench(*line), RunDirectory(Path("runs/x"))


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def other(saved: dict, **changes) -> dict:
    return {**saved, **changes}


def with_group(saved: dict, **changes) -> dict:
    optimizer = saved["optimizer"]
    return other(saved, optimizer={**optimizer, "param_groups": [{**g, **changes} for g in optimizer["param_groups"]]})


def with_state(saved: dict, change: Callable) -> dict:
    optimizer = saved["optimizer"]
    state = {number: {name: change(value) for name, value in kept.items()}
             for number, kept in optimizer["state"].items()}  # fmt: skip
    return other(saved, optimizer={**optimizer, "state": state})


MODELS = {
    "other-shapes": lambda m: {name: value[:-1] for name, value in m.items()},
    "other-model": lambda m: {f"other.{name}": value for name, value in m.items()},
    "other-types": lambda m: {name: value.long() for name, value in m.items()},
    "no-tensors": lambda m: dict.fromkeys(m, 3),
}
CASES = {
    **{name: lambda saved, make=make: other(saved, model=make(saved["model"])) for name, make in MODELS.items()},
    "lacking-keys": lambda saved: {key: value for key, value in saved.items() if key != "schedule"},
    "no-table": lambda saved: [saved],
    "learning-rate": lambda saved: with_group(saved, lr="fast"),
    "other-state": lambda saved: with_state(saved, lambda value: torch.zeros(7, 7)),
    "fewer-groups": lambda saved: other(saved, optimizer={**saved["optimizer"], "param_groups": []}),
    "position": lambda saved: other(saved, position=["a", None]),
    "negative-position": lambda saved: other(saved, position=[-5, 0]),
    "rows": lambda saved: other(saved, rows=[{"deep": [[]]}]),
    "totals": lambda saved: other(saved, totals={**saved["totals"], "seen": "many"}),
    "schedule": lambda saved: other(saved, schedule={"by_step": {"last_epoch": "x"}, "by_epoch": None}),
    "random": lambda saved: other(saved, random={"cpu": torch.zeros(3)}),
    "scale": lambda saved: other(saved, precision={"scale": [], "good_steps": 0}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_that_does_not_fit(interrupted, case) -> None:
    go_on, run = interrupted
    saved = torch.load(run.checkpoint, weights_only=True)
    torch.save(CASES[case](saved), run.checkpoint)
    ended = go_on()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"fsbench: checkpoint={run.checkpoint}: ")
    assert ended.err.endswith("; delete it to train this run from its start\n")
    assert ended.err.count("\n") == 1
    run.checkpoint.unlink()
    assert go_on().code == 0


def test_a_checkpoint_of_an_earlier_release_goes_on_alike(interrupted) -> None:
    """It names neither method nor base, and counts less."""
    go_on, run = interrupted
    saved = torch.load(run.checkpoint, weights_only=True)
    assert go_on().code == 0
    expected = load_file(run.path / "model.safetensors")
    (run.path / "summary.json").unlink()
    later = {"optimizer": {"method", "base"}, "totals": {"sampled", "digits"}}
    torch.save(
        {part: {k: v for k, v in value.items() if k not in later[part]} if part in later else value
         for part, value in saved.items()},
        run.checkpoint,
    )  # fmt: skip
    assert go_on().code == 0
    found = load_file(run.path / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04K\x01.", pickle.dumps(Code())],
                         ids=["empty", "zip", "number", "code"])  # fmt: skip
@pytest.mark.filterwarnings("default")  # torch's are not heard
def test_a_file_that_is_no_checkpoint(interrupted, content, tmp_path, recwarn) -> None:
    go_on, run = interrupted
    run.checkpoint.write_bytes(content)
    ended = go_on()
    assert [str(warning.message) for warning in recwarn if "pickle" in str(warning.message)] == []
    why = "truncated or not a checkpoint; delete it to train this run from its start"
    assert (ended.code, ended.err) == (2, f"fsbench: checkpoint={run.checkpoint}: {why}\n")
    assert not (tmp_path / "executed").exists()


def test_code_in_a_torch_file_is_not_executed(interrupted, tmp_path) -> None:
    go_on, run = interrupted
    saved = torch.load(run.checkpoint, weights_only=True)
    torch.save(other(saved, more=Code()), run.checkpoint)
    assert go_on().code == 2
    assert not (tmp_path / "executed").exists()


def test_every_cut(interrupted) -> None:
    go_on, run = interrupted
    whole = run.checkpoint.read_bytes()
    for part in range(1, 8):
        run.checkpoint.write_bytes(whole[: part * len(whole) // 8])
        assert go_on().code == 2
    run.checkpoint.write_bytes(whole)
    assert go_on().code == 0


def test_other_thread_counts_are_said(interrupted) -> None:
    go_on, _ = interrupted
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        ended = go_on()
    finally:
        torch.set_num_threads(before)
    assert ended.code == 0
    assert ended.err == (
        "runs/x: begun with 1 thread, goes on with 2: the last bits may differ from a run with one number throughout\n"
    )


def test_what_a_process_left_that_was_killed_in_its_last_moment(fsbench, interrupted) -> None:
    go_on, run = interrupted
    checkpoint = run.checkpoint.read_bytes()
    go_on()
    run.checkpoint.write_bytes(checkpoint)
    assert "already done" in go_on().out
    assert not run.checkpoint.exists()
