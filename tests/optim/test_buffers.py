"""Every buffer of a module in train mode is state: it moves once a step, and both passes start with the same."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from problems import Closure, batches
from torch import Tensor, nn
from torch.ao.quantization import MovingAveragePerChannelMinMaxObserver

from fsbench.optim import FSAM, SAM, Descent, FisherTrace, running_statistics
from fsbench.optim.running_statistics import mixes_examples


class Rebinding(nn.Module):
    """A BatchNorm of one's own that puts new tensors in the place of its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moving_mean", torch.zeros(8).double())

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x - self.moving_mean
        mean = x.mean(0)
        self.moving_mean = 0.9 * self.moving_mean + 0.1 * mean.detach()
        return x - mean


class InPlace(nn.Module):
    """Batch renormalisation: what is kept scales the output in train mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_std", torch.ones(8).double())

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.running_std += 0.1 * (x.detach().std(0) - self.running_std)
        return x / self.running_std


class Codebook(nn.Module):
    """Written past torch's version counter, with a counter, and a cache that is made when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.linspace(-1, 1, 8).double())
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("cache", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.codes.data.lerp_(x.detach().mean(0), 0.1)
        if self.cache is None:
            self.cache = torch.ones(8).double()
        return x + self.cache * self.codes.clone()


class Store(nn.Module):
    """Holds what others write; never runs itself."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("constant", torch.ones(1).double().expand(8))  # repeats its memory: can't be written


class Writing(nn.Module):
    """Keeps its mean in another module, maybe in the same tensor as its sibling."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.store = Store(mean)

    def forward(self, x: Tensor) -> Tensor:
        if self.store.training:
            self.store.mean.lerp_(x.detach().mean(0), 0.1)
        return x - self.store.mean.clone() * self.store.constant

    def _apply(self, fn, recurse=True) -> nn.Module:
        return self  # is float64, and stays one tensor


class Born(nn.Module):
    """Makes its buffer when it first runs."""

    def forward(self, x: Tensor) -> Tensor:
        if "mean" not in self._buffers:
            self.register_buffer("mean", torch.zeros(8).double())
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return x - self.mean.clone()


def observer() -> nn.Module:
    """Its buffers have no values before it sees some."""
    return MovingAveragePerChannelMinMaxObserver(ch_axis=1)


def network(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), module, nn.Tanh(), nn.Linear(8, 4)).double()


NETWORKS = {
    "rebinding": lambda: network(Rebinding()),
    "in-place": lambda: network(InPlace()),
    "codebook": lambda: network(Codebook()),
    "written-by-another": lambda: network(Writing(torch.zeros(8).double())),
    "shared": lambda: network(nn.Sequential(*map(Writing, [torch.zeros(8).double()] * 2))),
    "observer": lambda: network(observer()),
    "instance-norm": lambda: network(
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten())
    ),
    "spectral-norm": lambda: network(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))),
    "spectral-norm-by-hooks": lambda: network(nn.utils.spectral_norm(nn.Linear(8, 8))),
}
METHODS = {
    "sam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.5, **o),
    "fsam-per-example": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.5, fisher="per_example", **o),
    "fisher-trace": lambda p, **o: FisherTrace(p, alpha=0.1, sub_batches=2, start="immediately", **o),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*(deprecated|spectral_norm)")


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    found = state_of(model)
    assert found.keys() == expected.keys()
    for name, buffer in found.items():
        assert torch.equal(buffer, expected[name]), name


@pytest.mark.parametrize("handed_in", [True, False], ids=["model-handed-in", "found-by-hooks"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_buffers_move_as_in_one_pass_at_w(kind, method, handed_in) -> None:
    model, once = NETWORKS[kind](), NETWORKS[kind]()
    optimizer = METHODS[method](model.named_parameters(), lr=0.0, model=model if handed_in else None)
    for x, y in batches((8, 8)):
        once(x)
        optimizer.step(Closure(model, x, y), size=8)
        assert_state(model, state_of(once))
    assert mixes_examples(model)


@pytest.mark.parametrize("method", METHODS)
def test_a_buffer_that_the_first_pass_makes_moves_once_too(method) -> None:
    model, once = network(Born()), network(Born())
    ((x, y),) = batches((8,))
    once(x)
    METHODS[method](model.named_parameters(), lr=0.0).step(Closure(model, x, y), size=8)
    assert_state(model, state_of(once))


def test_a_buffer_in_the_memory_of_a_weight_does_not_undo_the_perturbation() -> None:
    class InPlaceOnly(nn.Parameter):
        """Moved in place, as every weight on a GPU is."""

    weights = []
    for aliased in (False, True):
        model = network(nn.Identity())
        for module in (model[1], model[4]):
            module.weight = InPlaceOnly(module.weight.detach())
            if aliased:
                module.register_buffer("alias", module.weight.detach())
        ((x, y),) = batches((8,))
        METHODS["sam"](model.parameters(), lr=0.1).step(Closure(model, x, y))
        weights.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("kind", NETWORKS)
def test_both_passes_start_with_the_same_buffers(kind) -> None:
    model = NETWORKS[kind]()
    seen = []

    def closure(rows=None):
        seen.append(state_of(model))
        return Closure(model, x, y)(rows)

    ((x, y),) = batches((8,))
    for method in ("sam", "fisher-trace"):
        METHODS[method](model.named_parameters(), lr=0.0).step(closure, size=8)
    # SAM: at w and at w + eps; the regulariser: the whole at w, then two sub-batches at w and beside it.
    for a, b in ((0, 1), (2, 3), (3, 4), (5, 6)):
        assert all(torch.equal(seen[a][name], seen[b][name]) for name in seen[a])


def test_the_regulariser_sees_curvature_and_not_the_turning_vectors_of_spectral_norm() -> None:
    """R / alpha is the mean of ||g_i||^2 for each small alpha."""
    ((x, y),) = batches((8,))
    traces = []
    for alpha in (1e-3, 1e-5):
        model = NETWORKS["spectral-norm"]()
        optimizer = FisherTrace(model.parameters(), alpha=alpha, sub_batches=2, start="immediately", lr=0.0)
        optimizer.step(Closure(model, x, y), size=8)
        traces.append(float(optimizer.penalty) / alpha)
    assert traces[0] == pytest.approx(traces[1], rel=1e-2)


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("bad", [False, True], ids=["taken", "skipped"])
@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "observer"])
def test_a_skipped_step_leaves_buffers_and_every_step_leaves_their_places(kind, bad, masked) -> None:
    model, once = NETWORKS[kind](), NETWORKS[kind]()
    ((x, y),) = batches((8,))
    optimizer = METHODS["sam"](model.named_parameters(), lr=0.0, momentum=0.9, fused=True, model=model)
    optimizer.step(Closure(model, x, y), size=8)
    once(x)
    places = {name: buffer.data_ptr() for name, buffer in model.named_buffers()}
    inner = Closure(model, x, y)

    def closure() -> Tensor:
        loss = inner()
        if bad and len(inner.visited) == 2:
            next(model.parameters()).grad[0] = math.nan
        return loss

    (optimizer.masked_step if masked else optimizer.step)(closure, 8)
    if not bad:
        once(x)
    assert_state(model, state_of(once))
    assert {name: buffer.data_ptr() for name, buffer in model.named_buffers()} == places


def test_observers_that_had_no_values_have_none_after_a_skipped_step() -> None:
    model = NETWORKS["observer"]()
    before = state_of(model)
    ((x, y),) = batches((8,))
    optimizer = Descent(model.parameters(), torch.optim.SGD, lr=0.1)
    optimizer.step(Closure(model, x * math.inf, y))
    assert optimizer.skipped == 1
    assert_state(model, before)


def test_an_exception_in_the_second_pass_leaves_buffers_as_after_the_first() -> None:
    model, once = NETWORKS["in-place"](), NETWORKS["in-place"]()
    ((x, y),) = batches((8,))
    once(x)
    inner = Closure(model, x, y)

    def closure() -> Tensor:
        loss = inner()
        if len(inner.visited) == 2:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        METHODS["sam"](model.named_parameters(), lr=0.1).step(closure)
    assert_state(model, state_of(once))


def test_modules_in_eval_mode_are_left_alone() -> None:
    model = NETWORKS["codebook"]()
    model[2].eval()
    ((x, y),) = batches((8,))
    METHODS["sam"](model.named_parameters(), lr=0.0).step(Closure(model, x, y))
    assert int(model[2].calls) == 2


def test_single_examples_and_batchnorm_without_running_statistics_is_refused() -> None:
    model = network(nn.BatchNorm1d(8, track_running_stats=False))
    ((x, y),) = batches((8,))
    optimizer = METHODS["fsam-per-example"](model.named_parameters(), lr=0.1, model=model)
    with pytest.raises(ValueError, match="can't be passed through BatchNorm with track_running_stats=False"):
        optimizer.step(Closure(model, x, y), size=8)
    assert model[2].training


def test_many_bytes_of_buffers_are_not_copied_in_silence(monkeypatch) -> None:
    monkeypatch.setattr(running_statistics, "_MANY_BYTES", 63)
    model = NETWORKS["in-place"]()
    ((x, y),) = batches((8,))
    with pytest.warns(UserWarning, match="put those that hold constants in eval mode"):
        METHODS["sam"](model.named_parameters(), lr=0.0).step(Closure(model, x, y))


def test_a_compiled_network_is_not_compiled_again_for_the_second_pass() -> None:
    model = network(nn.BatchNorm1d(8))
    once = copy.deepcopy(model)
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, dynamic=False)
    optimizer = METHODS["sam"](model.named_parameters(), lr=0.1, model=model)
    for x, y in batches((8, 8, 8)):
        once.load_state_dict(model.state_dict())
        once(x)
        optimizer.step(Closure(compiled, x, y), size=8)
        assert torch.equal(model[2].running_mean, once[2].running_mean)
        assert torch.equal(model[2].num_batches_tracked, once[2].num_batches_tracked)
    assert len(compilations) == 1


@pytest.mark.parametrize("how", ["a-new-module", "in-place", "in-one-graph"])
@pytest.mark.filterwarnings("ignore:the network is compiled", "ignore:Using `torch.compile")
def test_buffers_of_a_compiled_network_that_is_not_handed_in(how) -> None:
    model, once = network(nn.BatchNorm1d(8)), network(nn.BatchNorm1d(8))
    model.register_buffer("of_the_root", torch.zeros(3))
    if how == "in-place":
        model.compile(backend="eager")
    compiled = model if how == "in-place" else torch.compile(model, backend="eager", fullgraph=how == "in-one-graph")
    ((x, y),) = batches((8,))
    once(x)
    METHODS["sam"](model.named_parameters(), lr=0.1).step(Closure(compiled, x, y))
    assert torch.equal(model[2].running_mean, once[2].running_mean)
    assert torch.equal(model[2].num_batches_tracked, once[2].num_batches_tracked)
