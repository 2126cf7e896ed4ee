"""The way to w + eps and back: exact, without new memory, whatever the layout; and fused base optimizers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from problems import Closure, batches, network_with_batchnorm
from torch import nn

from fsbench.optim import ASAM, FSAM, SAM, FisherTrace, perturbed_weights

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
METHODS = {
    "sam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.1, **SGD, **o),
    "asam": lambda p, **o: ASAM(p, torch.optim.SGD, rho=0.5, eta=0.01, **SGD, **o),
    "fsam": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, **SGD, **o),
    "fisher-trace": lambda p, **o: FisherTrace(p, torch.optim.SGD, alpha=0.01, start="immediately", **SGD, **o),
}


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "pointing-elsewhere"])
@pytest.mark.parametrize("method", METHODS)
def test_addresses_stay_and_one_copy_of_the_weights_is_kept(method, in_place, monkeypatch) -> None:
    if in_place:
        monkeypatch.setattr(perturbed_weights, "_swaps", lambda params: False)
    model = network_with_batchnorm().float()
    optimizer = METHODS[method](model.named_parameters())
    ((x, y),) = batches((8,))
    addresses, kept, seen = [], [], set()

    def closure(rows=None):
        seen.add(next(model.parameters()).data_ptr())
        return Closure(model, x.float(), y)(rows)

    for _ in range(3):
        optimizer.step(closure, size=8)
        addresses.append([p.data_ptr() for p in model.parameters()])
        kept.append(sorted(b.data_ptr() for b in optimizer._perturbed._kept.values()))
    assert addresses[0] == addresses[1] == addresses[2]
    assert kept[0] == kept[1] == kept[2]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(b.numel() for b in optimizer._perturbed._kept.values()) == sum(p.numel() for p in trained)
    # In place the second pass is at the same address, so that a captured graph finds it.
    assert len(seen) == (1 if in_place else 2)


def test_the_memory_is_no_part_of_copies_and_follows_the_weights_form() -> None:
    model = network_with_batchnorm()
    optimizer = METHODS["fsam"](model.named_parameters())
    ((x, y),) = batches((8,))
    optimizer.step(Closure(model, x, y), size=8)
    assert not copy.deepcopy(optimizer)._perturbed._kept
    assert not pickle.loads(pickle.dumps(optimizer))._perturbed._kept
    model.float()
    optimizer.state.clear()
    optimizer.step(Closure(model, x.float(), y), size=8)
    assert {b.dtype for b in optimizer._perturbed._kept.values()} == {torch.float32}


@pytest.mark.parametrize("method", METHODS)
def test_layout_is_no_part_of_the_result(method) -> None:
    weights = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = network_with_batchnorm().to(memory_format=memory_format)
        optimizer = METHODS[method](model.named_parameters())
        for x, y in batches():
            optimizer.step(Closure(model, x.contiguous(memory_format=memory_format), y), size=len(x))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_around_the_whole_step_sees_the_weights_of_each_pass(method) -> None:
    """Autocast keeps the halved weights it has made; those of w are no good beside it."""

    def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)), torch.randn(32, 12), torch.arange(32) % 5

    gradients = []
    for outside in (True, False):
        model, x, y = problem()
        optimizer = METHODS[method](model.named_parameters())

        def closure(rows=None, model=model, x=x, y=y, outside=outside):
            rows = slice(None) if rows is None else rows
            with torch.autocast("cpu", torch.bfloat16, enabled=True, cache_enabled=outside):
                loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            return loss.detach()

        with torch.autocast("cpu", torch.bfloat16, enabled=outside):
            optimizer.step(closure, size=32)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("of_state", FORMATS, ids=["state-nchw", "state-nhwc"])
@pytest.mark.parametrize("of_gradient", FORMATS, ids=["gradient-nchw", "gradient-nhwc"])
@pytest.mark.parametrize("of_weight", FORMATS, ids=["weight-nchw", "weight-nhwc"])
def test_fused_base_optimizers_get_one_layout(of_weight, of_gradient, of_state) -> None:
    """torch's fused SGD takes memory as it lies and mixes up what is laid out differently."""
    torch.manual_seed(0)
    w, g, momentum = (torch.randn(8, 4, 3, 3) for _ in range(3))
    found = []
    for fused in (False, True):
        p = nn.Parameter(w.clone().contiguous(memory_format=of_weight))
        optimizer = SAM([p], torch.optim.SGD, rho=0.1, fused=fused, **SGD)
        state = optimizer.state_dict()
        state["state"] = {0: {"momentum_buffer": momentum.clone().contiguous(memory_format=of_state)}}
        optimizer.load_state_dict(state)

        def closure(p=p):
            p.grad = g.clone().contiguous(memory_format=of_gradient)
            return torch.zeros(())

        optimizer.step(closure)
        found.append(p.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
