"""`trainer.population=true`: every member is the run it would have been alone."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from recording import Again, Elsewhere
from safetensors.torch import load_file
from torch import nn

from fsbench.config.augment import StandardAugment
from fsbench.config.compose import compose_jobs
from fsbench.config.optimizer import SAMOptions
from fsbench.geometries import Geometry
from fsbench.optim import ASAM, FSAM, SAM, Descent, SharpnessAware
from fsbench.population import train as population_module
from fsbench.population.descent import StackedDescent
from fsbench.population.plan import obstacle, populations
from fsbench.population.step import StackedClosure, StackedStep
from fsbench.runs.directory import RunDirectory
from fsbench.training.progress import Progress

TOGETHER = "trainer.population=true"
TIMES = {"seconds", "seconds_per_epoch", "seconds_per_step", "peak_memory"}
LENET = ("model=lenet", "dataset.image_size=12", "dataset.subset=200", "trainer.batch_size=64")

SWEEPS = {
    "sgd": (["optimizer=sgd", "optimizer.lr=0.05,0.2", "dataset.noise=0,0.4"], ()),
    "nesterov": (["base=nesterov", "base.momentum=0.5,0.9", "base.weight_decay=0,0.01"], ()),
    "no-momentum": (["base.momentum=0,0.9", "seed=0,1"], ()),
    "sam": (["optimizer=sam", "optimizer.rho=0,0.05,0.2"], ()),
    "asam": (["optimizer=asam", "optimizer.rho=0.2,1", "optimizer.eta=0.01,0.1"], ()),
    "fsam": (["optimizer=fsam", "optimizer.eta=0.1,10", "seed=0,1"], ()),
    "fsam-natural": (["optimizer=fsam", "optimizer.natural=true", "optimizer.form=additive", "seed=0,1"], ()),
    "adam": (["optimizer=adam", "optimizer.lr=0.001,0.01", "base.weight_decay=0,0.1"], ()),
    "fsam-adamw": (["optimizer=fsam", "base=adamw", "base.weight_decay=0,0.1", "seed=0,1"], ()),
    "clipped-smoothed": (["optimizer=sam", "trainer.max_norm=2", "loss.label_smoothing=0.1", "seed=0,1"], ()),
    "augmented-plateau": (["optimizer=sam", "augment=crop1_flip", "schedule=plateau", "seed=0,1"], ()),
    "validation-seeds": (["dataset.validation=200", "dataset.seed=0,1", "trainer.max_steps=13"], ()),
    "random-labels": (["dataset.random_labels=0,0.5,1", "trainer.eval_every=2"], ()),
    "lenet-fsam": (["optimizer=fsam", "seed=0,1", "dataset.noise=0,0.5"], LENET),
    "lenet-augmented": (["optimizer=sam", "augment=crop1_flip", "seed=0,1"], LENET),
}  # fmt: skip


def runs(root: str) -> dict[str, RunDirectory]:
    return {path.name: RunDirectory(path) for path in Path(root).iterdir()}


def close(mine: dict, theirs: dict) -> None:
    """Numbers that are equal to rounding; times are not looked at."""
    assert mine.keys() == theirs.keys()
    for key in mine.keys() - TIMES:
        assert mine[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key


def same_runs(mine: str, theirs: str) -> None:
    ours, others = runs(mine), runs(theirs)
    assert ours.keys() == others.keys()
    for name, run in ours.items():
        other = others[name]
        assert {p.name for p in run.path.iterdir()} == {p.name for p in other.path.iterdir()}
        rows = [[json.loads(line) for line in r.metrics.read_text().splitlines()] for r in (run, other)]
        for row, expected in zip(*rows, strict=True):
            close(row, expected)
        close(run.read_results(), other.read_results())
        weights, expected = load_file(run.model), load_file(other.model)
        assert weights.keys() == expected.keys()
        for key in weights:
            torch.testing.assert_close(weights[key], expected[key], rtol=1e-3, atol=1e-5)


FAST = ("sgd", "sam", "fsam", "adam", "lenet-fsam")


@pytest.mark.parametrize(
    "sweep", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in SWEEPS]
)
def test_members_are_the_runs_they_would_be_alone(fsbench, quick, sweep) -> None:
    overrides, more = SWEEPS[sweep]
    quick = [word for word in quick if not more or not word.startswith("model")]
    line = ["-m", *quick, *more, *overrides]
    alone = fsbench("train", *line, "runs_dir=alone")
    together = fsbench("train", *line, "runs_dir=together", TOGETHER)
    assert (alone.code, together.code) == (0, 0), together.err
    assert together.err == ""
    assert together.out.splitlines()[-1] == alone.out.splitlines()[-1]
    same_runs("together", "alone")
    count = len(runs("together"))
    for run in runs("together").values():
        assert json.loads(run.provenance.read_text())["population"] == count
        assert "epoch 1/2" in run.log.read_text()
        assert run.log.read_text().count("epoch") == len(run.metrics.read_text().splitlines())
    again = fsbench("train", *line, "runs_dir=together")
    assert again.out.endswith(f"0 done, {count} skipped, 0 failed\n")


def test_a_fourth_geometry_is_the_run_it_would_be_alone(fsbench, quick, monkeypatch) -> None:
    layerwise = Geometry("layerwise", lambda w, g, name, eta: w.square().sum(), {"rho": 0.05})
    monkeypatch.setattr(SAMOptions, "builder", partial(SharpnessAware, geometry=layerwise))
    line = ["-m", *quick, "optimizer=sam", "optimizer.rho=0.05,0.2"]
    assert fsbench("train", *line, "runs_dir=alone").code == 0
    assert fsbench("train", *line, "runs_dir=together", TOGETHER).code == 0
    same_runs("together", "alone")


def test_a_users_augmentation_is_drawn_for_each_member(fsbench, quick, monkeypatch) -> None:
    def dimmed(images, generator):
        return (images // torch.randint(1, 4, (len(images), 1, 1, 1), generator=generator)).to(torch.uint8)

    monkeypatch.setattr(StandardAugment, "builder", lambda options: dimmed)
    line = ["-m", *quick, "optimizer=sgd", "seed=0,1"]
    assert fsbench("train", *line, "runs_dir=alone").code == 0
    assert fsbench("train", *line, "runs_dir=together", TOGETHER).code == 0
    same_runs("together", "alone")


def test_a_method_that_does_not_say_that_it_can_be_stacked(fsbench, quick, monkeypatch) -> None:
    """No member becomes SAM in silence; and where its options do not say so, its runs are trained alone."""

    class Layerwise(SAM):
        def inverse_metric(self, closure, rows, size):
            return lambda params, out: [torch.full_like(p, float(p.square().sum())) for p in params]

    monkeypatch.setattr(SAMOptions, "builder", Layerwise)
    line = ["-m", *quick, "optimizer=sam", "seed=0,1", TOGETHER]
    ended = fsbench("train", *line)
    assert ended.code == 3
    assert ended.out.count("ValueError: Layerwise can't be trained in a population: Layerwise does not say") == 2
    monkeypatch.delattr(SAMOptions, "stackable")
    ended = fsbench("train", *line)
    assert ended.code == 0
    assert ended.err == "2 runs trained alone: optimizer=sam: it does not say that it can be stacked\n"


def test_a_member_that_diverges_ends_alone(fsbench, quick) -> None:
    line = ["-m", *quick, "optimizer=sam", "optimizer.lr=0.05,1e38,0.2", "trainer.max_skipped=3", "base.momentum=0"]
    alone = fsbench("train", *line, "runs_dir=alone")
    together = fsbench("train", *line, "runs_dir=together", TOGETHER)
    assert (alone.code, together.code) == (3, 3)
    assert together.out.endswith("2 done, 0 skipped, 1 failed\n")
    assert together.out.replace("together", "alone").count("failed, diverged: 3 steps in a row") == 1
    (lost,) = [line for line in together.out.splitlines() if "diverged" in line]
    assert lost.partition("] ")[2].replace("together", "alone") in alone.out
    for name, run in runs("together").items():
        other = RunDirectory(Path("alone") / name)
        assert run.status == other.status
        if run.finished:
            close(run.read_results(), other.read_results())
    assert sorted(run.status for run in runs("together").values()) == ["diverged", "done", "done"]


def test_a_skipped_step_is_skipped_by_one_member_alone(fsbench, quick, monkeypatch) -> None:
    """A member whose gradient is not finite keeps weights, momentum and Adam's count; the others step."""
    for base, options in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"weight_decay": 0.1})):
        torch.manual_seed(0)
        first = [torch.nn.Parameter(torch.randn(3, 2)) for _ in range(2)]
        members = [SAM([p], base, rho=0.1, lr=0.1, **options) for p in first]
        stack = StackedDescent(members)
        target = torch.randn(2, 3, 2)

        def closure(weights, bad=False, target=target):
            (w,) = weights
            gradient = w - target
            if bad:
                gradient[0] = torch.inf
            return 0.5 * (w - target).square().flatten(1).sum(1), [gradient]

        stack.begin()
        stack.step(closure)
        before = [p.detach().clone() for p in first]
        kept = [tensor.clone() for tensors in stack.base.memory for tensor in tensors]
        _, taken = stack.step(lambda weights, closure=closure: closure(weights, bad=True))
        assert taken.tolist() == [False, True]
        assert torch.equal(first[0], before[0])
        assert not torch.equal(first[1], before[1])
        for tensor, was in zip((t for tensors in stack.base.memory for t in tensors), kept, strict=True):
            assert torch.equal(tensor[0], was[0])
            assert not torch.equal(tensor[1], was[1])
        stack.give()
        if base is torch.optim.AdamW:
            assert [float(m.state[p]["step"]) for m, p in zip(members, first, strict=True)] == [1.0, 2.0]


def signal_after(steps: int, monkeypatch) -> None:
    step, seen = Progress.step, []

    def signalling(self) -> None:
        step(self)
        seen.append(1)
        if len(seen) == steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "step", signalling)


@pytest.mark.parametrize("method", ["fsam", "adam"])
@pytest.mark.parametrize("then", ["together", "alone"])
@pytest.mark.parametrize("steps", [2, 20], ids=["within-epoch-1", "within-epoch-2"])
def test_interrupted_members_go_on(fsbench, quick, monkeypatch, method, then, steps) -> None:
    line = ["-m", *quick, f"optimizer={method}", "seed=0,1,2"]
    fsbench("train", *line, "runs_dir=alone")
    signal_after(steps, monkeypatch)
    cut = fsbench("train", *line, "runs_dir=together", TOGETHER)
    assert cut.code == 130
    assert cut.err == f"fsbench: interrupted in epoch {1 + steps // 15}; the same command goes on from there\n"
    assert [run.status for run in runs("together").values()] == ["interrupted"] * 3
    sizes = {run.checkpoint.stat().st_size for run in runs("together").values()}
    assert max(sizes) < 4 * 4 * 1210 + 20000  # its own slices, not the stack
    ended = fsbench("train", *line, "runs_dir=together", *([TOGETHER] if then == "together" else []))
    assert ended.out.endswith("3 done, 0 skipped, 0 failed\n")
    same_runs("together", "alone")


def test_members_that_stand_elsewhere_are_trained_apart(fsbench, quick, monkeypatch) -> None:
    line = [*quick, "optimizer=sam", TOGETHER]
    fsbench("train", "-m", *line, "seed=0,1,2,3", "runs_dir=alone", "trainer.population=false")
    signal_after(3, monkeypatch)
    assert fsbench("train", "-m", *line, "seed=0,1", "runs_dir=together").code == 130
    assert fsbench("train", "-m", *line, "seed=0,1,2,3", "runs_dir=together").code == 0
    same_runs("together", "alone")


@pytest.fixture
def recorded(monkeypatch) -> list[Again]:
    """Steps of populations are recorded; the recorders, one for each set of members."""
    made = []

    def recorder(device: torch.device) -> Again:
        made.append(Again(device))
        return made[-1]

    monkeypatch.setattr(population_module, "records_steps", lambda *_: True)
    monkeypatch.setattr(population_module, "CudaRecorder", recorder)
    return made


UNEVEN = ("trainer.epochs=5", "trainer.compare_every=4", "dataset.subset=700")


@pytest.mark.parametrize(
    "sweep",
    ["fsam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "nesterov", "adam", "clipped-smoothed"))],
)
def test_recorded_members_are_those_that_are_not(fsbench, quick, recorded, caplog, sweep) -> None:
    """A smaller last batch, and steps that compare SAM's eps, have recordings of their own."""
    overrides, _ = SWEEPS[sweep]
    line = ["-m", *quick, *overrides, *UNEVEN, TOGETHER]
    assert fsbench("train", *line, "runs_dir=recorded").code == 0
    (recorder,) = recorded
    compares = sweep not in ("sgd", "adam", "nesterov")
    assert recorder.recordings == 2 + compares
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population_module, "records_steps", lambda *_: False)
        assert fsbench("train", *line, "runs_dir=plain").code == 0
    same_runs("recorded", "plain")
    assert not [message for message in caplog.messages if "cuda_graph" in message]


def test_a_recorded_member_that_diverges_ends_alone(fsbench, quick, recorded) -> None:
    """The others are recorded anew; which step it was is known twenty steps later at most."""
    line = ["-m", *quick, "optimizer=sam", "optimizer.lr=0.05,1e30,0.2", "trainer.max_skipped=3", "base.momentum=0",
            "trainer.epochs=4"]  # fmt: skip
    alone = fsbench("train", *line, "runs_dir=alone")
    together = fsbench("train", *line, "runs_dir=together", TOGETHER)
    assert (alone.code, together.code) == (3, 3)
    assert sorted(run.status for run in runs("together").values()) == ["diverged", "done", "done"]
    for name, run in runs("together").items():
        if run.finished:
            close(run.read_results(), RunDirectory(Path("alone") / name).read_results())
    assert [recorder.recordings > 0 for recorder in recorded] == [False, True]


METHODS = {
    "sgd": lambda p: Descent(p, torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: Descent(p, torch.optim.Adam, lr=0.1, weight_decay=1e-3),
    "adamw": lambda p: SAM(p, torch.optim.AdamW, rho=0.1, lr=0.1),
    "clipped": lambda p: SAM(p, rho=0.1, lr=0.1, max_norm=1.0),
    "asam": lambda p: ASAM(p, rho=0.1, lr=0.1),
    "fsam": lambda p: FSAM(p, rho=0.1, lr=0.1),
}


@pytest.mark.parametrize("network", ["mlp", "lenet"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_and_makes_nothing_on_the_host(method, network, monkeypatch) -> None:
    """On tensors without values, which raise where one is looked at, once it was assembled."""
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: [1.0] * len(self))
    device = torch.device("meta")
    layers = {
        "mlp": [nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 5)],
        "lenet": [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)],
    }
    models = [nn.Sequential(*layers[network]).to(device) for _ in range(3)]
    step = StackedStep([METHODS[method](m.named_parameters()) for m in models], models[0], nn.CrossEntropyLoss())
    step.optimizer.compare = True
    monkeypatch.undo()
    step.prepare()
    with Elsewhere(device) as elsewhere:
        step.masked(torch.zeros(3, 6, 1, 8, 8, device=device), torch.zeros(3, 6, dtype=torch.int64, device=device), 6)
    assert elsewhere.found == []


@pytest.mark.gpu
@pytest.mark.parametrize("sweep", ["sgd", "sam", "asam", "fsam", "adam", "lenet-fsam"])
def test_recorded_members_on_a_gpu(fsbench, quick, caplog, sweep) -> None:
    overrides, more = SWEEPS[sweep]
    quick = [word for word in quick if not word.startswith("trainer.device") and not (more and "model" in word)]
    line = ["-m", *quick, *more, *overrides, *UNEVEN, TOGETHER, "trainer.device=cuda"]
    for graph in ("true", "false"):
        assert fsbench("train", *line, f"runs_dir={graph}", f"trainer.cuda_graph={graph}").code == 0
    assert not [message for message in caplog.messages if "cuda_graph" in message]
    for name, run in runs("true").items():
        found, expected = (r.read_results() for r in (run, RunDirectory(Path("false") / name)))
        assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=0.01)


def test_a_failure_of_the_population_is_that_of_each_member(fsbench, quick, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("no more memory")

    monkeypatch.setattr(StackedClosure, "__call__", fails)
    ended = fsbench("train", "-m", *quick, "seed=0,1", TOGETHER)
    assert ended.code == 3
    assert ended.out.count("failed, RuntimeError: no more memory; the traceback is in") == 2
    assert [run.status for run in runs("runs").values()] == ["failed"] * 2


def test_what_can_not_be_a_member_is_trained_alone(fsbench, quick) -> None:
    line = ["-m", *quick, "optimizer=fisher_trace,sgd", "optimizer.lr=0.1,0.2", "trainer.max_steps=2"]
    ended = fsbench("train", *line, TOGETHER)
    assert ended.out.endswith("4 done, 0 skipped, 0 failed\n")
    assert ended.err == "2 runs trained alone: optimizer=fisher_trace: gradients of several sub-batches\n"
    counts = [json.loads(run.provenance.read_text()).get("population") for run in runs("runs").values()]
    assert sorted(counts, key=str) == [2, 2, None, None]


OBSTACLES = [
    (["model=resnet20"], "model.family=resnet_cifar: networks with BatchNorm or dropout"),
    (["dataset=imagenet", "model=lenet"], "dataset=imagenet: images that may be streamed from files"),
    (["optimizer=sam", "optimizer.m=8"], "optimizer.m: gradients of several sub-batches"),
    (["optimizer=fsam", "optimizer.fisher=per_example"], "optimizer.fisher: gradients of single examples"),
    (["optimizer=sam", "optimizer.perturbation=local"], "optimizer.perturbation=local: one device's own"),
    (["optimizer=sam", "optimizer.start=0.5"], "optimizer.start, optimizer.stop: one pass in a part of the training"),
    (["optimizer=gsam"], "optimizer=gsam: it takes the gradients of both passes together"),
    (["optimizer=friendly_sam"], "optimizer=friendly_sam: it keeps a mean of past gradients"),
    (["trainer.micro_batch_size=8"], "trainer.micro_batch_size: batches in pieces"),
    (["trainer.precision=bf16"], "trainer.precision=bf16: a population is trained in fp32"),
    (["trainer.average=ema"], "trainer.average=ema: averages one network"),
    (["trainer.devices=2"], "trainer.devices=2: several devices for one run"),
    (["trainer.compile=true"], "trainer.compile=true: one network is compiled"),
    (["trainer.fast_dev_run=true"], "trainer.fast_dev_run=true: two steps"),
    (["logger=tensorboard"], "logger=tensorboard: follows one run"),
    ([], None),
]


@pytest.mark.parametrize(("overrides", "reason"), OBSTACLES, ids=[" ".join(o) or "none" for o, _ in OBSTACLES])
def test_obstacles(quick, overrides, reason) -> None:
    if any(word.startswith(("model=", "dataset=")) for word in overrides):
        quick = []
    (job,) = compose_jobs([*quick, *overrides], multirun=False)
    assert obstacle(job.config) == reason


def test_groups_differ_in_own_keys_alone(quick) -> None:
    line = [*quick, TOGETHER, "seed=0,1", "optimizer.lr=0.1,0.2", "trainer.epochs=1,2"]
    jobs = compose_jobs(line, multirun=True)
    groups, alone = populations(jobs)
    assert alone == {}
    assert [{jobs[n].config.trainer.epochs for n in group} for group in groups] == [{1}, {2}]
    assert [len(group) for group in groups] == [4, 4]
    _, alone = populations(compose_jobs([*quick, TOGETHER, "trainer.epochs=1,2"], multirun=True))
    assert set(alone.values()) == {"no other run is like it but for what members may differ in"}


def test_not_on_other_executors(fsbench, quick) -> None:
    ended = fsbench("train", "-m", *quick, "seed=0,1", TOGETHER, "executor=ray")
    assert ended.code == 2
    assert ended.err == (
        "fsbench: trainer.population=true: trains the runs of a sweep in one process; use executor=serial\n"
    )
