"""EMA and SWA of the weights against their formulas, written out on what the training leaves after each step."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fsbench.config.compose import compose_jobs
from fsbench.runs.directory import RunDirectory
from fsbench.runs.identity import identity
from fsbench.training import run as run_module
from fsbench.training.average import Average

BATCHNORM = ("dataset=digits", "model=wrn28_2", "model.depth=10", "model.width=1", "model.dropout=0.2",
             "dataset.subset=400", "trainer.epochs=4", "trainer.batch_size=128", "trainer.progress=false")  # fmt: skip
TIMES = {"seconds", "seconds_per_epoch", "seconds_per_step", "peak_memory"}


def only_run(root: str) -> RunDirectory:
    (path,) = Path(root).iterdir()
    return RunDirectory(path)


def rows(run: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.fixture
def trajectory(monkeypatch) -> dict[str, list]:
    """The network of the training after each step and each epoch, and the one that came out."""
    seen: dict[str, list] = {"step": [], "epoch": [], "batches": []}
    for name in ("step", "epoch"):
        method = getattr(Average, f"after_{name}")

        def watching(self, model, progress, method=method, name=name):
            seen[name].append((progress, {key: value.clone() for key, value in model.state_dict().items()}))
            method(self, model, progress)

        monkeypatch.setattr(Average, f"after_{name}", watching)
    find = Average.find_statistics

    def finding(self, batches, epoch, *rest):
        seen["batches"] = [x for x, _ in batches.epoch(epoch)]
        before = torch.get_rng_state()
        find(self, batches, epoch, *rest)
        assert torch.equal(torch.get_rng_state(), before)
        seen["network"] = [self.averaged.module] if self.averaged is not None else []

    monkeypatch.setattr(Average, "find_statistics", finding)
    return seen


@pytest.mark.parametrize(("options", "decay", "start"), [
    ([], 0.999, 0.0), (["trainer.average_decay=0.8", "trainer.average_start=0.4"], 0.8, 0.4)
], ids=["default", "late"])  # fmt: skip
def test_ema(fsbench, trajectory, options, decay, start) -> None:
    assert fsbench("train", *BATCHNORM, "optimizer=sam", "trainer.average=ema", *options).code == 0
    expected: dict[str, Tensor] = {}
    for progress, now in trajectory["step"]:
        if progress < start:
            continue
        for key, value in now.items():
            if not value.is_floating_point():
                expected[key] = value
            else:
                value = value.double()
                expected[key] = decay * expected[key] + (1 - decay) * value if key in expected else value
    assert [progress for progress, _ in trajectory["step"]] == [step / 16 for step in range(1, 17)]
    stored = load_file(only_run("runs").model)
    assert stored.keys() == expected.keys()
    for key, value in stored.items():
        torch.testing.assert_close(value.to(expected[key].dtype), expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("start", [None, 0.5], ids=["default", "early"])
def test_swa(fsbench, trajectory, start) -> None:
    """Weights: the mean over epochs' ends. Statistics: the mean of the batches', each by itself, at these weights."""
    options = [] if start is None else [f"trainer.average_start={start}"]
    assert fsbench("train", *BATCHNORM, "optimizer=sam", "trainer.average=swa", *options).code == 0
    ends = [now for progress, now in trajectory["epoch"] if progress >= (0.75 if start is None else start)]
    assert len(ends) == (2 if start is None else 3)
    stored = load_file(only_run("runs").model)
    (network,) = trajectory["network"]
    parameters = dict(network.named_parameters())
    for key in parameters:
        mean = sum(now[key].double() for now in ends) / len(ends)
        torch.testing.assert_close(stored[key].double(), mean, rtol=1e-5, atol=1e-6)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    model = copy.deepcopy(network).train()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def note(module, inputs, name=name):
                x = inputs[0]
                found.setdefault(name, []).append((x.mean((0, 2, 3)), x.var((0, 2, 3))))

            module.register_forward_pre_hook(note)
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        for x in trajectory["batches"]:
            model(x)
    assert len(trajectory["batches"]) == 4
    for name, of_batches in found.items():
        assert int(stored[f"{name}.num_batches_tracked"]) == 4
        if name == first:  # behind dropout the draws differ
            for key, values in zip(("running_mean", "running_var"), zip(*of_batches, strict=True), strict=True):
                torch.testing.assert_close(stored[f"{name}.{key}"], sum(values) / 4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_the_training_is_the_same_and_the_average_is_evaluated(fsbench, kind) -> None:
    """Rows of training are those without an average; what is said of test images is said of the stored network."""
    assert fsbench("train", *BATCHNORM, "runs_dir=plain").code == 0
    assert fsbench("train", *BATCHNORM, f"trainer.average={kind}", "runs_dir=averaged").code == 0
    plain, averaged = only_run("plain"), only_run("averaged")
    for mine, theirs in zip(rows(averaged), rows(plain), strict=True):
        assert mine["train_loss"] == theirs["train_loss"]
    assert rows(averaged)[-1]["test_loss"] != rows(plain)[-1]["test_loss"]
    assert rows(averaged)[-1]["test_loss"] == averaged.read_results()["test_loss"]
    ended = fsbench("evaluate", f"run={averaged.path}")
    assert ended.code == 0, ended.err
    assert f"{100 * averaged.read_results()['test_accuracy']:.2f}" in ended.out
    if kind == "swa":  # until then the network itself
        assert [r["test_loss"] for r in rows(averaged)][:2] == [r["test_loss"] for r in rows(plain)][:2]


@pytest.mark.parametrize(
    ("average", "same"),
    [(["ema", "trainer.average_decay=0"], True), (["swa", "trainer.average_start=0.9"], True), (["ema"], False)],
    ids=["ema-of-nothing", "swa-of-one", "ema"],
)
def test_an_average_of_the_last_weights_alone_is_the_run_without(fsbench, quick, average, same) -> None:
    assert fsbench("train", *quick, "optimizer=asam", "runs_dir=plain").code == 0
    kind, *more = average
    line = [*quick, "optimizer=asam", "runs_dir=averaged", f"trainer.average={kind}", *more]
    assert fsbench("train", *line).code == 0
    mine, theirs = load_file(only_run("averaged").model), load_file(only_run("plain").model)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs) == same
    found, expected = (
        {key: value for key, value in only_run(root).read_results().items() if key not in TIMES}
        for root in ("averaged", "plain")
    )
    assert (found == expected) == same


def test_the_last_checkpoint_holds_what_is_stored(fsbench, monkeypatch) -> None:
    """Killed between its last checkpoint and its summary a run ends as it would have."""
    line = [*BATCHNORM, "trainer.average=swa", "trainer.average_start=0"]
    assert fsbench("train", *line, "runs_dir=straight").code == 0
    finish = run_module.finish
    monkeypatch.setattr(run_module, "finish", lambda *given: (_ for _ in ()).throw(ZeroDivisionError))
    assert fsbench("train", *line, "runs_dir=broken").code == 1
    monkeypatch.setattr(run_module, "finish", finish)
    assert fsbench("train", *line, "runs_dir=broken").code == 0
    mine, theirs = load_file(only_run("broken").model), load_file(only_run("straight").model)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_two_devices_average_as_one_does(fsbench, kind) -> None:
    line = [*BATCHNORM, "model.dropout=0", "trainer.epochs=2", "trainer.sync_batchnorm=true"]
    # A small rate, at which rounding stays as small as it is.
    line += ["optimizer=sgd", "optimizer.lr=0.001", f"trainer.average={kind}", "trainer.average_start=0.5"]
    assert fsbench("train", *line, "runs_dir=one").code == 0
    ended = fsbench("train", *line, "runs_dir=two", "trainer.devices=2", "trainer.device=cpu")
    assert ended.code == 0, ended.err
    one, two = only_run("one"), only_run("two")
    assert one.path.name == two.path.name
    mine, theirs = load_file(two.model), load_file(one.model)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-5)
    assert rows(two)[-1]["test_loss"] == pytest.approx(rows(one)[-1]["test_loss"], rel=1e-4)


def test_runs_without_an_average_keep_their_identity() -> None:
    def config(*line: str) -> dict:
        (job,) = compose_jobs(list(line), multirun=False)
        return job.config.model_dump(mode="json")

    older = config()
    for key in ("average", "average_decay", "average_start"):
        del older["trainer"][key]
    lines = [(), ("trainer.average=ema",), ("trainer.average=ema", "trainer.average_decay=0.9"),
             ("trainer.average=ema", "trainer.average_start=0.5"), ("trainer.average=swa",)]  # fmt: skip
    identities = [identity(config(*line)) for line in lines]
    assert identities[0] == identity(older)
    assert len(set(identities)) == len(lines)
