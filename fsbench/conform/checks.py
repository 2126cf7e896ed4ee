# ruff: noqa: B905, SIM105  (what is printed as a script is as short as it can be)
"""The checks: each a sentence, and a few lines that need torch alone, so that they can be shown as a script.

A check is called with `make(params, **options)` and `step(optimizer, closure)` of the optimizer under test. It returns
how far apart the two things lie that its sentence calls equal, 0 where they are. `problem`, `watched`, `follow`,
`moved` and `apart` are printed with those that need them.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Check = Callable[..., float]


def problem() -> Any:
    """Weights, biases, and a loss of them."""
    torch.manual_seed(0)
    w = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 4), (3,))]
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))
    return w, lambda w: nn.functional.cross_entropy(x @ w[0].T + w[1], y)


def watched(optimizer: Any, w: Any, loss: Any) -> Any:
    """A closure, and the weights, the gradients and the loss of each pass through it."""
    passes: list[Any] = []

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        passes.append(([p.detach().clone() for p in w], [p.grad.clone() for p in w], float(value)))
        return value

    return closure, passes


def apart(one: Any, other: Any) -> float:
    """The largest difference of any two entries; infinite where one is not a number."""
    found = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    return math.inf if math.isnan(found) else found


def follow(make: Any, step: Any, rho: Any = 0.05, groups: Any = None, **options: Any) -> float:
    """Three steps beside those of torch's SGD with the gradient of the last pass of each."""
    w, loss = problem()
    twin = [p.detach().clone().requires_grad_() for p in w]
    optimizer = make([{"params": [p], **g} for p, g in zip(w, groups)] if groups else w, lr=0.1, rho=rho, **options)
    given = [{"params": [p], "lr": g.get("lr", 0.1)} for p, g in zip(twin, groups)] if groups else twin
    base = torch.optim.SGD(given, lr=0.1, **options)
    for _ in range(3):
        closure, passes = watched(optimizer, w, loss)
        step(optimizer, closure)
        for p, g in zip(twin, passes[-1][1]):
            p.grad = g
        base.step()
    return apart(w, twin)


def descends_from_w(make: Any, step: Any) -> float:
    """Three steps are SGD's from w with the gradient at w + eps."""
    return follow(make, step)


def momentum(make: Any, step: Any) -> float:
    """Momentum is of the gradients at w + eps, kept over steps."""
    return follow(make, step, momentum=0.9)


def nesterov(make: Any, step: Any) -> float:
    """Nesterov's momentum is the base's."""
    return follow(make, step, momentum=0.9, nesterov=True)


def weight_decay(make: Any, step: Any) -> float:
    """Weight decay acts at w, once."""
    return follow(make, step, weight_decay=0.1)


def rate_of_a_group(make: Any, step: Any) -> float:
    """Each group has the learning rate that it was given."""
    return follow(make, step, groups=[{"lr": 0.1}, {"lr": 0.01}])


def radius_of_a_group(make: Any, step: Any) -> float:
    """A group with half the rho is moved half as far."""
    w, loss = problem()
    moved = []
    for rhos in ((0.05, 0.05), (0.05, 0.025)):
        groups = [{"params": [p], "rho": rho} for p, rho in zip(w, rhos)]
        optimizer = make(groups, lr=0.0, rho=0.05)
        closure, passes = watched(optimizer, w, loss)
        step(optimizer, closure)
        moved.append([after - before for before, after in zip(passes[0][0], passes[-1][0])])
    return apart(moved[1], [moved[0][0], moved[0][1] / 2])


def no_radius(make: Any, step: Any) -> float:
    """With rho = 0 it is the base, bit for bit."""
    return follow(make, step, rho=0.0, momentum=0.9)


def weights_come_back(make: Any, step: Any) -> float:
    """With lr = 0 the weights after a step are those before it, bit for bit."""
    w, loss = problem()
    before = [p.detach().clone() for p in w]
    optimizer = make(w, lr=0.0, rho=3.0)
    step(optimizer, watched(optimizer, w, loss)[0])
    return apart(w, before)


def loss_at_w(make: Any, step: Any) -> float:
    """The loss that is returned is the one at w."""
    w, loss = problem()
    optimizer = make(w, lr=0.1, rho=0.05)
    closure, passes = watched(optimizer, w, loss)
    returned = step(optimizer, closure)
    return math.inf if returned is None else abs(float(returned) - passes[0][2])


def statistics_move_once(make: Any, step: Any) -> float:
    """BatchNorm's running statistics move once in a step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))
    once = copy.deepcopy(net)
    once(x)
    optimizer = make(net.parameters(), lr=0.1, rho=0.05)
    step(optimizer, watched(optimizer, list(net.parameters()), lambda _: nn.functional.cross_entropy(net(x), y))[0])
    return apart([net[1].running_mean, net[1].num_batches_tracked], [once[1].running_mean, once[1].num_batches_tracked])


def frozen(make: Any, step: Any) -> float:
    """A frozen weight stays, and the others move as without it."""
    w, loss = problem()
    w[0].requires_grad_(False)
    before, bias = w[0].clone(), w[1].detach().clone()
    optimizer = make(w, lr=0.1, rho=0.05)
    closure, passes = watched(optimizer, w[1:], lambda _: loss(w))
    step(optimizer, closure)
    return apart(w, [before, bias - 0.1 * passes[-1][1][0]])


def unused(make: Any, step: Any) -> float:
    """A weight that has no gradient stays, and the others move as without it."""
    w, loss = problem()
    alone = nn.Parameter(torch.ones(2, dtype=torch.float64))
    before = [p.detach().clone() for p in w]
    optimizer = make([*w, alone], lr=0.1, rho=0.05)
    closure, passes = watched(optimizer, w, loss)
    step(optimizer, closure)
    expected = [p - 0.1 * g for p, g in zip(before, passes[-1][1])]
    return apart([*w, alone], [*expected, torch.ones(2)])


def tied(make: Any, step: Any) -> float:
    """A weight that is used twice is moved once."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    net[2].weight = net[0].weight
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(3, (8,))
    w = list(net.parameters())
    before = [p.detach().clone() for p in w]
    optimizer = make(w, lr=0.1, rho=0.05)
    closure, passes = watched(optimizer, w, lambda _: nn.functional.cross_entropy(net(x), y))
    step(optimizer, closure)
    return apart(w, [p - 0.1 * g for p, g in zip(before, passes[-1][1])])


def zero_gradient(make: Any, step: Any) -> float:
    """Where the gradient is 0 the weights stay and are numbers."""
    w, loss = problem()
    before = [p.detach().clone() for p in w]
    optimizer = make(w, lr=0.1, rho=0.05)
    step(optimizer, watched(optimizer, w, lambda w: 0 * loss(w))[0])
    return apart(w, before)


def not_finite(make: Any, step: Any) -> float:
    """A pass with a loss of NaN leaves the weights where they were, whatever is raised."""
    w, loss = problem()
    before = [p.detach().clone() for p in w]
    optimizer = make(w, lr=0.1, rho=0.05)
    try:
        step(optimizer, watched(optimizer, w, lambda w: math.nan * loss(w))[0])
    except Exception:
        pass
    return apart(w, before)


def state_is_kept(make: Any, step: Any) -> float:
    """state_dict and load_state_dict go on as if nothing had been, momentum included."""
    w, loss = problem()
    optimizer = make(w, lr=0.1, rho=0.05, momentum=0.9)
    step(optimizer, watched(optimizer, w, loss)[0])
    twin = copy.deepcopy(w)
    resumed = make(twin, lr=0.1, rho=0.05, momentum=0.9)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, watched(optimizer, w, loss)[0])
    step(resumed, watched(resumed, twin, loss)[0])
    return apart(w, twin)


def schedule(make: Any, step: Any) -> float:
    """A scheduler of torch on the optimizer changes the rate of its step."""
    w, loss = problem()
    optimizer = make(w, lr=0.1, rho=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    step(optimizer, watched(optimizer, w, loss)[0])
    scheduler.step()
    before = [p.detach().clone() for p in w]
    closure, passes = watched(optimizer, w, loss)
    step(optimizer, closure)
    return apart(w, [p - 0.01 * g for p, g in zip(before, passes[-1][1])])


def accumulation(make: Any, step: Any) -> float:
    """A closure that adds up the gradients of two halves gives the step of the whole."""
    ends = []
    for parts in (1, 2):
        w, loss = problem()
        optimizer = make(w, lr=0.1, rho=0.05)

        def closure(w: Any = w, loss: Any = loss, optimizer: Any = optimizer, parts: Any = parts) -> Any:
            optimizer.zero_grad()
            for _ in range(parts):
                value = loss(w) / parts
                value.backward()
            return value * parts

        step(optimizer, closure)
        ends.append(w)
    return apart(*ends)


def clipping(make: Any, step: Any) -> float:
    """A closure that clips its gradient descends along the clipped one."""
    w, loss = problem()
    before = [p.detach().clone() for p in w]
    optimizer = make(w, lr=0.1, rho=0.05)

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        nn.utils.clip_grad_value_(w, 1e-3)
        passes.append([p.grad.clone() for p in w])
        return value

    passes: list[Any] = []
    step(optimizer, closure)
    return apart(w, [p - 0.1 * g for p, g in zip(before, passes[-1])])


def deep_copy(make: Any, step: Any) -> float:
    """A deep copy of network and optimizer goes the same way."""
    w, loss = problem()
    optimizer = make(w, lr=0.1, rho=0.05, momentum=0.9)
    step(optimizer, watched(optimizer, w, loss)[0])
    twin, copied = copy.deepcopy((w, optimizer))
    step(optimizer, watched(optimizer, w, loss)[0])
    step(copied, watched(copied, twin, loss)[0])
    return apart(w, twin)


def pickled(make: Any, step: Any) -> float:
    """An optimizer and its weights that were pickled go the same way."""
    w, loss = problem()
    optimizer = make(w, lr=0.1, rho=0.05, momentum=0.9)
    step(optimizer, watched(optimizer, w, loss)[0])
    twin, copied = pickle.loads(pickle.dumps((w, optimizer)))
    step(optimizer, watched(optimizer, w, loss)[0])
    step(copied, watched(copied, twin, loss)[0])
    return apart(w, twin)


def half_precision(make: Any, step: Any) -> float:
    """Weights in bf16 are moved, and with lr = 0 come back bit for bit."""
    w, loss = problem()
    w = [p.detach().bfloat16().requires_grad_() for p in w]
    optimizer = make(w, lr=0.0, rho=0.3)
    closure, passes = watched(optimizer, w, lambda w: loss([p.double() for p in w]))
    step(optimizer, closure)
    return apart(w, passes[0][0]) + (0 if apart(passes[0][0], passes[-1][0]) > 0 else math.inf)


def autocast(make: Any, step: Any) -> float:
    """Passes under autocast give SGD's step with the gradient at w + eps."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))

    def loss(_: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.cross_entropy(net(x), y)

    w = list(net.parameters())
    before = [p.detach().clone() for p in w]
    optimizer = make(w, lr=0.125, rho=0.05)
    closure, passes = watched(optimizer, w, loss)
    step(optimizer, closure)
    return apart(w, [p - 0.125 * g for p, g in zip(before, passes[-1][1])])


def compiled(make: Any, step: Any) -> float:
    """A network under torch.compile is trained as it is without."""
    ends = []
    for wrap in (lambda net: net, lambda net: torch.compile(net, backend="eager")):
        torch.manual_seed(0)
        net = nn.Linear(4, 3).double()
        x, y = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))
        w, run = list(net.parameters()), wrap(net)
        optimizer = make(w, lr=0.1, rho=0.05)
        loss = lambda _, run=run, x=x, y=y: nn.functional.cross_entropy(run(x), y)  # noqa: E731
        step(optimizer, watched(optimizer, w, loss)[0])
        ends.append(w)
    return apart(*ends)


def sam(w: Any, g: Any) -> Any:
    """D of SAM (Foret et al. 2021, eq. 2)."""
    return torch.ones_like(w)


def asam(w: Any, g: Any) -> Any:
    """D of ASAM (Kwon et al. 2021, eq. 3), with eta = 0.01 and biases as they are."""
    return (w.abs() + 0.01).square() if w.dim() > 1 else torch.ones_like(w)


def fsam(w: Any, g: Any) -> Any:
    """D of Fisher SAM (Kim et al. 2022, eq. 8), with eta = 1."""
    return 1 / (1 + g.square())


def moved(make: Any, step: Any, axis: Any) -> Any:
    """As vectors: the gradient and D at w, and eps, that far off the second pass is."""
    w, loss = problem()
    optimizer = make(w, lr=0.1, rho=0.05)
    closure, passes = watched(optimizer, w, loss)
    step(optimizer, closure)
    (before, gradients, _), (after, *_) = passes[0], passes[-1]
    d = [axis(w, g) for w, g in zip(before, gradients)]
    eps = [b - a for a, b in zip(before, after)]
    return [torch.cat([t.flatten() for t in tensors]) for tensors in (gradients, d, eps)]


def perturbation(make: Any, step: Any, axis: Any) -> float:
    """The second pass is at w + eps, eps = rho D g / sqrt(g' D g)."""
    g, d, eps = moved(make, step, axis)
    return apart([eps], [0.05 * d * g / (g @ (d * g)).sqrt()])


def on_its_ellipsoid(make: Any, step: Any, axis: Any) -> float:
    """eps lies on the ellipsoid eps' D^-1 eps = rho^2."""
    _, d, eps = moved(make, step, axis)
    return abs(float((eps @ (eps / d)).sqrt()) / 0.05 - 1)


def maximal(make: Any, step: Any, axis: Any) -> float:
    """No eps of its length lies higher along the gradient: g' eps = sqrt(g' D g) sqrt(eps' D^-1 eps)."""
    g, d, eps = moved(make, step, axis)
    return abs(float(g @ eps / ((g @ (d * g)) * (eps @ (eps / d))).sqrt()) - 1)


OF_THE_METHOD = (perturbation, on_its_ellipsoid, maximal)
OF_ANY = (
    descends_from_w, momentum, nesterov, weight_decay, rate_of_a_group, radius_of_a_group, no_radius, weights_come_back,
    loss_at_w, statistics_move_once, frozen, unused, tied, zero_gradient, not_finite, state_is_kept, schedule,
    accumulation, clipping, deep_copy, pickled, half_precision, autocast, compiled,
)  # fmt: skip
# Nothing else than 0 is equal.
EXACT = (no_radius, weights_come_back, half_precision)
AXES = {"sam": sam, "asam": asam, "fsam": fsam}
