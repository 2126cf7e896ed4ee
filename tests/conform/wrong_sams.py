"""A plain SAM in the usual form, right, and one for each way in which such packages are wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Plain(torch.optim.Optimizer):
    """first_step and second_step around a base optimizer, as most packages have them."""

    def __init__(self, params: Any, base: Any = torch.optim.SGD, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.start: dict[Tensor, Tensor] = {}
        self.moves: dict[Tensor, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.base.param_groups, self.base.state = self.param_groups, self.state

    def axis(self, w: Tensor) -> Tensor:
        return torch.ones_like(w)

    def trained(self) -> list[tuple[dict[str, Any], Tensor]]:
        return [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]

    def norm(self, p: Tensor) -> Tensor:
        return torch.sqrt(torch.stack([(self.axis(q) * q.grad.square()).sum() for _, q in self.trained()]).sum())

    def eps(self, group: dict[str, Any], p: Tensor, norm: Tensor) -> Tensor:
        return group["rho"] * self.axis(p) * p.grad / norm if norm > 0 else torch.zeros_like(p)

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        norms = {p: self.norm(p) for _, p in self.trained()}
        self.start = {p: p.clone() for p in norms}
        self.moves = {p: self.eps(group, p, norms[p]) for group, p in self.trained()}
        for p, eps in self.moves.items():
            p.add_(eps)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        for p, start in self.start.items():
            p.copy_(start)
        self.base.step()
        if zero_grad:
            self.zero_grad()


class DownTheGradient(Plain):
    def eps(self, group, p, norm):
        return -super().eps(group, p, norm)


class Unnormalised(Plain):
    def norm(self, p):
        return torch.ones((), dtype=p.dtype)


class NormOfEachTensor(Plain):
    def norm(self, p):
        return p.grad.norm()


class Adaptive(Plain):
    """ASAM without eta that scales biases: right for those that want it, not the paper's."""

    def axis(self, w):
        return w.square()


class AdaptiveByTheFirstPower(Plain):
    def axis(self, w):
        return w.abs() + 0.01 if w.dim() > 1 else torch.ones_like(w)


class FisherByTheFirstPower(Plain):
    def axis(self, w):
        return 1 / (1 + w.grad.abs())


class OneRadius(Plain):
    def eps(self, group, p, norm):
        return super().eps(self.param_groups[0], p, norm)


class NotRestored(Plain):
    @torch.no_grad()
    def second_step(self, zero_grad=False):
        self.base.step()


class SubtractedAgain(Plain):
    """Comes back by arithmetic, which rounds."""

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        self.start = {p: p - eps for p, eps in self.moves.items()}
        super().second_step(zero_grad)


class FirstGradient(Plain):
    """Steps with the gradient at w, as if it were the base."""

    def first_step(self, zero_grad=False):
        self.gradients = {p: p.grad.clone() for _, p in self.trained()}
        super().first_step(zero_grad)

    def second_step(self, zero_grad=False):
        for p, gradient in self.gradients.items():
            p.grad = gradient
        super().second_step(zero_grad)


class MomentumLost(Plain):
    def second_step(self, zero_grad=False):
        super().second_step(zero_grad)
        self.base.state.clear()


class StateOfItsOwn(Plain):
    """What is loaded does not reach the base."""

    def load_state_dict(self, state_dict):
        torch.optim.Optimizer.load_state_dict(self, state_dict)
        self.base.param_groups = self.param_groups


class LostInACopy(Plain):
    """torch's own __getstate__, which knows nothing of the attributes of a subclass."""

    def __getstate__(self):
        return torch.optim.Optimizer.__getstate__(self)


class RateOfItsOwn(Plain):
    """Schedulers act on groups that the base does not see."""

    def __init__(self, params, base=torch.optim.SGD, rho=0.05, **options):
        super().__init__(params, base, rho, **options)
        self.param_groups = [dict(group) for group in self.param_groups]


class Division(Plain):
    def eps(self, group, p, norm):
        return group["rho"] * self.axis(p) * p.grad / norm


class Unused(Plain):
    def trained(self):
        return [(group, p) for group in self.param_groups for p in group["params"]]


class Retained(Plain):
    """A closure that steps a base inside: the loss of the second pass is returned."""

    def step(self, closure):
        closure()
        self.first_step(zero_grad=True)
        loss = closure()
        self.second_step()
        return loss
