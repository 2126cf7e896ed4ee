"""A recorded step is the plain one: losses step by step, counts, skipped steps; and what is not recorded."""

from __future__ import annotations

import json
import logging
import re
import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recording import Again, Elsewhere
from torch import Tensor, nn

from fsbench.config.compose import compose_jobs
from fsbench.optim import ASAM, FSAM, GSAM, SAM, Descent, FisherTrace, FriendlySAM
from fsbench.optim.random_replay import RandomReplay
from fsbench.optim.sharpness_aware import SharpnessAware
from fsbench.training import fit as fit_module
from fsbench.training import run as compiled_module
from fsbench.training import run as run_module
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.cuda_graphs import CudaRecorder, GraphedStep, records_steps
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.precision import Precision, arithmetic
from fsbench.training.progress import Progress
from fsbench.training.run import compiled
from fsbench.training.step import DeviceCounts, PlainStep

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
METHODS: dict[str, Callable[..., Descent]] = {
    "sgd": lambda p, **o: Descent(p, torch.optim.SGD, **SGD, **o),
    "clipped": lambda p, **o: Descent(p, torch.optim.SGD, max_norm=0.1, **SGD, **o),
    "adam": lambda p, **o: Descent(p, torch.optim.Adam, lr=1e-3, fused=True, **o),
    "sam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, **SGD, **o),
    "sam-m": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, m=10, **SGD, **o),
    "sam-adamw": lambda p, **o: SAM(p, torch.optim.AdamW, rho=0.05, lr=1e-3, fused=True, **o),
    "asam": lambda p, **o: ASAM(p, torch.optim.SGD, rho=0.5, eta=0.01, **SGD, **o),
    "fsam": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, **SGD, **o),
    "natural": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, natural=True, **SGD, **o),
    "gsam": lambda p, **o: GSAM(p, torch.optim.SGD, rho=0.05, **SGD, **o),
    "friendly": lambda p, **o: FriendlySAM(p, torch.optim.SGD, rho=0.05, **SGD, **o),
    "fisher-trace": lambda p, **o: FisherTrace(p, alpha=1e-2, sub_batches=4, start="immediately", **SGD, **o),
    "late": lambda p, **o: FisherTrace(p, alpha=1e-2, sub_batches=4, start="first_drop", **SGD, **o),
}


class Full(Again):
    def fits(self) -> bool:
        return False


class Broken(Again):
    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand much more")


class BrokenLater(Again):
    """Short of memory, say, for a second form of the step."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        if self.recordings:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return super().record(step)


class Wrong(Again):
    """Makes a step, but on what it saw when it was recorded."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


# Recorded steps read the learning rate in fp32.
class OnePass(Again):
    """Makes a step whose second pass is at w."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        def lazy() -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(SharpnessAware, "group_values", lambda self, key: defaultdict(float))
                step()

        return lazy


WHERE = [
    pytest.param(torch.device("cpu"), Again, torch.float64, 1e-6, id="cpu"),
    pytest.param(torch.device("cuda"), CudaRecorder, torch.float32, 2e-3, id="gpu", marks=pytest.mark.gpu),
]


def network(device: torch.device, dtype: torch.dtype, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        # A bias before BatchNorm would have a gradient of rounding alone, which Adam makes steps of.
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Dropout(dropout), nn.Flatten(), nn.Linear(32, 5),
    ).to(device, dtype)  # fmt: skip


def batches(steps: int, device: torch.device, dtype: torch.dtype, last: int = 24) -> list[tuple[Tensor, Tensor]]:
    """Every seventh has `last` rows, as at the end of an epoch."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator, dtype=dtype).to(device),
            torch.randint(5, (size,), generator=generator).to(device),
        )
        for size in (last if step % 7 == 6 else 24 for step in range(steps))
    ]


class Trained:
    """Steps and what they left: the loss summed up after every second, all counts, the weights."""

    def __init__(
        self, model: nn.Module, method: str, steps: list[tuple[Tensor, Tensor]], recorder=None, forward=None
    ) -> None:
        self.optimizer = METHODS[method](model.named_parameters(), model=model)
        device = steps[0][0].device
        closure = BatchClosure(forward or model, nn.CrossEntropyLoss(), Precision("fp32", device))
        self.step = step = PlainStep(closure, self.optimizer)
        if recorder is not None:
            self.step = step = GraphedStep(step, recorder)
        self.totals, self.losses = EpochTotals(), []
        with arithmetic("fp32", device):
            for number, (x, y) in enumerate(steps):
                for group in self.optimizer.param_groups:
                    group["lr"] = SGD["lr"] / (1 + number)
                if hasattr(self.optimizer, "compare"):
                    self.optimizer.compare = number % 5 == 0
                step(x, y, len(y), self.totals)
                if number % 2:  # some steps wait on the device
                    step.settle(self.totals)
                    self.losses.append(float(self.totals.loss))
            step.settle(self.totals)
        self.weights = [value.detach().double().cpu() for value in model.state_dict().values()]


def same(found: Trained, expected: Trained, tolerance: float) -> None:
    assert found.losses == pytest.approx(expected.losses, rel=tolerance, nan_ok=True)
    for mine, theirs in zip(found.weights, expected.weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    mine, theirs = ({**of.totals.state_dict(), "lr": 0.0} for of in (found, expected))
    assert mine.pop("digits") == pytest.approx(theirs.pop("digits"), rel=0.1)  # of rounding
    assert mine == pytest.approx(theirs, rel=10 * tolerance)
    assert found.optimizer.skipped == expected.optimizer.skipped
    assert found.optimizer.skipped_in_a_row == expected.optimizer.skipped_in_a_row


@pytest.mark.parametrize(("device", "recorder", "dtype", "tolerance"), WHERE)
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_plain_step(device, recorder, dtype, tolerance, method, caplog) -> None:
    """So are a smaller last batch's and one that compares eps, in whatever order they come."""
    steps = batches(40, device, dtype, last=17)
    expected = Trained(network(device, dtype), method, steps)
    found = Trained(network(device, dtype), method, steps, recorder(device))
    same(found, expected, tolerance)
    assert found.step.recorded == (3 if hasattr(found.optimizer, "compare") else 2)
    # The first step of "late" is not regularised.
    samples = 8 - (method == "late") if hasattr(found.optimizer, "compare") else 0
    assert found.totals.compared + found.totals.sampled == samples
    assert caplog.messages == []


def test_a_compiled_network_is_not_recorded_on_its_own() -> None:
    """Not even where the environment asks inductor for graphs of its own."""
    assert compiled_module._OPTIONS["triton.cudagraphs"] is False


COMPILERS = [
    "aot_eager",
    # Compilers warn of their own code and of other people's.
    pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]),
]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("device", "recorder", "dtype", "tolerance"), WHERE)
@pytest.mark.parametrize("method", ["sgd", "sam", "fsam", "fisher-trace"])
def test_a_compiled_network_is_recorded_too(device, recorder, dtype, tolerance, method, compiler, caplog) -> None:
    torch.compiler.reset()
    steps = batches(30, device, dtype, last=17)
    expected = Trained(network(device, dtype), method, steps)
    model = network(device, dtype)
    forward = compiled(model, device) if compiler == "inductor" else torch.compile(model, backend=compiler)
    found = Trained(model, method, steps, recorder(device), forward)
    assert found.step.recorded
    same(found, expected, tolerance)
    assert not [message for message in caplog.messages if "cuda_graph" in message]


@pytest.mark.parametrize(("device", "recorder", "dtype", "tolerance"), WHERE)
@pytest.mark.parametrize("method", ["sgd", "adam", "sam", "fsam", "gsam", "friendly", "fisher-trace"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(device, recorder, dtype, tolerance, method) -> None:
    steps = batches(20, device, dtype)
    for number in (0, 8, 9, 15, 18, 19):
        steps[number][0][3] = torch.inf
    expected = Trained(network(device, dtype), method, steps)
    found = Trained(network(device, dtype), method, steps, recorder(device))
    assert (expected.optimizer.skipped, expected.optimizer.skipped_in_a_row) == (6, 2)
    same(found, expected, tolerance)


@pytest.mark.parametrize("batchnorm", [True, False], ids=["batchnorm", "two-passes"])
@pytest.mark.parametrize("compares", [False, True], ids=["", "compares"])
@pytest.mark.parametrize("method", METHODS)
def test_a_masked_step_reads_and_makes_nothing_on_the_host(method, compares, batchnorm, monkeypatch) -> None:
    """On tensors without values, which raise where one is looked at."""
    device = torch.device("meta")
    model = network(device, torch.float32)
    if not batchnorm:
        model[1] = nn.GroupNorm(2, 8, device=device)
    optimizer = METHODS[method](model.named_parameters(), model=model)
    monkeypatch.setattr(optimizer.base, "step", lambda: None)  # the fused kernels know no such device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(RandomReplay, "_state", lambda self: (torch.get_rng_state(), None))
    closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", device))
    optimizer.compare = compares
    step = PlainStep(closure, optimizer)
    optimizer.begin()
    with Elsewhere(device) as elsewhere:
        step.masked(torch.zeros(24, 3, 8, 8, device=device), torch.zeros(24, dtype=torch.int64, device=device), 24)
    assert elsewhere.found == []


@pytest.mark.parametrize("members", [None, 2], ids=["one-run", "two-members"])
def test_what_the_device_counts(members) -> None:
    """A comparison counts where the step was taken and has a cosine; steps of another size go into the same sums."""
    runs = members or 1
    optimizers = [Descent([torch.ones(1, requires_grad=True)], torch.optim.SGD, lr=0.1) for _ in range(runs)]
    totals = [EpochTotals() for _ in range(runs)]
    optimizers[-1].skipped_in_a_row = 2
    counts = DeviceCounts(torch.device("cpu"), members)

    def each(value: float) -> Tensor:
        return torch.tensor(value if members is None else [value] * members)

    for size, taken, cosine in ((4, False, 0.5), (4, True, 0.5), (3, True, torch.nan), (3, False, 0.5)):
        counts.begin(optimizers)
        counts.add(size, each(2.0), each(1.0) > (0 if taken else 1), each(1), alignment=(each(cosine), each(3.0)))
    counts.begin(optimizers)
    counts.add(3, each(2.0), each(1.0) > 0, each(2), penalty=each(0.25), digits=each(4.5))
    counts.give(totals, optimizers)
    for total in totals:
        assert (total.steps, total.skipped, total.seen, total.hits, total.loss) == (5, 2, 10, 4, 20.0)
        assert (total.compared, total.cosine, total.length_ratio) == (1, 0.5, 3.0)
        assert (total.penalised, total.penalty, total.sampled, total.digits) == (1, 0.25, 1, 4.5)
    assert counts.longest == [1] * (runs - 1) + [3]
    assert [(one.skipped, one.skipped_in_a_row) for one in optimizers] == [(2, 0)] * runs


def recordings(method: str, recorder: Again, dropout: float = 0.0, last: int = 24) -> int:
    device = torch.device("cpu")
    Trained(network(device, torch.float32, dropout), method, batches(40, device, torch.float32, last), recorder)
    return recorder.recordings


def graphed_sgd(lr: float = 0.05) -> tuple[Descent, GraphedStep]:
    model = network(torch.device("cpu"), torch.float32)
    optimizer = Descent(model.named_parameters(), torch.optim.SGD, **{**SGD, "lr": lr}, model=model)
    closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", torch.device("cpu")))
    return optimizer, GraphedStep(PlainStep(closure, optimizer), Again(torch.device("cpu")))


def test_steps_that_are_skipped_are_seen_before_anybody_asks() -> None:
    optimizer, step = graphed_sgd()
    totals = EpochTotals()
    for number, (x, y) in enumerate(batches(34, torch.device("cpu"), torch.float32)):
        step(x * (torch.inf if number >= 6 else 1), y, len(y), totals)
    assert step.recorded
    assert optimizer.skipped_in_a_row >= 10


def test_the_longest_run_of_skipped_steps_is_seen_also_where_it_is_over() -> None:
    optimizer, step = graphed_sgd()
    totals, seen = EpochTotals(), []
    for number, (x, y) in enumerate(batches(30, torch.device("cpu"), torch.float32)):
        step(x * (torch.inf if 8 <= number < 19 else 1), y, len(y), totals)
        seen.append(step.skipped_in_a_row)
    assert (optimizer.skipped, optimizer.skipped_in_a_row, max(seen)) == (11, 0, 11)


def test_a_step_that_moves_nothing_shows_nothing() -> None:
    optimizer, step = graphed_sgd(lr=0.0)
    steps, totals = batches(10, torch.device("cpu"), torch.float32), EpochTotals()
    for x, y in steps[:8]:
        step(x, y, len(y), totals)
    assert not step.recorded
    optimizer.param_groups[0]["lr"] = 0.05
    for x, y in steps[8:]:
        step(x, y, len(y), totals)
    assert step.recorded


@pytest.mark.parametrize("stop", [9, 17], ids=["waiting-on-the-device", "second-epoch"])
def test_interrupted_between_recorded_steps_it_goes_on(fsbench, quick, monkeypatch, stop) -> None:
    monkeypatch.setattr(run_module, "records_steps", lambda *_: True)
    monkeypatch.setattr(fit_module, "CudaRecorder", Again)
    line = [*quick, "optimizer=fsam", "trainer.compare_every=0"]
    assert fsbench("train", *line, "runs_dir=straight").code == 0
    step, count = Progress.step, 0

    def signalling(self) -> None:
        nonlocal count
        count += 1
        if count == stop:
            signal.raise_signal(signal.SIGTERM)
        step(self)

    monkeypatch.setattr(Progress, "step", signalling)
    assert fsbench("train", *line, "runs_dir=broken").code == 130
    assert fsbench("train", *line, "runs_dir=broken").code == 0
    rows = {}
    for where in ("straight", "broken"):
        (metrics,) = Path(where).glob("*/metrics.jsonl")
        rows[where] = [json.loads(text) | {"seconds": 0.0} for text in metrics.read_text().splitlines()]
    # The steps after the interruption are plain again, with the learning rate in double precision.
    for mine, theirs in zip(rows["broken"], rows["straight"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


RECORDED = [
    pytest.param("sgd", 24, 1, id="one-form"),
    pytest.param("sgd", 17, 2, id="smaller-batches-between"),
    pytest.param("sam", 17, 3, id="and-comparing"),
    pytest.param("late", 24, 2, id="regularised-from-the-second-step"),
]


@pytest.mark.parametrize(("method", "last", "expected"), RECORDED)
def test_how_often_a_step_is_recorded(method, last, expected) -> None:
    assert recordings(method, Again(torch.device("cpu")), last=last) == expected


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, but for the lines here where recorders raise."""
    return [re.sub(r" \(test_cuda_graphs.py, line \d+\)$", "", message) for message in caplog.messages]


REFUSED = [
    pytest.param(Again, 0.5, "steps draw random numbers (dropout)", id="dropout"),
    pytest.param(Broken, 0.0, "CUDA error: operation not permitted when stream is capturing", id="capture-fails"),
    pytest.param(Wrong, 0.0, "a recorded step was not the plain one", id="wrong"),
    pytest.param(OnePass, 0.0, "a recorded step was not the plain one", id="without-its-second-pass"),
    pytest.param(Full, 0.0, "it would need as much memory again", id="memory"),
]


@pytest.mark.parametrize(("recorder", "dropout", "reason"), REFUSED)
def test_where_it_can_not_be_recorded_the_steps_are_plain_and_the_log_says_why(
    recorder, dropout, reason, caplog
) -> None:
    device = torch.device("cpu")
    steps = batches(20, device, torch.float64)
    torch.manual_seed(5)
    expected = Trained(network(device, torch.float64, dropout), "sam", steps)
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING):
        found = Trained(network(device, torch.float64, dropout), "sam", steps, recorder(device))
    assert found.losses == expected.losses
    assert said(caplog) == [f"trainer.cuda_graph: not used, {reason}"]


def test_a_recording_that_fails_says_why_and_leaves_nothing(monkeypatch) -> None:
    """torch's way to end it fails too then, with an error that says nothing, and before it has told the allocator."""

    class Capture:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    ended = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *of: ended.append(of), raising=False)
    recorder = object.__new__(CudaRecorder)
    recorder.stream, recorder._pool = SimpleNamespace(device_index=0), (0, 1)
    optimizer, step = graphed_sgd()
    x, y = batches(1, torch.device("cpu"), torch.float32)[0]

    def fails() -> None:
        optimizer.masked_step(lambda: loses(), len(y))

    def loses() -> Tensor:
        step.plain.closure.load(x, y)
        step.plain.closure()
        raise RuntimeError("operation not permitted when stream is capturing")

    step(x, y, len(y), EpochTotals())
    with pytest.raises(RuntimeError, match=r"^operation not permitted"):
        recorder.record(fails)
    assert ended == [(0, (0, 1))]
    step(x, y, len(y), EpochTotals())  # warns of no gradients that were there


def test_what_is_recorded_stays_in_use_where_another_form_can_not_be(caplog) -> None:
    device = torch.device("cpu")
    steps = batches(40, device, torch.float64, last=17)
    expected = Trained(network(device, torch.float64), "sgd", steps)
    found = Trained(network(device, torch.float64), "sgd", steps, BrokenLater(device))
    same(found, expected, 1e-6)
    reason = "CUDA out of memory. Tried to allocate"
    assert said(caplog) == [f"trainer.cuda_graph: used for 1 of 2 forms of the step, {reason}"]


def test_a_second_pass_that_hardly_shows_is_missed_all_the_same(monkeypatch, caplog) -> None:
    """A radius of 0.002 turns the step by less than one part in twenty."""
    monkeypatch.setitem(METHODS, "sam", lambda p, **o: SAM(p, torch.optim.SGD, rho=0.002, **SGD, **o))
    device = torch.device("cpu")
    for recorder, said in (
        (Again, []),
        (OnePass, ["trainer.cuda_graph: not used, a recorded step was not the plain one"]),
    ):
        caplog.clear()
        Trained(network(device, torch.float64), "sam", batches(20, device, torch.float64), recorder(device))
        assert caplog.messages == said


FORBIDDEN = [
    pytest.param((), "needs a GPU", id="cpu"),
    pytest.param(("trainer.population=true",), "needs a GPU", id="alone-in-a-population"),
]


@pytest.mark.parametrize(("words", "reason"), FORBIDDEN)
def test_asked_for_where_it_can_not_be_it_is_refused(fsbench, quick, words, reason, tmp_path) -> None:
    ended = fsbench("train", *quick, *words, "trainer.cuda_graph=true", "trainer.device=cpu")
    assert (ended.code, ended.err) == (2, f"fsbench: trainer.cuda_graph=true: {reason}; use false\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("words", "records"), [((), False), (("trainer.cuda_graph=false",), False),
                                                (("trainer.cuda_graph=true",), True)])  # fmt: skip
def test_steps_are_recorded_only_where_it_is_asked_for(quick, words, records) -> None:
    (job,) = compose_jobs([*quick, *words], multirun=False)
    assert records_steps(job.config, torch.device("cuda")) is records


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["mlp", "resnet20"])
@pytest.mark.parametrize("method", ["sgd", "sam", "fsam", "fisher_trace"])
def test_a_run_is_the_run_without_graphs(fsbench, model, method, precision, caplog) -> None:
    if (method, precision) == ("fisher_trace", "bf16"):
        pytest.skip("train refuses it")
    line = ["dataset=digits", f"model={model}", f"optimizer={method}", "trainer.epochs=2", "trainer.device=cuda"]
    line += ["optimizer.start=immediately"] if method == "fisher_trace" else []
    line += [f"trainer.precision={precision}", "trainer.progress=false", "trainer.batch_size=64", "optimizer.lr=0.01"]
    losses = {}
    for graph in ("true", "false"):
        assert fsbench("train", *line, f"trainer.cuda_graph={graph}", f"runs_dir={graph}").code == 0
        (metrics,) = Path(graph).glob("*/metrics.jsonl")
        losses[graph] = [json.loads(text)["train_loss"] for text in metrics.read_text().splitlines()]
    assert losses["true"] == pytest.approx(losses["false"], rel=0.05 if precision == "bf16" else 0.01)
    assert not [message for message in caplog.messages if "cuda_graph" in message]
