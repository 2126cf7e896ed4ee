"""The methods written out on dense float64 vectors, as the papers print them; slow and plain on purpose."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Oracle:
    """One network as a vector w of its trained weights; SGD with momentum and weight decay on it."""

    def __init__(self, model: nn.Module, lr: float, momentum: float, weight_decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.velocity: Tensor | None = None

    @property
    def w(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters() if p.requires_grad])

    def by_name(self, value) -> Tensor:
        """The vector that is value(name) on each trained tensor."""
        return torch.cat(
            [
                torch.full((p.numel(),), float(value(name)), dtype=torch.float64)
                for name, p in self.model.named_parameters()
                if p.requires_grad
            ]
        )

    def gradient(
        self, w: Tensor, x: Tensor, y: Tensor, *, keep_statistics: bool = False, batchnorm_eval: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient at w in train mode; running statistics move only with keep_statistics."""
        model = copy.deepcopy(self.model)
        trained = [p for p in model.parameters() if p.requires_grad]
        torch.nn.utils.vector_to_parameters(w.clone(), trained)
        if batchnorm_eval:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        loss = nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
        gradients = torch.autograd.grad(loss, trained)
        if keep_statistics:
            for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
                mine.copy_(theirs)
        return loss.detach(), torch.cat([g.flatten() for g in gradients])

    def sgd(self, gradient: Tensor) -> None:
        w = self.w
        step = gradient + self.weight_decay * w
        self.velocity = step if self.velocity is None else self.momentum * self.velocity + step
        trained = [p for p in self.model.parameters() if p.requires_grad]
        torch.nn.utils.vector_to_parameters(w - self.lr * self.velocity, trained)


def ellipsoid_maximiser(gradient: Tensor, d: Tensor, rho: Tensor | float) -> Tensor:
    """rho D g / sqrt(g' D g), with D as a full matrix."""
    matrix = torch.diag(d)
    return rho * (matrix @ gradient) / torch.sqrt(gradient @ matrix @ gradient)
