"""Networks that sharpness measures are held against dense references on; float64, inputs (n, 2, 6, 6), 4 classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fsbench.sharpness.risk import Risk

CLASSES = 4


def fcnn(bias: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(72, 5, bias=bias),
        nn.ReLU(),
        nn.Linear(5, 6, bias=bias),
        nn.ReLU(),
        nn.Linear(6, CLASSES, bias=bias),
    )


def lenet(bias: bool = True) -> nn.Module:
    """Convolutions, max-pooling, linear layers."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5, bias=bias),
        nn.ReLU(),
        nn.Linear(5, CLASSES, bias=bias),
    )


class Residual(nn.Module):
    """x + bn(conv(relu(bn(conv(x))))), in place where torchvision's networks are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def resnet() -> nn.Module:
    """A strided convolution, two residual blocks with a grouped convolution each, average pooling; BatchNorm."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        Residual(3),
        Residual(3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, CLASSES),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Away from the initial zeros and ones, where a forgotten statistic would go unnoticed.
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model


def frozen() -> nn.Module:
    """The second of three linear layers is not trained."""
    model = fcnn(bias=True)
    model[3].requires_grad_(False)
    return model


class Unused(nn.Module):
    """A network with a layer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used = fcnn(bias=True)
        self.spare = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Tied(nn.Module):
    """One linear layer used on two halves of the hidden vector: linear in the shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(72, 10)
        self.shared = nn.Linear(5, 3)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x.flatten(1)))
        halves = [self.shared(half) for half in hidden.chunk(2, dim=1)]
        return self.last(torch.relu(torch.cat(halves, dim=1)))


class Functional(nn.Module):
    """A bare parameter added, another multiplied, and a layer's weight used without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(72, 5)
        self.shift = nn.Parameter(torch.randn(5) / 3)
        self.scale = nn.Parameter(torch.rand(5) + 0.5)
        self.last = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x.flatten(1)) * self.scale + self.shift)
        return nn.functional.linear(hidden, self.last.weight, self.last.bias)


class Tokens(nn.Module):
    """Linear layers along a token axis, as in vision transformers, with ReLU and an affine LayerNorm last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 4)
        self.mix = nn.Linear(4, 5, bias=False)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.relu(self.embed(x.reshape(len(x), 6, 12)))
        return self.head(torch.relu(self.mix(tokens)).mean(1))


def _prepared(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def prepared() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            return build().double().eval()

    return prepared


# All of them are piecewise linear in each weight tensor: the K-pass values are those of the Hessian.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    name: _prepared(build)
    for name, build in {
        "fcnn": fcnn,
        "fcnn_bias": lambda: fcnn(bias=True),
        "lenet": lenet,
        "lenet_no_bias": lambda: lenet(bias=False),
        "resnet": resnet,
        "frozen": frozen,
        "unused": Unused,
        "tied": Tied,
        "functional": Functional,
        "tokens": Tokens,
    }.items()
}

# Not piecewise linear: the K-pass values are those of the Gauss-Newton matrix there.
SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "gelu": _prepared(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.GELU(), nn.Linear(5, 4), nn.LayerNorm(4))
    ),
    "tanh": _prepared(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.Tanh(), nn.Linear(5, CLASSES))),
}


def batches(sizes: tuple[int, ...] = (8, 8, 5)) -> list[tuple[Tensor, Tensor]]:
    """Mini-batches, the last one uneven."""
    generator = torch.Generator().manual_seed(11)
    return [
        (
            torch.randn(size, 2, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for size in sizes
    ]


def whole(data: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])


def risk_of(name: str, loss_fn: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy) -> Risk:
    return Risk((NETWORKS | SMOOTH)[name](), loss_fn, batches())


def loss_at(risk: Risk) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """L as a function of one vector of all trained weights, and that vector; nothing but torch.func."""
    x, y = whole(list(risk.batches))
    fixed = {name: p.detach() for name, p in risk.model.named_parameters() if name not in risk.parameters}
    fixed |= dict(risk.model.named_buffers())

    def loss(w: Tensor) -> Tensor:
        parts, start = {}, 0
        for name, p in risk.parameters.items():
            parts[name] = w[start : start + p.numel()].view_as(p)
            start += p.numel()
        return risk.loss_fn(torch.func.functional_call(risk.model, {**parts, **fixed}, (x,)), y)

    return loss, torch.cat([p.detach().flatten() for p in risk.weights])


def dense_hessian(risk: Risk) -> Tensor:
    """d2 L / dw dw, (W, W), by brute force."""
    loss, w = loss_at(risk)
    return torch.autograd.functional.hessian(loss, w, vectorize=True)


def by_tensor(risk: Risk, vector: Tensor) -> dict[str, Tensor]:
    """A vector of all trained weights cut into named tensors."""
    cut = vector.split([p.numel() for p in risk.weights])
    return {name: part.view_as(p) for (name, p), part in zip(risk.parameters.items(), cut, strict=True)}
