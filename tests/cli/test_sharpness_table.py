"""Measures in `fsbench table`: they join the runs' results; what is missing or mixed is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

COLUMNS = ("--by", "optimizer", "--columns", "test_accuracy,fisher_trace")


@pytest.fixture
def runs(fsbench, quick) -> list[Path]:
    """sam s0, sam s1, sgd s0, sgd s1."""
    fsbench("train", "-m", *quick, "optimizer=sgd,sam", "seed=0,1", "trainer.max_steps=2")
    return sorted(Path("runs").iterdir())


def value(run: Path) -> float:
    return json.loads((run / "sharpness.json").read_text())["measures"]["fisher_trace"]["value"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def measure(fsbench, run: str, *options: str) -> None:
    assert fsbench("sharpness", "-m", f"run={run}", "measures=[fisher_trace]", "samples=50", *options).code == 0


def test_a_measure_joins_the_results(fsbench, runs) -> None:
    measure(fsbench, "glob(runs/*)")
    ended = fsbench("table", "runs", *COLUMNS)
    assert (ended.code, ended.err) == (0, "")
    sam, sgd = (cells(line) for line in ended.out.splitlines()[2:])
    a, b = value(runs[2]), value(runs[3])
    assert sgd[:2] == ["sgd", "2"]
    assert sgd[3] == f"{(a + b) / 2:.4g} ± {abs(a - b) / 2**0.5:.2g}"
    assert sam[3] != sgd[3]
    only = fsbench("table", *COLUMNS, "--where", f"fisher_trace={a!r}")
    assert cells(only.out.splitlines()[-1])[:2] == ["sgd", "1"]


def test_a_gap_is_said_with_what_closes_it(fsbench, runs) -> None:
    measure(fsbench, f"{runs[0]},{runs[2]},{runs[3]}")
    ended = fsbench("table", "runs", *COLUMNS)
    sam, sgd = (cells(line) for line in ended.out.splitlines()[2:])
    assert sam[1:] == ["2", sam[2], f"{value(runs[0]):.4g}"]
    assert "±" in sgd[3]
    command = "fsbench sharpness -m 'run=glob(runs/*)' measures=[fisher_trace]"
    assert ended.err == f"note: 1 of 4 runs lack fisher_trace; `{command}` measures them\n"
    *_, glob, measures = command.split()
    fsbench("sharpness", "-m", glob.strip("'"), measures, "samples=50")
    assert fsbench("table", "runs", *COLUMNS).err == ""


def test_nothing_measured(fsbench, runs) -> None:
    ended = fsbench("table", "runs", "--columns", "test_accuracy,minimum_sharpness")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "fsbench: --columns=minimum_sharpness: no run was measured; "
        "`fsbench sharpness -m 'run=glob(runs/*)' measures=[minimum]` does it\n"
    )
    assert fsbench("table", "--columns", "minimum_sharpnes").err.endswith("did you mean 'minimum_sharpness'?\n")
    assert fsbench("table", "--columns", "trace").err == "fsbench: --columns=trace: tables have it as hessian_trace\n"
    many = fsbench("table", *map(str, runs), "--columns", "adversarial_accuracy_0.5")
    assert "measures=[adversarial]` does it" in many.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["samples=60"], "samples (50, 60)"),
        (["seed=1"], "seed (0, 1)"),
        (["samples=null"], "samples (50, all); seed (-, 0)"),
        (["split=test", "dtype=float64"], "split (test, train); dtype (float32, float64)"),
    ],
    ids=lambda x: x[0] if type(x) is list else "",
)
def test_mixed_settings_are_said(fsbench, runs, options, said) -> None:
    measure(fsbench, f"{runs[0]},{runs[2]},{runs[3]}")
    measure(fsbench, f"{runs[1]}", *options)
    ended = fsbench("table", "runs", *COLUMNS)
    assert ended.err == f"note: a line averages fisher_trace measured with different settings: {said}\n"
    assert fsbench("table", "runs", "--by", "optimizer,seed", "--columns", "fisher_trace").err == ""
    assert fsbench("table", "runs", "--by", "optimizer").err == ""


def test_an_unreadable_record_is_no_record(fsbench, runs) -> None:
    measure(fsbench, "glob(runs/*)")
    (runs[0] / "sharpness.json").write_text('{"weights":')
    (runs[1] / "sharpness.json").write_text('{"weights": "x", "measures": {"fisher_trace": 3}}')
    assert "2 of 4 runs lack fisher_trace" in fsbench("table", "runs", *COLUMNS).err
    measure(fsbench, "glob(runs/*)")
    assert fsbench("table", "runs", *COLUMNS).err == ""


def test_accuracies_under_perturbation_are_shares(fsbench, runs) -> None:
    for run in runs:
        settings = {"split": "train", "dtype": "float32", "label_smoothing": 0.0}
        entry = {"value": 0.5, "settings": settings}
        content = {"weights": "x", "measures": {"adversarial_accuracy_0.5": entry}}
        (run / "sharpness.json").write_text(json.dumps(content))
    ended = fsbench("table", "runs", "--by", "optimizer", "--columns", "adversarial_accuracy_0.5")
    assert "adversarial accuracy 0.5 %" in ended.out
    assert "50.00 ± 0.00" in ended.out


def test_a_refusal_is_no_other_setting(fsbench, runs) -> None:
    measure(fsbench, "glob(runs/*)")
    content = json.loads((runs[0] / "sharpness.json").read_text())
    entry = content["measures"]["fisher_trace"]
    entry["settings"]["samples"], entry["refused"], entry["value"] = 60, "no", None
    (runs[0] / "sharpness.json").write_text(json.dumps(content))
    ended = fsbench("table", "runs", *COLUMNS)
    assert ended.err == "note: fisher_trace was refused for 1 of 4 runs: no\n"
    assert cells(ended.out.splitlines()[2])[3] == f"{value(runs[1]):.4g}"
