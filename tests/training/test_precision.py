"""Autocast and loss scaling with two passes a step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from fsbench.optim import FSAM, SAM, Descent
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.precision import Precision

CPU = torch.device("cpu")


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))
    return model, torch.randn(30, 12), torch.randint(5, (30,))


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**16])
def test_the_scale_leaves_gradients_as_they_are_in_both_passes(scale) -> None:
    """Scaling by powers of two is exact in fp32, so the step must not depend on the scale at all."""
    model, x, y = problem()
    reference = copy.deepcopy(model)
    weights = []
    for network, used in ((model, scale), (reference, 1.0)):
        precision = Precision("fp32", CPU)
        precision.scale = used
        closure = BatchClosure(network, nn.CrossEntropyLoss(), precision, micro_batch_size=8)
        closure.load(x, y)
        optimizer = SAM(network.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
        optimizer.step(closure, size=len(y))
        weights.append(torch.cat([p.flatten() for p in network.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_is_near_full_precision(name) -> None:
    model, x, y = problem()
    reference = copy.deepcopy(model)
    for network, precision in ((model, Precision(name, CPU)), (reference, Precision("fp32", CPU))):
        closure = BatchClosure(network, nn.CrossEntropyLoss(), precision)
        optimizer = FSAM(network.parameters(), torch.optim.SGD, lr=0.1)
        for _ in range(5):
            closure.load(x, y)
            optimizer.step(closure, size=len(y))
        assert optimizer.skipped == 0
        assert all(p.dtype == torch.float32 for p in network.parameters())
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("bad_pass", [1, 2])
def test_overflow_in_either_pass_skips_the_step_and_halves_the_scale(bad_pass) -> None:
    model, x, y = problem()
    precision = Precision("fp16", CPU)
    closure = BatchClosure(model, nn.CrossEntropyLoss(), precision)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
    passes = []

    def overflowing(rows=None):
        loss = closure(rows)
        passes.append(rows)
        if len(passes) == bad_pass:
            model[0].weight.grad[0, 0] = math.inf
        return loss

    before = [p.clone() for p in model.parameters()]
    closure.load(x, y)
    optimizer.step(overflowing)
    precision.after_step(skipped=optimizer.skipped == 1)
    assert precision.scale == 2.0**15
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_the_scale_grows_after_enough_good_steps_and_is_resumed() -> None:
    precision = Precision("fp16", CPU)
    precision.growth_interval = 3
    for _ in range(3):
        precision.after_step(skipped=False)
    assert precision.scale == 2.0**17
    again = Precision("fp16", CPU)
    again.load_state_dict(precision.state_dict())
    assert (again.scale, again.good_steps) == (2.0**17, 0)


def test_micro_batches_and_hits_at_w() -> None:
    """The gradient is that of the whole batch; answers are counted once, where the weights are w."""
    model, x, y = problem()
    reference = copy.deepcopy(model)
    right_at_w = int((reference(x).argmax(-1) == y).sum())
    closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", CPU), micro_batch_size=7)
    closure.load(x, y)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=50.0, lr=0.0)
    loss = optimizer.step(closure, size=len(y))
    expected = nn.functional.cross_entropy(reference(x), y)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    assert int(closure.hits) == right_at_w
    closure.load(x, y)
    Descent(model.parameters(), torch.optim.SGD, lr=0.0).step(closure)
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7)
