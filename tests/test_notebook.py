"""Runs from Python: what the commands do, in the same directories and with the same words."""

from __future__ import annotations

import doctest
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import fsbench
from fsbench import notebook
from fsbench.cli.main import main
from fsbench.config.dataset import Digits
from fsbench.data.digits import load_digits
from fsbench.errors import FsbenchError, UsageError
from fsbench.training.progress import Progress

SMALL = {"model.widths": [16], "trainer.epochs": 2, "trainer.batch_size": 128, "trainer.progress": False}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FSBENCH_DATA", raising=False)


def trained(**keys) -> fsbench.Run:
    return fsbench.train("dataset=digits", SMALL, **({"model": "mlp"} | keys))


def test_the_same_run_as_by_the_command(quick, capsys) -> None:
    """The same directory, and the same weights to the bit; what either has done the other does not do again."""
    run = trained(optimizer="sam", seed=1)
    assert capsys.readouterr().out.startswith(f"{run.path}: done, test accuracy ")
    assert main(["train", *quick, "optimizer=sam", "seed=1"]) == 0
    assert capsys.readouterr().out.startswith(f"{run.path}: already done, ")
    assert main(["train", *quick, "optimizer=sam", "seed=1", "runs_dir=others"]) == 0
    (other,) = Path("others").iterdir()
    assert other.name == run.path.name
    assert (other / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert trained(optimizer="sam", seed=1) == run
    assert capsys.readouterr().out.startswith(f"{run.path}: already done, ")
    assert main(["rerun", str(run.path)]) == 0
    assert capsys.readouterr().out.startswith(f"{run.path}: already done, ")


def test_a_run_is_loaded() -> None:
    run = fsbench.load(trained(optimizer="asam", **{"optimizer.rho": 0.3}).path)
    summary = json.loads((run.path / "summary.json").read_text())
    assert (run.status, run.config.optimizer.rho, run.config.model.widths) == ("done", 0.3, [16])
    assert run.results.to_dict() == summary["results"]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics.to_dict("records") == lines
    assert list(run.metrics["epoch"]) == [1, 2]
    assert run.sharpness.empty


def test_the_network_is_the_trained_one(monkeypatch) -> None:
    """In eval mode, and nothing of the data set is read for it."""
    run = trained()
    monkeypatch.setattr("fsbench.measuring.network.load_data", None)
    before = torch.random.get_rng_state()
    network = run.model()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not network.training
    raw = load_digits(Digits(), Path()).test
    with torch.no_grad():
        logits = network((raw.images.float() / 255 - 0.3046) / 0.3755)
    assert float((logits.argmax(1) == raw.labels).float().mean()) == pytest.approx(run.results["test_accuracy"])


def test_runs_are_a_frame() -> None:
    made = [trained(optimizer=name, seed=seed) for name in ("sgd", "sam") for seed in (0, 1)]
    fsbench.measure(made[0], "fisher_trace", samples=20)
    made[3].path.joinpath("summary.json").unlink()
    frame = fsbench.runs("runs")
    assert frame.attrs["unfinished"] == {"interrupted": 1}
    rows = frame.set_index("run")
    assert set(rows.index) == {str(run.path) for run in made[:3]}
    for run in made[:3]:
        row = rows.loc[str(run.path)]
        assert row["test_accuracy"] == run.results["test_accuracy"]
        assert (row["optimizer"], row["seed"]) == (run.config.optimizer.name, run.config.seed)
    assert rows["fisher_trace"].notna().sum() == 1
    assert fsbench.runs().equals(frame)
    # The package of this name is what it was.
    from fsbench.runs.records import read_records

    assert len(read_records([Path("runs")]).rows) == 3


def test_it_measures_as_the_command_does(capsys) -> None:
    run = trained()
    found = fsbench.measure(run, ["trace", "minimum"], samples=500)
    entries = json.loads((run.path / "sharpness.json").read_text())["measures"]
    assert list(found.index) == list(entries) == ["hessian_trace", "minimum_sharpness"]
    assert list(found["value"]) == [entry["value"] for entry in entries.values()]
    assert (found["images"] == 500).all()
    assert found.loc["hessian_trace", "example_stderr"] == entries["hessian_trace"]["example_stderr"]
    assert run.sharpness.equals(found)
    capsys.readouterr()
    line = ["sharpness", f"run={run.path}", "measures=[trace,minimum]", "samples=500"]
    assert main(line) == 0
    assert "500 of 1437 training images, already measured" in capsys.readouterr().out
    # From the record, without a number computed.
    assert fsbench.measure(run.path, ["trace", "minimum"], "samples=500").equals(found)


def test_what_is_refused_and_what_fails(monkeypatch, capsys) -> None:
    from fsbench import sharpness
    from fsbench.sharpness import Refused

    def refused(risk, **_):
        raise Refused("it has no such layers")

    def broken(risk, **_):
        raise RuntimeError("no luck\nmore")

    run = trained()
    monkeypatch.setattr(sharpness, "minimum_sharpness", refused)
    monkeypatch.setattr(sharpness, "fisher_rao_norm", broken)
    found = fsbench.measure(run, ["minimum", "fisher_trace"], samples=20)
    assert np.isnan(found.loc["minimum_sharpness", "value"])
    assert found.loc["minimum_sharpness", "refused"] == "it has no such layers"
    with pytest.raises(FsbenchError, match=f"^{run.path}: fisher_rao failed, RuntimeError: no luck$"):
        fsbench.measure(run, ["fisher_rao", "robustness"], samples=20)
    assert {"minimum_sharpness", "fisher_trace", "input_robustness"} == set(run.sharpness.index)


VALUES = {
    "text": ({"run_name": "a.b=c+1"}, "run_name", "a.b=c+1"),
    "digits": ({"run_name": "17"}, "run_name", "17"),
    "quotes": ({"data_dir": "it's \\' \"here\""}, "data_dir", "it's \\' \"here\""),
    "path": ({"data_dir": Path("a b/(c)")}, "data_dir", "a b/(c)"),
    "nothing": ({"trainer.max_steps": None}, "trainer.max_steps", None),
    "truth": ({"trainer.compile": True}, "trainer.compile", True),
    "number": ({"optimizer.lr": 1e-5}, "optimizer.lr", 1e-5),
    "numpy": ({"optimizer.lr": np.float32(0.5), "trainer.epochs": np.int64(3)}, "optimizer.lr", 0.5),
    "list": ({"model.widths": [8, 9]}, "model.widths", [8, 9]),
    "tuple": ({"model.widths": (8,)}, "model.widths", [8]),
}


@pytest.mark.parametrize(("given", "key", "value"), VALUES.values(), ids=VALUES)
def test_values_arrive_as_they_are(monkeypatch, given, key, value) -> None:
    seen = []
    monkeypatch.setattr("fsbench.cli.train.train", lambda jobs, multirun, stop: seen.extend(jobs))
    with pytest.raises(UsageError, match="is not finished: unknown"):
        fsbench.train("dataset=digits", {"model": "mlp"}, given)
    found = seen[0].config
    for part in key.split("."):
        found = getattr(found, part)
    assert (found, type(found)) == (value, type(value))


BAD = {
    "misspelt": (lambda: fsbench.train(optimzer="sam"), "optimzer=sam: no such key (did you mean 'optimizer'?)"),
    "choice": (lambda: fsbench.train(optimizer="sma"), "optimizer=sma: no such optimizer (did you mean 'sam'?)"),
    "type": (lambda: trained(seed="1"), "seed=1: must be a whole number"),
    "sweep": (lambda: fsbench.train("seed=0,1"), "seed=0,1: several values; add -m to run each of them"),
    "no-run": (lambda: fsbench.load("nowhere"), "run=nowhere: no such directory"),
    "no-run-directory": (lambda: fsbench.load("."), "run=.: is not a run directory: it holds no config.yaml"),
    "no-runs": (lambda: fsbench.runs("nowhere"), "runs=nowhere: no such directory"),
    "measured-run": (lambda: fsbench.measure(Path("nowhere"), "trace"), "run=nowhere: no such directory"),
    "measure": (lambda: fsbench.measure(Path("nowhere"), "tarce"), "measures=tarce: no such measure (did you mean "),
    "option": (lambda: fsbench.measure(Path("nowhere"), sample=3), "sample=3: no such key (did you mean 'samples'?)"),
}


@pytest.mark.parametrize(("call", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_said_in_the_words_of_the_command(tmp_path, call, said) -> None:
    with pytest.raises(UsageError) as met:
        call()
    assert str(met.value).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run() -> None:
    run = trained()
    (run.path / "summary.json").unlink()
    assert run.status == "interrupted"
    assert len(run.metrics) == 2
    for ask in (lambda: run.results, run.model, lambda: fsbench.measure(run, "fisher_trace")):
        with pytest.raises(UsageError, match=f"run={run.path}: is not finished: interrupted"):
            ask()
    (run.path / "metrics.jsonl").write_text("{")
    with pytest.raises(UsageError, match=r"metrics.jsonl \(not JSON\)"):
        _ = run.metrics
    (run.path / "metrics.jsonl").unlink()
    assert run.metrics.empty


def test_an_interrupt_leaves_a_checkpoint_and_the_same_call_goes_on(monkeypatch) -> None:
    whole = trained(runs_dir="whole")
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "epoch", lambda self, row: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="interrupted in epoch 2; the same command"):
            trained()
    assert signal.getsignal(signal.SIGINT) is handler
    (path,) = Path("runs").iterdir()
    assert fsbench.load(path).status == "interrupted"
    assert (path / "checkpoint.pt").is_file()
    run = trained()
    assert run.path == path
    assert (path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_in_another_thread() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(trained()))
    thread.start()
    thread.join()
    assert found[0].status == "done"


def test_a_failure_is_an_exception(monkeypatch) -> None:
    def broken(*_, **__):
        raise RuntimeError("no luck\nmore")

    monkeypatch.setattr("fsbench.training.run.fit", broken)
    with pytest.raises(FsbenchError, match="failed, RuntimeError: no luck; the traceback is in "):
        trained()


def test_the_names_are_listed() -> None:
    assert {"Run", "load", "measure", "runs", "train"} <= set(dir(fsbench))
    with pytest.raises(AttributeError, match="module 'fsbench' has no attribute 'trian'"):
        _ = fsbench.trian


def test_the_examples() -> None:
    """Each goes on with the run of the first."""
    scene = dict(vars(notebook))
    for name in ("train", "load", "runs", "measure"):
        (found,) = doctest.DocTestFinder(recurse=False).find(getattr(notebook, name), name, globs={})
        found.globs = scene
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        result = runner.run(found, clear_globs=False)
        assert (result.failed, result.attempted > 0) == (0, True), name
