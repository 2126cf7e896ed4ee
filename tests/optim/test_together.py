"""All sub-batches of the regulariser in one pass, each at its own w - alpha g_i: as one after another, to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fsbench.optim import FisherTrace
from fsbench.optim.sub_batch_gradients import obstacle
from fsbench.optim.sub_batch_layers import NotTogether
from fsbench.training.precision import arithmetic

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
CLASSES = 4
SHAPE = (2, 8, 8)


class Tokens(nn.Module):
    """What a vision transformer is made of: patches, a class token, positions, attention, layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 12, 4, stride=4)
        self.first = nn.Parameter(0.1 * torch.randn(1, 1, 12))
        self.positions = nn.Parameter(0.1 * torch.randn(1, 5, 12))
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.out = nn.Linear(12, 12, bias=False)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1) + self.positions
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 12)).unbind(2)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v))
        return self.head(x[:, 0])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.linear(x.flatten(1)[:, :6])))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(128, CLASSES), nn.Parameter(torch.ones(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) * self.scale


class Flattened(nn.Module):
    """Rows of its layer are no rows of the mini-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(-1, 8)).view(len(x), 16, CLASSES).mean(1)


class Hidden(nn.Module):
    """A weight that no call shows: a view of it is what is used."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(128, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.mT.mT


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(128, 9), nn.ReLU(inplace=True), nn.Linear(9, 9, bias=False), nn.Tanh(),
        nn.Linear(9, CLASSES),
    )  # fmt: skip


def wide_perceptron() -> nn.Module:
    """Its layers are kept by their factors, the last one by its gradients where sub-batches are large."""
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 200), nn.ReLU(), nn.Linear(200, CLASSES))


def partly_frozen() -> nn.Module:
    model = perceptron()
    model[1].weight.requires_grad_(False)
    model[3].requires_grad_(False)
    model[5].bias.requires_grad_(False)
    return model


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, CLASSES),
    )  # fmt: skip


def normalised() -> nn.Module:
    """Group norms and convolutions of all sorts."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4), nn.PReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2), nn.PReLU(8), nn.GroupNorm(4, 8),
        nn.Conv2d(8, 6, 3, padding="same"), nn.Flatten(2), nn.Conv1d(6, 3, 3), nn.Flatten(), nn.Linear(42, CLASSES),
    )  # fmt: skip


def channels_last() -> nn.Module:
    return lenet().to(memory_format=torch.channels_last)


NETWORKS = [perceptron, wide_perceptron, partly_frozen, lenet, channels_last, normalised, Tokens]


def made(network: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return network().to(dtype)


def batches(sizes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, *SHAPE, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for size in sizes
    ]


class Closure:
    """The README's closure; `passes` counts its calls.

    Args:
        scale: of the loss, taken back from the gradients.
        clip: length that the gradients are cut to.
        twice: in two backward passes.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, pieces: int = 1, autocast: bool = False, scale: float = 1.0,
        clip: float | None = None, twice: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.x, self.y, self.pieces, self.autocast = model, x, y, pieces, autocast
        self.scale, self.clip, self.twice = scale, clip, twice
        self.passes = 0

    def __call__(self, rows: slice | None = None) -> Tensor:
        self.passes += 1
        x, y = self.x[rows or slice(None)], self.y[rows or slice(None)]
        total = torch.zeros(())
        for part, labels in zip(x.chunk(self.pieces), y.chunk(self.pieces), strict=True):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
                logits = self.model(part)
            share = len(part) / len(x)
            loss = share * functional.cross_entropy(logits.to(x.dtype), labels, label_smoothing=0.1)
            if self.twice:
                (loss / 2).backward(retain_graph=True)
                loss = loss / 2 + loss.detach() / 2
            (loss * self.scale).backward()
            total = total.to(loss) + loss.detach()
        gradients = [p.grad for p in self.model.parameters()]
        if self.scale != 1:
            torch._foreach_div_(gradients, self.scale)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        return total


def trained(
    model: nn.Module, together: bool | str, steps: list[tuple[Tensor, Tensor]], of_closure: dict | None = None,
    **options: object,
) -> tuple[list[float], list[int]]:  # fmt: skip
    """Losses and penalties of the steps, and the passes each took."""
    settings = {"alpha": 0.02, "beta": 3.0, "sub_batches": 4, "start": "immediately", "model": model, **SGD, **options}
    optimizer = FisherTrace(model.parameters(), together=together, **settings)
    found, passes = [], []
    torch.manual_seed(2)
    for x, y in steps:
        closure = Closure(model, x, y, **(of_closure or {}))
        found += [float(optimizer.step(closure, size=len(x))), float(optimizer.penalty)]
        passes.append(closure.passes)
    assert optimizer.skipped == 0
    return found, passes


@pytest.mark.parametrize("options", [{}, {"max_norm": 0.3}, {"full_batch": "mean"}], ids=["plain", "clipped", "mean"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_twenty_steps_are_those_of_one_after_another(network, options) -> None:
    """Also where the sub-batches of a mini-batch differ by an example, or there are fewer examples than sub-batches."""
    assert_twenty_steps_alike(network, "cpu", **options)


@pytest.mark.gpu
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_twenty_steps_are_those_of_one_after_another_on_a_gpu(network) -> None:
    assert_twenty_steps_alike(network, "cuda")


def assert_twenty_steps_alike(network, device: str, **options: object) -> None:
    sizes = (24, 24, 13, 64, 3) * 4
    steps = [(x.to(device), y.to(device)) for x, y in batches(sizes)]
    apart, at_once = made(network).to(device), made(network).to(device)
    with arithmetic("fp32", torch.device(device), repeatable=True):
        expected, passes = trained(apart, False, steps, **options)
        assert passes == [2 * min(4, size) for size in sizes]
        found, passes = trained(at_once, True, steps, **options)
    # The first mini-batch of each size is passed one sub-batch after another too, and the gradients are compared.
    firsts = {sizes.index(size) for size in sizes}
    assert passes == [2 + 2 * min(4, size) * (step in firsts) for step, size in enumerate(sizes)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for mine, theirs in zip(at_once.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


APART = [
    pytest.param(perceptron, {"pieces": 2}, 0, "a layer's input has 12 rows, the mini-batch 24", id="micro-batches"),
    pytest.param(perceptron, {"autocast": True}, 0, "autocast changes the precision on the way", id="autocast"),
    pytest.param(Twice, {}, 0, "a parameter is used twice", id="tied"),
    pytest.param(Scaled, {}, 0, "a parameter is used in mul", id="scaled"),
    pytest.param(Flattened, {}, 0, "a layer's input has 384 rows, the mini-batch 24", id="other-rows"),
    pytest.param(Hidden, {}, 0, "a parameter is used in __get__", id="derived"),
    pytest.param(
        lambda: nn.Sequential(perceptron(), nn.Dropout(0.3)), {}, 1, "the network draws random numbers", id="dropout"
    ),
]


@pytest.mark.parametrize(("network", "of_closure", "lost", "reason"), APART)
def test_what_can_not_be_passed_together_is_passed_one_after_another(network, of_closure, lost, reason) -> None:
    """The result is the same to the bit, dropout's draws included; it is tried once for each size of mini-batch."""
    steps = batches((24,) * 3)
    plain, other = made(network), made(network)
    expected, _ = trained(plain, False, steps, of_closure)
    found, passes = trained(other, "auto", steps, of_closure)
    assert found == expected
    assert passes == [9, 8, 8]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))
    with pytest.raises(NotTogether, match=f"^together=True: {reason}$"):
        trained(made(network), True, steps, of_closure)


class Centred(nn.Module):
    """Subtracts the mean over the mini-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(128, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x.flatten(1))
        return self.b((hidden - hidden.mean(0)).tanh())


class Detached(nn.Module):
    """Has the same weight on a second way without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(128, 128), nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.b(self.a(x).tanh() + functional.linear(x, self.a.weight.detach()))


class Reordered(nn.Module):
    """Rows meet the layers in another order than they came."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(128, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        order = x[:, 0].argsort()
        return self.b(self.a(x[order])[order.argsort()].tanh())


class Checkpointed(nn.Module):
    """Is run again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


OTHER = "passed together they have other gradients than one after another"
UNLIKE = [
    pytest.param(perceptron, {"scale": 1024.0}, id="scaled-loss"),
    pytest.param(perceptron, {"clip": 0.1}, id="clipped-in-the-closure"),
    pytest.param(perceptron, {"twice": True}, id="two-backward-passes"),
    pytest.param(Centred, {}, id="rows-mixed"),
    pytest.param(Detached, {}, id="without-gradient"),
    pytest.param(Reordered, {}, id="rows-reordered"),
    pytest.param(Checkpointed, {}, id="checkpointed"),
]


@pytest.mark.parametrize(("network", "of_closure"), UNLIKE)
def test_what_would_have_other_gradients_is_noticed_in_the_first_step(network, of_closure) -> None:
    steps = batches((24,) * 3)
    plain, other = made(network), made(network)
    expected, _ = trained(plain, False, steps, of_closure)
    found, _ = trained(other, "auto", steps, of_closure)
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))
    # Run again, the checkpointed network counts what it saves, and complains itself.
    with pytest.raises((NotTogether, RuntimeError), match=f"^together=True: {OTHER}$|tensors saved"):
        trained(made(network), True, steps, of_closure)


def test_a_padding_in_words_is_followed() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 3, 3), nn.Linear(192, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(functional.conv2d(x, self.a.weight, self.a.bias, padding="same").relu().flatten(1))

    steps = batches((24,) * 3)
    assert trained(made(Same), True, steps)[0] == pytest.approx(trained(made(Same), False, steps)[0], rel=1e-9)


BATCHNORM = "BatchNorm gives each sub-batch statistics of its own"
OBSTACLES = [
    pytest.param(lambda: None, "the network is not known: hand in `model`", id="unknown"),
    pytest.param(lambda: nn.Sequential(lenet(), nn.BatchNorm1d(CLASSES)), BATCHNORM, id="batchnorm"),
    pytest.param(lambda: nn.Sequential(perceptron(), nn.Dropout(0.3)), "the network draws random numbers, as dropout "
                 "does", id="dropout"),
    pytest.param(Twice, "a parameter is used twice", id="tied"),
    pytest.param(lambda: torch.compile(perceptron()), "the network is compiled", id="compiled"),
    pytest.param(perceptron, None, id="none"),
    pytest.param(Tokens, None, id="none-tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "reason"), OBSTACLES)
def test_obstacles_are_found_beforehand(network, reason) -> None:
    torch.manual_seed(3)
    model = network()
    state = torch.get_rng_state()
    assert obstacle(model, torch.zeros(2, *SHAPE)) == reason
    assert torch.equal(torch.get_rng_state(), state)
    assert model is None or all(p.grad is None for p in model.parameters())


def test_several_processes_of_torch_are_no_one_pass(monkeypatch) -> None:
    """Under DistributedDataParallel g_i is a mean over the processes."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert trained(made(perceptron), "auto", batches((24,)))[1] == [8]


@pytest.mark.parametrize(("model", "reason"), [
    (None, "the network is not known"), (nn.BatchNorm1d(3), "BatchNorm gives each sub-batch")
])  # fmt: skip
def test_together_where_it_is_impossible_is_refused(model, reason) -> None:
    with pytest.raises(ValueError, match=f"together=True: {reason}"):
        FisherTrace([nn.Parameter(torch.ones(2))], lr=0.1, together=True, model=model)
    with pytest.raises(ValueError, match="together must be 'auto', True or False, got 'maybe'"):
        FisherTrace([nn.Parameter(torch.ones(2))], lr=0.1, together="maybe")


CHOICES = [
    pytest.param(lambda: nn.Sequential(nn.Conv2d(2, 255, 3, padding=1), nn.Flatten(), nn.Linear(16320, CLASSES)), 4,
                 id="convolution"),
    pytest.param(lambda: nn.Sequential(nn.Conv2d(2, 256, 3, padding=1), nn.Flatten(), nn.Linear(16384, CLASSES)), 3,
                 id="large-convolution"),
    pytest.param(lambda: nn.Sequential(nn.Linear(8, 4096), nn.Flatten(), nn.Linear(65536, CLASSES)), 3,
                 id="linear-of-many-rows"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "passes"), CHOICES)
def test_what_auto_chooses(network, passes) -> None:
    """One sub-batch of 16: where together is slower, the try at w and two passes of its own; else the comparison."""
    steps = batches((16,), torch.float32)
    assert trained(made(network, torch.float32), "auto", steps, sub_batches=1, alpha=1e-4)[1] == [passes]
    assert trained(made(network, torch.float32), True, steps, sub_batches=1, alpha=1e-4)[1] == [4]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_rounding_of_the_difference(network) -> None:
    """With the paper's alpha = 1e-4 the difference of gradients is near rounding in float32."""

    def penalised(dtype: torch.dtype, together: bool) -> Tensor:
        """What beta adds to the gradient."""
        model = made(network, dtype)
        gradients = []
        for beta in (1.0, 0.0):
            twin = copy.deepcopy(model)
            # So strong that the sum's own rounding does not count.
            options = {
                "alpha": 1e-4,
                "beta": 1e4 * beta,
                "sub_batches": 8,
                "start": "immediately",
                "together": together,
            }
            optimizer = FisherTrace(twin.parameters(), lr=1.0, model=twin, **options)
            ((x, y),) = batches((128,), dtype)
            optimizer.step(Closure(twin, x, y), size=128)
            gradients.append(torch.cat([p.grad.flatten().double() for p in twin.parameters() if p.requires_grad]))
        return gradients[0] - gradients[1]

    exact = penalised(torch.float64, False)
    apart, at_once = (float((penalised(torch.float32, way) - exact).norm()) for way in (False, True))
    # Sums over 128 rows round more than those over 16.
    assert at_once < 3 * apart
    assert at_once < 0.02 * float(exact.norm())


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_step_that_is_not_finite_is_skipped(bad) -> None:
    model = made(perceptron)
    before = copy.deepcopy(model.state_dict())
    optimizer = FisherTrace(model.parameters(), start="immediately", model=model, together=True, **SGD)
    ((x, y),) = batches((24,))
    x[3, 0, 0, 0] = bad
    optimizer.step(Closure(model, x, y), size=24)
    assert optimizer.skipped == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
