"""Memory format, bf16, compiling and a fused base are ways to compute: the losses of 20 steps are the plain path's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fsbench.errors import UsageError
from fsbench.optim import ASAM, FSAM, GSAM, SAM, Descent, FisherTrace, FriendlySAM
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.evaluate import evaluate
from fsbench.training.memory_format import chosen_memory_format, memory_format_of
from fsbench.training.precision import Precision
from fsbench.training.run import compiled

CPU = torch.device("cpu")
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
METHODS: dict[str, Callable[..., Descent]] = {
    "sgd": lambda p, **o: Descent(p, torch.optim.SGD, **SGD, **o),
    "sam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, **SGD, **o),
    "sam-m": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, m=10, **SGD, **o),
    "asam": lambda p, **o: ASAM(p, torch.optim.SGD, rho=0.5, eta=0.01, **SGD, **o),
    "fsam": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, **SGD, **o),
    "gsam": lambda p, **o: GSAM(p, rho=0.05, **SGD, **o),
    "friendly": lambda p, **o: FriendlySAM(p, torch.optim.SGD, rho=0.05, **SGD, **o),
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
    dict(evaluate(model, [(x, y)], Precision("fp32", CPU), nn.CrossEntropyLoss()))
    assert seen == [(192, 1, 24, 3)] * 2
