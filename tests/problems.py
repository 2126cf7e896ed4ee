"""Small problems that have what real ones have: BatchNorm, biases, a frozen layer, an uneven last batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES = 4


def network_with_batchnorm() -> nn.Module:
    """Convolution, BatchNorm, a frozen linear layer in the middle, biases; float64."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * 16, 6),
        nn.ReLU(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, CLASSES),
    ).double()
    with torch.no_grad():
        # Away from the initial ones and zeros, where scaled and unscaled tensors could be confused.
        model[1].weight.mul_(1.7)
        model[1].bias.add_(0.3)
    model[6].requires_grad_(False)
    return model


def network_without_batchnorm() -> nn.Module:
    """A small perceptron with biases; float64."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 16, 7), nn.ReLU(), nn.Linear(7, CLASSES)).double()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batchnorm": network_with_batchnorm,
    "plain": network_without_batchnorm,
}


def batches(sizes: tuple[int, ...] = (8, 8, 5)) -> list[tuple[Tensor, Tensor]]:
    """Three mini-batches, the last one uneven."""
    generator = torch.Generator().manual_seed(11)
    return [
        (
            torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for size in sizes
    ]


@dataclass
class Closure:
    """The closure of the README, with a record of where it was called; fixed labels stand for sampled ones."""

    model: nn.Module
    x: Tensor
    y: Tensor
    sampled: Tensor | None = None

    def __post_init__(self) -> None:
        self.visited: list[list[Tensor]] = []

    def __call__(self, rows: slice | None = None, *, sample_labels: bool = False) -> Tensor:
        self.visited.append([p.detach().clone() for p in self.model.parameters()])
        rows = rows or slice(None)
        labels = self.sampled if sample_labels else self.y
        loss = nn.functional.cross_entropy(self.model(self.x[rows]), labels[rows], label_smoothing=0.1)
        loss.backward()
        return loss.detach()
