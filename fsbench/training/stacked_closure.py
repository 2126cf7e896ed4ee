"""Losses and gradients of many networks of one shape at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fsbench.training.memory_format import memory_format_of


class StackedClosure:
    """The gradient of each member's mean loss over its own mini-batch, at stacked weights.

    The sum of the members' losses has these gradients, so one backward pass gives all: `vmap` makes one batched
    product of each linear layer, one grouped convolution of each convolution. On a CPU, where grouped convolutions are
    slow, networks with convolutions are passed one after the other.

    Args:
        model: the architecture, with no state but its parameters.
        loss: a mean over a mini-batch, of operations that can be mapped (vmap).
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        self.model, self.loss = model, loss
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self._pass = self._one_by_one if convolutional and _device(model).type == "cpu" else self._together
        self.memory_format = memory_format_of(model)

    def load(self, x: Tensor, y: Tensor) -> None:
        """Take the next mini-batches, (M, B, C, H, W) and (M, B)."""
        self.x, self.y = x, y
        self.hits: Tensor | None = None

    def __call__(self, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Losses (M,) and gradients. `hits` remembers how many of each member's answers were right at first, at w."""
        with torch.enable_grad():
            losses, gradients, logits = self._pass(weights)
        if self.hits is None:
            self.hits = (logits.argmax(-1) == self.y).sum(1)
        return losses, gradients

    def _answer(self, weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return functional_call(self.model, dict(zip(self.names, weights, strict=True)), (x,))

    def _together(self, weights: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        leaves = tuple(w.detach().requires_grad_() for w in weights)
        logits = torch.vmap(self._answer)(leaves, self.x)
        losses = torch.vmap(self.loss)(logits, self.y)
        return losses.detach(), list(torch.autograd.grad(losses.sum(), leaves)), logits.detach()

    def _one_by_one(self, weights: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        gradients = [torch.empty_like(w) for w in weights]
        losses, answers = [], []
        for member, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            leaves = tuple(w[member].detach().requires_grad_() for w in weights)
            logits = self._answer(leaves, x.contiguous(memory_format=self.memory_format))
            loss = self.loss(logits, y)
            for stack, gradient in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
                stack[member].copy_(gradient)
            losses.append(loss.detach())
            answers.append(logits.detach())
        return torch.stack(losses), gradients, torch.stack(answers)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
