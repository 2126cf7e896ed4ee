"""Measures in `fsbench table`: they join the runs' results; what is missing or mixed is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DEVIATION = "note: ± is the standard deviation over runs; a run's own standard errors are in its sharpness.json\n"
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
    assert (ended.code, ended.err) == (0, DEVIATION)
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
    assert ended.err == f"note: 1 of 4 runs lack fisher_trace; `{command}` measures them\n{DEVIATION}"
    *_, glob, measures = command.split()
    fsbench("sharpness", "-m", glob.strip("'"), measures, "samples=50")
    assert fsbench("table", "runs", *COLUMNS).err == DEVIATION


def test_nothing_measured(fsbench, runs) -> None:
    ended = fsbench("table", "runs", "--columns", "test_accuracy,minimum_sharpness")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "fsbench: --columns=minimum_sharpness: no run was measured; "
        "`fsbench sharpness -m 'run=glob(runs/*)' measures=[minimum]` does it\n"
    )
    assert fsbench("table", "--columns", "minimum_sharpnes").err.endswith("(did you mean 'minimum_sharpness'?)\n")
    assert fsbench("table", "--columns", "trace").err == "fsbench: --columns=trace: tables have it as hessian_trace\n"
    many = fsbench("table", *map(str, runs), "--columns", "adversarial_accuracy_0.5")
    assert "measures=[adversarial] alphas=[0.5]` does it" in many.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["samples=60"], "samples (50, 60)"),
        (["samples=200"], "samples (50, 200)"),
        (["seed=1"], "seed (0, 1)"),
        (["samples=null"], "samples (50, all); seed (0, -)"),
        (["split=test", "dtype=float64"], "split (test, train); dtype (float32, float64)"),
    ],
    ids=lambda x: x[0] if type(x) is list else "",
)
def test_mixed_settings_are_said(fsbench, runs, options, said) -> None:
    measure(fsbench, f"{runs[0]},{runs[2]},{runs[3]}")
    measure(fsbench, f"{runs[1]}", *options)
    ended = fsbench("table", "runs", *COLUMNS)
    assert ended.err == f"note: a line averages fisher_trace measured with different settings: {said}\n{DEVIATION}"
    ended = fsbench("table", "runs", "--by", "optimizer,seed", "--columns", "fisher_trace")
    assert ended.err == f"note: fisher_trace: lines were measured with different settings: {said}\n{DEVIATION}"
    assert fsbench("table", "runs", "--by", "optimizer").err == ""


def test_each_note_says_what_the_other_does_not(fsbench, runs) -> None:
    """A line that mixes 50 and 60, and another of 70."""
    for run, samples in zip(runs, (50, 60, 70, 70), strict=True):
        measure(fsbench, str(run), f"samples={samples}")
    ended = fsbench("table", "runs", *COLUMNS)
    assert ended.err == (
        "note: a line averages fisher_trace measured with different settings: samples (50, 60)\n"
        "note: fisher_trace: lines were measured with different settings: samples (50, 60, 70)\n" + DEVIATION
    )


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("optimizer", "a line averages fisher_trace measured with different settings: method (exact, gauss-newton)"),
        ("optimizer,seed", "fisher_trace: lines were measured with different settings: method (exact, gauss-newton)"),
    ],
)
def test_gauss_newton_values_are_said(fsbench, runs, by, said) -> None:
    measure(fsbench, "glob(runs/*)")
    assert "method" not in fsbench("table", "runs", "--by", by, "--columns", "fisher_trace").err
    content = json.loads((runs[0] / "sharpness.json").read_text())
    content["measures"]["fisher_trace"]["method"] = "gauss-newton, 3 sampled classes"
    (runs[0] / "sharpness.json").write_text(json.dumps(content))
    ended = fsbench("table", "runs", "--by", by, "--columns", "fisher_trace")
    assert ended.err == (
        f"note: {said.replace('gauss-newton', 'gauss-newton, 3 sampled classes')}\n"
        f"note: fisher_trace is the Gauss-Newton value for 1 of 4 runs\n{DEVIATION}"
    )
    # It follows from the setting, which is said.
    content["measures"]["fisher_trace"]["settings"]["classes"] = 3
    (runs[0] / "sharpness.json").write_text(json.dumps(content))
    ended = fsbench("table", "runs", "--by", by, "--columns", "fisher_trace")
    assert "settings: classes (3, all)\n" in ended.err
    assert "method" not in ended.err


SUGGESTED = [
    ("alpha", ["--columns", "adversarial_accuracy_7,adversarial_loss_0.5"], "measures=[adversarial] alphas=[7]` does"),
    ("eigenvalue", ["--columns", "hessian_eigenvalue_3"], "measures=[eigenvalues] eigenvalues=3` does it"),
    ("first-eigenvalue", ["--columns", "hessian_top_eigenvalue"], "measures=[eigenvalues]` does it"),
    ("no-alpha", ["--columns", "adversarial_foo"], "--columns=adversarial_foo: no run has such a key"),
    ("no-such-number", ["--columns", "adversarial_loss_0.50"], "no run has such a key"),
    ("no-eigenvalue", ["--columns", "hessian_eigenvalue_0"], "no run has such a key (did you mean 'hessian_top_"),
    ("several", ["--columns", "adversarial"], "tables have it as adversarial_accuracy_ALPHA and adversarial_loss_"),
    ("where", ["--where", "minimum=1"], "--where=minimum=1: tables have it as minimum_sharpness\n"),
    ("where-unmeasured", ["--where", "minimum_sharpness=1"], "no run was measured; `fsbench sharpness -m 'run=glob("),
    ("by", ["--by", "minimum_sharpness"], "--by=minimum_sharpness: is a measure, which hardly any two runs share"),
    ("by-measured", ["--by", "fisher_trace"], "--by=fisher_trace: is a measure"),
    ("by-name", ["--by", "minimum"], "--by=minimum: tables have it as minimum_sharpness\n"),
]


def test_what_is_suggested(fsbench, runs) -> None:
    measure(fsbench, "glob(runs/*)")
    for name, options, said in SUGGESTED:
        ended = fsbench("table", "runs", *options)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), name
        assert said in ended.err, name


def test_a_suggestion_is_of_the_runs_that_were_asked_for(fsbench, runs) -> None:
    asked = ("table", "runs", *COLUMNS, "--where", "optimizer=sam")
    both = fsbench(*asked).err
    assert f"`fsbench sharpness -m run={runs[0]},{runs[1]} measures=[fisher_trace]` does it" in both
    measure(fsbench, f"{runs[0]}")
    command = f"fsbench sharpness -m run={runs[1]} measures=[fisher_trace]"
    assert f"`{command}` measures them" in fsbench(*asked).err
    fsbench(*command.split()[1:], "samples=50")
    assert fsbench(*asked).err == DEVIATION


def test_networks_without_a_run_are_no_rows(fsbench, quick) -> None:
    line = ("sharpness", *quick[:3], "measures=[fisher_trace]", "samples=20")
    fsbench(*line)
    (place,) = Path("runs/sharpness").iterdir()
    one = f"; there is a network without a run, whose numbers are in {place}/sharpness.json\n"
    assert fsbench("table", "runs/sharpness").err == f"fsbench: runs=runs/sharpness: no finished run there{one}"
    fsbench(*line, "out=runs/sharpness/zzz")
    assert "; there are 2 networks without a run, whose numbers are in " in fsbench("table", "runs").err


def test_an_unreadable_record_is_no_record(fsbench, runs) -> None:
    measure(fsbench, "glob(runs/*)")
    (runs[0] / "sharpness.json").write_text('{"weights":')
    (runs[1] / "sharpness.json").write_text('{"weights": "x", "measures": {"fisher_trace": 3}}')
    (runs[2] / "sharpness.json").write_text('{"weights": "x", "measures": {}, "others": {"fisher_trace": [3]}}')
    said = fsbench("table", "runs", *COLUMNS).err
    assert "3 of 4 runs lack fisher_trace" in said
    assert f"note: unreadable: {runs[0]}/sharpness.json, {runs[1]}/sharpness.json and 1 more\n" in said
    again = fsbench("sharpness", "-m", "run=glob(runs/*)", "measures=[fisher_trace]", "samples=50")
    assert f"  note: unreadable: {runs[0]}/sharpness.json (not JSON); written anew\n" in again.out
    assert fsbench("table", "runs", *COLUMNS).err == DEVIATION


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
    assert ended.err == "note: fisher_trace was refused for 1 of 4 runs: no\n" + DEVIATION
    assert cells(ended.out.splitlines()[2])[3] == f"{value(runs[1]):.4g}"
