"""What library users run into: dropout, compiled networks, copies, foreign states, groups with options of their own."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from problems import Closure, batches, network_with_batchnorm, network_without_batchnorm
from torch import nn

from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace, ellipsoid

SGD = {"lr": 0.1, "momentum": 0.9}


def network_with_dropout() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 4)).double()


def test_the_penalty_is_the_curvature_and_not_the_noise_of_dropout() -> None:
    """R ~ alpha mean ||g_i||^2 > 0, with each g_i under the mask it was drawn with."""
    model = network_with_dropout()
    ((x, y),) = batches((8,))
    optimizer = FisherTrace(model.parameters(), alpha=1e-4, sub_batches=2, start="immediately", **SGD)
    torch.manual_seed(0)
    optimizer.step(Closure(model, x, y), size=8)
    assert 0 < float(optimizer.penalty) < 1e-3


@pytest.mark.parametrize("method", [SAM, FSAM], ids=lambda m: m.__name__)
def test_both_passes_draw_one_dropout_mask_and_the_next_step_another(method) -> None:
    model = network_with_dropout()
    masks = []
    model[3].register_forward_hook(lambda module, inputs, output: masks.append((output != 0) | (inputs[0] == 0)))
    ((x, y),) = batches((8,))
    optimizer = method(model.parameters(), torch.optim.SGD, rho=1e-6, lr=0.0)
    for _ in range(2):
        optimizer.step(Closure(model, x, y), size=8)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("handed_in", [True, False], ids=["model-handed-in", "found-by-hooks"])
def test_skipped_steps_leave_running_statistics(handed_in) -> None:
    model = network_with_batchnorm()
    ((x, y),) = batches((8,))
    x[0, 0, 0, 0] = math.inf
    before = copy.deepcopy(model.state_dict())
    optimizer = Descent(model.parameters(), torch.optim.SGD, model=model if handed_in else None, **SGD)
    optimizer.step(Closure(model, x, y))
    assert optimizer.skipped == 1
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_statistics_of_a_compiled_network_move_once_a_step() -> None:
    model = network_with_batchnorm()
    compiled = torch.compile(model, backend="eager")
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, model=model, **SGD)
    ((x, y),) = batches((8,))
    for _ in range(3):
        optimizer.step(Closure(compiled, x, y))
    assert int(model[1].num_batches_tracked) == 3


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_copies_go_on_as_the_original_does(how) -> None:
    model = network_without_batchnorm()
    optimizer = FSAM(model.parameters(), torch.optim.SGD, **SGD)
    ((x, y),) = batches((8,))
    optimizer.step(Closure(model, x, y))
    twin, twins_optimizer = how((model, optimizer))
    assert twins_optimizer.param_groups is twins_optimizer.base.param_groups
    for network, stepping in ((model, optimizer), (twin, twins_optimizer)):
        stepping.step(Closure(network, x, y))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_state_of_a_bare_base_optimizer_can_be_loaded() -> None:
    model = network_without_batchnorm()
    base = torch.optim.SGD(model.parameters(), **SGD)
    ((x, y),) = batches((8,))
    Closure(model, x, y)()
    base.step()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.2, **SGD)
    optimizer.load_state_dict(base.state_dict())
    assert optimizer.param_groups[0]["rho"] == 0.2
    optimizer.step(Closure(model, x, y))


@pytest.mark.parametrize("method", [SAM, FSAM, Descent], ids=lambda m: m.__name__)
def test_a_closure_that_gives_no_gradient_is_no_error(method) -> None:
    model = network_without_batchnorm()
    options = {} if method is Descent else {"rho": 0.1}
    optimizer = method(model.parameters(), torch.optim.SGD, **SGD, **options)
    assert float(optimizer.step(lambda: torch.tensor(3.0))) == 3.0


def test_a_closure_that_returns_a_number_is_explained() -> None:
    optimizer = SAM(network_without_batchnorm().parameters(), torch.optim.SGD, rho=0.1, **SGD)
    with pytest.raises(RuntimeError, match="step needs a closure"):
        optimizer.step(lambda: 3.0)


@pytest.mark.parametrize("method", [ASAM, FSAM], ids=lambda m: m.__name__)
@pytest.mark.filterwarnings("ignore:ASAM got parameters without names")
def test_eta_of_a_group_is_its_own(method) -> None:
    model = network_without_batchnorm()
    halves = list(model[1].parameters()), list(model[3].parameters())
    optimizer = method(
        [{"params": halves[0], "eta": 2.0}, {"params": halves[1], "eta": 70.0}], torch.optim.SGD, rho=0.1, **SGD
    )
    ((x, y),) = batches((8,))
    closure = Closure(model, x, y)
    optimizer.one_pass(closure)
    with torch.no_grad():
        found = optimizer.inverse_metric(closure, None, 8)(optimizer.trained(), None)
    for d, p, eta in zip(found, [*halves[0], *halves[1]], [2.0, 2.0, 70.0, 70.0], strict=True):
        if method is FSAM:
            expected = 1 / (1 + eta * p.grad**2)
        else:
            expected = (p.detach().abs() + eta) ** 2 if p.ndim > 1 else torch.ones_like(p)
        torch.testing.assert_close(d, expected.detach())


def test_one_group_at_rho_0_is_not_all_groups() -> None:
    model = network_without_batchnorm()
    optimizer = SAM(
        [{"params": list(model[1].parameters()), "rho": 0.0}, {"params": list(model[3].parameters())}],
        torch.optim.SGD, rho=0.1, **SGD,
    )  # fmt: skip
    ((x, y),) = batches((8,))
    closure = Closure(model, x, y)
    optimizer.step(closure)
    at_w, probe = closure.visited
    assert torch.equal(at_w[0], probe[0])
    assert not torch.equal(at_w[2], probe[2])


def test_one_group_whose_rate_dropped_starts_the_regulariser_and_an_old_penalty_is_forgotten() -> None:
    model = network_without_batchnorm()
    groups = [{"params": list(model[1].parameters())}, {"params": list(model[3].parameters())}]
    optimizer = FisherTrace(groups, **SGD)
    ((x, y),) = batches((8,))
    optimizer.step(Closure(model, x, y), size=8)
    optimizer.param_groups[1]["lr"] = 0.01
    optimizer.step(Closure(model, x, y), size=8)
    assert optimizer.penalty is not None
    optimizer.beta = 0.0
    optimizer.step(Closure(model, x, y), size=8)
    assert optimizer.penalty is None


@pytest.mark.parametrize("size", [5, 13])
def test_uneven_batches_without_a_size(size) -> None:
    """The loss is that of the whole batch; sub-batches without rows do not count."""
    model = network_without_batchnorm()
    ((x, y),) = batches((size,))
    expected = Closure(copy.deepcopy(model), x, y)()
    optimizer = FisherTrace(model.parameters(), alpha=1e-3, start="immediately", **SGD)
    assert float(optimizer.step(Closure(model, x, y))) == pytest.approx(float(expected))
    assert optimizer.skipped == 0
    assert 0 < float(optimizer.penalty) < 1


def test_alignment_with_sam() -> None:
    g = [torch.tensor([3.0, 4.0], dtype=torch.float64)]
    eps = [torch.tensor([0.0, 2.0], dtype=torch.float64)]
    cosine, ratio = ellipsoid.alignment(eps, g, [0.5])
    assert float(cosine) == pytest.approx(0.8)
    assert float(ratio) == pytest.approx(4.0)


def test_schedulers_that_cycle_momentum_see_the_base_defaults() -> None:
    model = network_without_batchnorm()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, **SGD)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=10)
    ((x, y),) = batches((8,))
    seen = set()
    for _ in range(5):
        optimizer.step(Closure(model, x, y))
        scheduler.step()
        seen.add(optimizer.base.param_groups[0]["momentum"])
    assert len(seen) == 5


@pytest.mark.filterwarnings("ignore:ASAM got parameters without names")
def test_what_asam_scales_with_and_without_names() -> None:
    """BatchNorm's scale is a weight by name; without names it looks like a bias."""
    model = network_with_batchnorm()
    ((x, y),) = batches((8,))
    scaled = []
    for params in (model.named_parameters(), model.parameters()):
        optimizer = ASAM(params, torch.optim.SGD, rho=0.1, eta=9.0, **SGD)
        optimizer.one_pass(Closure(model, x, y))
        with torch.no_grad():
            metric = optimizer.inverse_metric(Closure(model, x, y), None, 8)(optimizer.trained(), None)
        scaled.append([bool((d != 1).all()) for d in metric])
    # conv weight, conv bias, BatchNorm weight, BatchNorm bias, linear weight, linear bias, last weight, last bias
    assert scaled[0] == [True, False, True, False, True, False, True, False]
    assert scaled[1] == [True, False, False, False, True, False, True, False]
