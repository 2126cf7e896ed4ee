"""Memory format, bf16, compiling and a fused base are ways to compute: the losses of 20 steps are the plain path's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fsbench.config.compose import compose_jobs
from fsbench.errors import UsageError
from fsbench.models import build_model
from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.compiled import compiled
from fsbench.training.evaluate import evaluate
from fsbench.training.memory_format import chosen_memory_format, memory_format_of
from fsbench.training.precision import Precision, arithmetic

CPU = torch.device("cpu")
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
METHODS: dict[str, Callable[..., Descent]] = {
    "sgd": lambda p, **o: Descent(p, torch.optim.SGD, **SGD, **o),
    "sam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, **SGD, **o),
    "sam-m": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, m=10, **SGD, **o),
    "asam": lambda p, **o: ASAM(p, torch.optim.SGD, rho=0.5, eta=0.01, **SGD, **o),
    "fsam": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, **SGD, **o),
    "fisher-trace": lambda p, **o: FisherTrace(p, alpha=1e-2, sub_batches=4, start="immediately", **SGD, **o),
}


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Dropout(dropout), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def batches(steps: int, sizes: tuple[int, ...] = (24,)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator),
            torch.randint(5, (size,), generator=generator),
        )
        for size in (sizes[step % len(sizes)] for step in range(steps))
    ]


def losses(
    model: nn.Module, forward: nn.Module, method: str, steps: list[tuple[Tensor, Tensor]], precision: str = "fp32",
    **options: object,
) -> list[float]:  # fmt: skip
    optimizer = METHODS[method](model.named_parameters(), model=model, **options)
    closure = BatchClosure(forward, nn.CrossEntropyLoss(), Precision(precision, CPU))
    found = []
    torch.manual_seed(2)
    for x, y in steps:
        closure.load(x, y)
        found.append(float(optimizer.step(closure, size=len(y))))
    assert optimizer.skipped == 0
    return found


@pytest.mark.parametrize("method", METHODS)
def test_channels_last(method) -> None:
    steps = batches(20)
    plain, other = network(), network().to(memory_format=torch.channels_last)
    assert losses(other, other, method, steps) == pytest.approx(losses(plain, plain, method, steps), rel=1e-4)
    assert other[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("method", METHODS)
def test_a_fused_base(method) -> None:
    steps = batches(20)
    plain, other = network(), network()
    expected = losses(plain, plain, method, steps)
    assert losses(other, other, method, steps, fused=True) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_bf16(method, memory_format) -> None:
    """Near fp32: eight bits of mantissa. The regulariser's difference needs a large alpha here; `train` refuses it."""
    steps = batches(20)
    plain, other = network(), network().to(memory_format=memory_format)
    expected = losses(plain, plain, method, steps)
    assert losses(other, other, method, steps, "bf16") == pytest.approx(expected, rel=0.03)
    assert {p.dtype for p in other.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_compiled(method) -> None:
    """Uneven batches, dropout and BatchNorm's statistics included."""
    steps = batches(20, sizes=(24, 24, 24, 17))
    plain, other = network(dropout=0.3), network(dropout=0.3)
    expected = losses(plain, plain, method, steps)
    assert losses(other, compiled(other, CPU), method, steps) == pytest.approx(expected, rel=1e-4)
    for mine, theirs in zip(other.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "lenet", "cnn"])
def test_sub_batches_together(name) -> None:
    """Uneven batches, label smoothing and clipping; and the answers at w are counted alike."""
    assert_together("cpu", name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mlp", "lenet", "cnn"])
def test_sub_batches_together_on_a_gpu(name) -> None:
    assert_together("cuda", name)


def assert_together(where: str, name: str) -> None:
    device = torch.device(where)
    narrow = {"cnn": ["model.filters=[4,4,8,8,8,8]"], "mlp": ["model.widths=[64,64]"]}
    overrides = ["dataset=cifar10", f"model={name}", *narrow.get(name, [])]
    (job,) = compose_jobs(overrides, multirun=False)
    found = []
    for together in (False, True):
        torch.manual_seed(0)
        model = build_model(job.config.model, (3, 32, 32), 10).double().to(device, memory_format=torch.channels_last)
        options = {"alpha": 1e-2, "sub_batches": 4, "start": "immediately", "max_norm": 1.0, "model": model, **SGD}
        optimizer = FisherTrace(model.named_parameters(), together=together, **options)
        closure = BatchClosure(model, nn.CrossEntropyLoss(label_smoothing=0.1), Precision("fp32", device))
        generator = torch.Generator().manual_seed(1)
        rows = []
        for step in range(20):
            size = (12, 12, 7)[step % 3]
            x = torch.randn(size, 3, 32, 32, generator=generator, dtype=torch.float64).to(device)
            closure.load(x, torch.randint(10, (size,), generator=generator).to(device))
            with arithmetic("fp32", device, repeatable=True):
                loss = optimizer.step(closure, size=size)
            rows.append([float(loss), float(optimizer.penalty), int(closure.hits)])
        assert optimizer.skipped == 0
        found.append((rows, torch.cat([p.detach().flatten() for p in model.parameters()])))
    (expected, apart), (losses, at_once) = found
    for mine, theirs in zip(losses, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)  # the closure adds up losses in float32
    torch.testing.assert_close(at_once, apart, rtol=1e-9, atol=1e-11)


FOLLOWABLE = [
    pytest.param("fp32", None, True, id="plain"),
    pytest.param("fp32", 24, True, id="one-micro-batch"),
    pytest.param("fp32", 23, False, id="micro-batches"),
    pytest.param("bf16", None, False, id="autocast"),
    pytest.param("tf32", None, False, id="rounded"),
]


@pytest.mark.parametrize(("precision", "micro_batch_size", "expected"), FOLLOWABLE)
def test_whether_a_closure_is_one_pass(precision, micro_batch_size, expected) -> None:
    closure = BatchClosure(network(), nn.CrossEntropyLoss(), Precision(precision, CPU), micro_batch_size)
    closure.load(*batches(1)[0])
    assert closure.followable is expected


def test_where_nothing_can_be_compiled_it_is_said(monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UsageError) as failure:
        compiled(network(), CPU)
    assert str(failure.value) == (
        "trainer.compile=true: torch.compile does not work here (No working C++ compiler found); "
        "use trainer.compile=false"
    )


PERCEPTRON = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
CHOSEN = [
    pytest.param("auto", network(), "fp32", "cpu", torch.channels_last, id="convolutions"),
    pytest.param("auto", PERCEPTRON, "fp32", "cpu", torch.contiguous_format, id="none"),
    pytest.param("auto", network(), "fp32", "cuda", torch.contiguous_format, id="gpu-fp32"),
    pytest.param("auto", network(), "tf32", "cuda", torch.channels_last, id="gpu-tf32"),
    pytest.param("auto", network(), "bf16", "cuda", torch.channels_last, id="gpu-bf16"),
    pytest.param("contiguous", network(), "bf16", "cpu", torch.contiguous_format, id="contiguous"),
    pytest.param("channels_last", network(), "fp32", "cuda", torch.channels_last, id="channels_last"),
]


@pytest.mark.parametrize(("name", "model", "precision", "device", "expected"), CHOSEN)
def test_which_memory_format(name, model, precision, device, expected) -> None:
    chosen = chosen_memory_format(name, model, Precision(precision, torch.device(device)))
    assert chosen == expected
    assert memory_format_of(copy.deepcopy(model).to(memory_format=chosen)) == chosen


def test_batches_come_in_the_format_of_the_network_in_training_and_evaluation() -> None:
    model = network().to(memory_format=torch.channels_last)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].stride()))
    ((x, y),) = batches(1)
    closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", CPU))
    closure.load(x, y)
    closure(slice(0, 7))
    dict(evaluate(model, [(x, y)], Precision("fp32", CPU)))
    assert seen == [(192, 1, 24, 3)] * 2
