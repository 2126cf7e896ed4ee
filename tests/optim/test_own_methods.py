"""Methods that a user brings, as a geometry or by a hook: each equals a dense float64 reference."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence

import pytest
import torch
from oracles import Oracle
from problems import NETWORKS, Closure, batches, network_with_batchnorm, network_without_batchnorm
from torch import Tensor, nn

from fsbench.geometries import EUCLIDEAN, Geometry
from fsbench.optim import SAM, Descent, FisherTrace, SharpnessAware, perturbed_weights
from fsbench.optim.ellipsoid import inverse_or_zero, norm_of
from fsbench.optim.foreign import Foreign
from fsbench.optim.perturbed_weights import InverseMetric
from fsbench.optim.sharpness_aware import GradientAt
from fsbench.population.descent import StackedDescent

SGD = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}

# Two geometries that take a whole tensor for one entry of D.
LAYERWISE = Geometry("layerwise", lambda w, g, name, eta: w.square().sum(), {"rho": 0.05})
RATIO = Geometry(
    "ratio",
    lambda w, g, name, eta: w.norm() / (eta + g.norm()) if "weight" in name else g.square(),
    {"rho": 0.2, "eta": 0.5},
)


class GSAM(SharpnessAware):
    """Surrogate gap guided SAM (Zhuang et al. 2022): of the gradient at w, what is orthogonal to that at w + eps is
    taken away from it: it leads to a smaller gap between the two losses."""

    def __init__(self, params, base=torch.optim.SGD, *, alpha: float = 0.4, **options) -> None:
        self.alpha = alpha
        super().__init__(params, base, geometry=EUCLIDEAN, **options)

    def descend(self, params: list[Tensor], at_w: list[Tensor]) -> None:
        beside = [p.grad for p in params]
        along = sum((g * b).sum() for g, b in zip(at_w, beside, strict=True)) / norm_of(beside).square()
        for g, b in zip(at_w, beside, strict=True):
            b.sub_(g - along * b, alpha=self.alpha)


class Friendly(SharpnessAware):
    """Friendly SAM (Li et al. 2024): the mean of past gradients does not perturb."""

    def perturb(
        self, params: list[Tensor], inverse_metric: InverseMetric | None, gradient_at: GradientAt
    ) -> tuple[Sequence[Tensor], Tensor]:
        means = [self.state[p].setdefault("mean", torch.zeros_like(p)) for p in params]
        for mean, p in zip(means, params, strict=True):
            mean.lerp_(p.grad, 0.1)
        direction = [p.grad - 0.95 * mean for mean, p in zip(means, params, strict=True)]
        return direction, norm_of(direction)


class LInfinity(SharpnessAware):
    """max <g, eps> subject to ||eps||_inf <= rho."""

    def perturb(
        self, params: list[Tensor], inverse_metric: InverseMetric | None, gradient_at: GradientAt
    ) -> tuple[Sequence[Tensor], Tensor]:
        gradients = [p.grad for p in params]
        return torch._foreach_sign(gradients), 1 + 0 * norm_of(gradients)


class TwoAscentSteps(SharpnessAware):
    """eps_1 = rho/2 g/||g||, eps_2 = eps_1 + rho/2 g_1/||g_1|| with the gradient g_1 at w + eps_1."""

    def perturb(
        self, params: list[Tensor], inverse_metric: InverseMetric | None, gradient_at: GradientAt
    ) -> tuple[Sequence[Tensor], Tensor]:
        total = [torch.zeros_like(p) for p in params]
        for step in range(2):
            direction, length = super().perturb(params, inverse_metric, gradient_at)
            torch._foreach_add_(total, torch._foreach_mul(direction, inverse_or_zero(length) / 2))
            if step == 0:
                gradient_at(total, torch.ones_like(length))
        return total, 1 + 0 * length


class EverySecond(SharpnessAware):
    """The perturbation of the step before in every second one."""

    def perturb(
        self, params: list[Tensor], inverse_metric: InverseMetric | None, gradient_at: GradientAt
    ) -> tuple[Sequence[Tensor], Tensor]:
        if "kept" in self.state[params[0]]:
            return [self.state[p].pop("kept") for p in params], self.length
        direction, self.length = super().perturb(params, inverse_metric, gradient_at)
        kept = [d.clone() for d in direction]
        for p, d in zip(params, kept, strict=True):
            self.state[p]["kept"] = d
        return kept, self.length


class Reference:
    """The same methods on vectors; `parts` are the vector's tensors."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        trained = [(name, p) for name, p in oracle.model.named_parameters() if p.requires_grad]
        self.names, self.sizes = [name for name, _ in trained], [p.numel() for _, p in trained]
        self.mean: Tensor | float = 0.0
        self.kept: Tensor | None = None

    def by_tensor(self, d: Callable[[Tensor, Tensor, str], Tensor | float], g: Tensor) -> Tensor:
        parts = zip(self.oracle.w.split(self.sizes), g.split(self.sizes), self.names, strict=True)
        return torch.cat([torch.zeros_like(w) + d(w, h, name) for w, h, name in parts])

    def ellipsoid(self, g: Tensor, d: Tensor, rho: float) -> Tensor:
        return rho * d * g / torch.sqrt(g @ (d * g))

    def layerwise(self, g: Tensor, at: Callable) -> Tensor:
        return self.ellipsoid(g, self.by_tensor(lambda w, h, name: float(w @ w), g), 0.05)

    def ratio(self, g: Tensor, at: Callable) -> Tensor:
        d = self.by_tensor(lambda w, h, name: (w @ w) ** 0.5 / (0.5 + (h @ h) ** 0.5) if "weight" in name else h * h, g)
        return self.ellipsoid(g, d, 0.2)

    def sam(self, g: Tensor, at: Callable) -> Tensor:
        return 0.1 * g / g.norm()

    def friendly(self, g: Tensor, at: Callable) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * g
        d = g - 0.95 * self.mean
        return 0.1 * d / d.norm()

    def l_infinity(self, g: Tensor, at: Callable) -> Tensor:
        return 0.1 * ((g > 0).double() - (g < 0).double())

    def two_ascent_steps(self, g: Tensor, at: Callable) -> Tensor:
        first = 0.05 * g / g.norm()
        return first + 0.05 * at(first) / at(first).norm()

    def every_second(self, g: Tensor, at: Callable) -> Tensor:
        self.kept = self.sam(g, at) if (fresh := self.kept is None) else self.kept
        eps, self.kept = self.kept, self.kept if fresh else None
        return eps


def after_gsam(g: Tensor, beside: Tensor) -> Tensor:
    along = beside / beside.norm()
    return beside - 0.4 * (g - (g @ along) * along)


METHODS: dict[str, tuple[Callable[..., Descent], Callable, Callable]] = {
    "layerwise": (lambda p: SharpnessAware(p, geometry=LAYERWISE, **SGD), Reference.layerwise, lambda g, b: b),
    "ratio": (lambda p: SharpnessAware(p, geometry=RATIO, **SGD), Reference.ratio, lambda g, b: b),
    "gsam": (lambda p: GSAM(p, rho=0.1, **SGD), Reference.sam, after_gsam),
    "friendly": (lambda p: Friendly(p, geometry=EUCLIDEAN, rho=0.1, **SGD), Reference.friendly, lambda g, b: b),
    "l-infinity": (lambda p: LInfinity(p, geometry=EUCLIDEAN, rho=0.1, **SGD), Reference.l_infinity, lambda g, b: b),
    "two-ascent-steps": (
        lambda p: TwoAscentSteps(p, geometry=EUCLIDEAN, rho=0.1, **SGD), Reference.two_ascent_steps, lambda g, b: b
    ),
    "every-second": (
        lambda p: EverySecond(p, geometry=EUCLIDEAN, rho=0.1, **SGD), Reference.every_second, lambda g, b: b
    ),
}  # fmt: skip


@pytest.mark.parametrize("in_place", [False, True], ids=["parameters-point-elsewhere", "parameters-move-in-place"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_four_steps(method, network, in_place, monkeypatch) -> None:
    if in_place:
        monkeypatch.setattr(perturbed_weights, "_swaps", lambda params: False)
    build, perturbation, descent = METHODS[method]
    model = NETWORKS[network]()
    oracle = Oracle(model, **SGD)
    reference = Reference(oracle)
    optimizer = build(model.named_parameters())
    for x, y in batches((8, 8, 5, 8)):
        w = oracle.w
        loss, g = oracle.gradient(w, x, y, keep_statistics=True)
        eps = perturbation(reference, g, lambda eps, w=w, x=x, y=y: oracle.gradient(w + eps, x, y)[1])
        assert float(optimizer.step(Closure(model, x, y), size=len(x))) == pytest.approx(float(loss), rel=1e-12)
        oracle.sgd(descent(g, oracle.gradient(w + eps, x, y)[1]))
        for mine, theirs in zip(model.state_dict().values(), oracle.model.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert optimizer.skipped == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_is_not_finite_is_skipped(method) -> None:
    model = network_without_batchnorm()
    optimizer = METHODS[method][0](model.named_parameters())
    before = copy.deepcopy(model.state_dict())
    ((x, y),) = batches((8,))
    x[2, 0, 0, 0] = torch.inf
    optimizer.step(Closure(model, x, y), size=8)
    assert optimizer.skipped == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_state_of_an_own_geometry_goes_by_its_name() -> None:
    params = dict(network_without_batchnorm().named_parameters())
    state = SharpnessAware(params.items(), geometry=LAYERWISE, lr=0.1).state_dict()
    SharpnessAware(params.items(), geometry=LAYERWISE, lr=0.1).load_state_dict(state)
    for other in (SAM(params.items(), lr=0.1), SharpnessAware(params.items(), geometry=RATIO, lr=0.1)):
        with pytest.raises(ValueError, match="this is the state of layerwise"):
            other.load_state_dict(state)


STACKED = {
    "layerwise": (LAYERWISE, [{}, {"rho": 0.4}, {"rho": 0.0}]),
    "ratio": (RATIO, [{}, {"eta": 3.0}, {"rho": 1.0, "eta": 0.01}]),
}


@pytest.mark.parametrize("natural", [False, True], ids=["", "natural"])
@pytest.mark.parametrize("name", STACKED)
def test_a_fourth_geometry_in_a_population_is_itself_alone(name, natural) -> None:
    geometry, options = STACKED[name]
    networks = [network_without_batchnorm() for _ in options]
    for index, network in enumerate(networks):
        with torch.no_grad():
            torch._foreach_mul_(list(network.parameters()), 1 + 0.1 * index)
    twins = copy.deepcopy(networks)

    def built(model: nn.Module, own: dict[str, float]) -> Descent:
        return SharpnessAware(model.named_parameters(), geometry=geometry, natural=natural, **SGD, **own)

    stack = StackedDescent([built(model, own) for model, own in zip(networks, options, strict=True)])
    alone = [built(model, own) for model, own in zip(twins, options, strict=True)]
    names = [key for key, _ in networks[0].named_parameters()]
    for x, y in batches():

        def closure(weights: list[Tensor], x=x, y=y) -> tuple[Tensor, list[Tensor]]:
            def loss(weights: list[Tensor]) -> Tensor:
                output = torch.func.functional_call(networks[0], dict(zip(names, weights, strict=True)), (x,))
                return nn.functional.cross_entropy(output, y, label_smoothing=0.1)

            gradients, losses = torch.vmap(torch.func.grad_and_value(loss))(weights)
            return losses, list(gradients)

        stack.begin()
        losses, taken = stack.step(closure)
        expected = [step.step(Closure(model, x, y), size=len(x)) for step, model in zip(alone, twins, strict=True)]
        torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-11, atol=0)
        assert taken.all()
    for network, twin in zip(networks, twins, strict=True):
        for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


class Layerwise(SAM):
    """As the class hierarchy invites."""

    def inverse_metric(self, closure, rows, size) -> InverseMetric:
        return lambda params, out: [torch.full_like(p, float(p.square().sum())) for p in params]


REFUSED = [
    (lambda p: Layerwise(p, lr=0.1), "Layerwise can't be trained in a population: Layerwise does not say `stackable`"),
    (lambda p: GSAM(p, lr=0.1), "GSAM can't be trained in a population"),
    (lambda p: LInfinity(p, geometry=EUCLIDEAN, lr=0.1), "LInfinity can't be trained in a population"),
    (lambda p: FisherTrace(p, lr=0.1), "FisherTrace can't be trained in a population"),
    (lambda p: SAM(p, m=3, lr=0.1), "SAM with m=3 can't be trained in a population"),
    (lambda p: SAM(p, perturbation="local", lr=0.1), "SAM with perturbation='local' can't be trained"),
    (lambda p: SAM(p, start=0.5, lr=0.1), "SAM with start=0.5 can't be trained in a population"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message.split(" can't")[0] for _, message in REFUSED])
def test_a_population_refuses_what_does_not_say_that_it_can_be_stacked(build, message) -> None:
    members = [build(network_without_batchnorm().named_parameters()) for _ in range(2)]
    with pytest.raises(ValueError, match=re.escape(message)):
        StackedDescent(members)


def test_members_of_two_methods_are_no_population() -> None:
    params = [network_without_batchnorm().named_parameters() for _ in range(2)]
    members = [SharpnessAware(p, geometry=g, lr=0.1) for p, g in zip(params, (LAYERWISE, RATIO), strict=True)]
    with pytest.raises(ValueError, match="ratio and layerwise can't be trained in one population"):
        StackedDescent(members)


class Theirs(torch.optim.SGD):
    """SAM as others write it: both passes in its own step."""

    def step(self, closure):
        loss = closure()
        params = [p for group in self.param_groups for p in group["params"]]
        length = torch.stack([p.grad.norm() for p in params]).norm()
        moved = [0.1 * p.grad / length for p in params]
        torch._foreach_add_(params, moved)
        closure()
        torch._foreach_sub_(params, moved)
        super().step()
        return loss


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_of_theirs_that_is_not_finite_leaves_everything_as_it_was(broken) -> None:
    """Buffers too, which the first pass moves."""
    model = network_with_batchnorm()
    ((x, y),) = batches((8,))
    shared = {"max_norm": None, "model": model, "processes": None}
    optimizer = Foreign(model.named_parameters(), torch.optim.SGD, kind=Theirs, own=(), lr=0.3, **shared)
    before = copy.deepcopy(model.state_dict())
    closure = Closure(model, x, y)
    if broken == "loss":
        x[2, 0, 0, 0] = torch.inf
        optimizer.step(closure, size=8)
    else:

        def finite_loss(*rows: slice) -> Tensor:
            loss = closure(*rows)
            next(model.parameters()).grad.view(-1)[0] = torch.inf
            return loss

        optimizer.step(finite_loss, size=8)
    assert (optimizer.skipped, optimizer.skipped_in_a_row) == (1, 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
