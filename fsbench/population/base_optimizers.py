"""The base optimizers on stacked weights, each member with its own rate, momentum and decay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fsbench.optim.descent import Descent

Tensors = list[Tensor]


def by_member(values: Tensor, stack: Tensor) -> Tensor:
    """One number for each member, (M,), as it multiplies a stack (M, ...)."""
    return values.view(-1, *(1,) * (stack.ndim - 1))


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as (M, ...); each slice is laid out as the first of them."""
    stack = torch.empty_strided(
        (len(tensors), *tensors[0].shape),
        (tensors[0].numel(), *tensors[0].stride()),
        dtype=tensors[0].dtype,
        device=tensors[0].device,
    )
    for slot, tensor in zip(stack, tensors, strict=True):
        slot.copy_(tensor)
    return stack


class StackedBase(ABC):
    """A base optimizer of all members, which goes on from their states.

    Args:
        members: optimizers with one parameter group each.
        exact: learning rates are held in double precision, not in that of the weights.

    Attributes:
        rates: (M,), on the device, where each step finds its own.
        memory: lists of stacked tensors that are kept beside the weights.
    """

    memory: list[Tensors]

    def __init__(self, members: Sequence[Descent], exact: bool) -> None:
        self.members = members
        self.rates = self.numbers([0.0] * len(members), exact)
        self._sent: list[float] = []

    @property
    def groups(self) -> list[dict[str, Any]]:
        return [member.param_groups[0] for member in self.members]

    def numbers(self, values: Sequence[float], exact: bool = False) -> Tensor:
        """(M,), typed like the weights or `exact`, on their device."""
        like = self.groups[0]["params"][0]
        return torch.tensor(values, dtype=torch.float64 if exact else like.dtype).to(like.device)

    def kept(self, key: str) -> Tensors:
        """The members' states of that name, stacked; zeros where there are none yet."""
        found = []
        for same in zip(*(group["params"] for group in self.groups), strict=True):
            states = [member.state.get(p, {}).get(key) for member, p in zip(self.members, same, strict=True)]
            pairs = zip(states, same, strict=True)
            found.append(stacked([torch.zeros_like(p) if state is None else state for state, p in pairs]))
        return found

    def begin(self) -> None:
        """The host's part of a step: the device gets the rates, where they are others than before."""
        rates = [group["lr"] for group in self.groups]
        if rates != self._sent:
            # From pinned memory, which is not used again before it was read, nobody waits.
            there = torch.tensor(rates, dtype=self.rates.dtype, pin_memory=self.rates.is_cuda)
            self.rates.copy_(there, non_blocking=True)
            self._sent = rates

    @abstractmethod
    def step(self, weights: Tensors, gradients: Tensors, taken: Tensor) -> None:
        """Move the weights of the members that take the step, (M,); the gradients may be overwritten."""

    @abstractmethod
    def give(self) -> None:
        """Hand each member its slices as the state of its own optimizer."""


class StackedSGD(StackedBase):
    """torch.optim.SGD without dampening, for all members:

    g <- g + decay w;  b <- momentum b + g;  w <- w - lr b, or with Nesterov w - lr (g + momentum b).
    """

    def __init__(self, members: Sequence[Descent]) -> None:
        super().__init__(members, exact=False)
        self.momentum = self.numbers([group["momentum"] for group in self.groups])
        self.decay = self.numbers([group["weight_decay"] for group in self.groups])
        self.nesterov = self.groups[0]["nesterov"]
        self.moves, self.decays = any(self.momentum.tolist()), any(self.decay.tolist())
        self.memory = [self.kept("momentum_buffer")] if self.moves else []

    def step(self, weights: Tensors, gradients: Tensors, taken: Tensor) -> None:
        # A member that stays adds gradients of zero, decayed by nothing, to a buffer that keeps what it holds.
        back, decay = (values.where(taken, 0.0) for values in (-self.rates, self.decay))
        keeps = self.momentum.where(taken, 1.0)
        for index, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            g = g.where(by_member(taken, w), 0.0)
            if self.decays:
                g.addcmul_(w, by_member(decay, w))
            if self.moves:
                buffer = self.memory[0][index].mul_(by_member(keeps, w)).add_(g)
                g = g.addcmul_(buffer, by_member(self.momentum, w)) if self.nesterov else buffer
            w.addcmul_(g, by_member(back, w))

    def give(self) -> None:
        for i, (member, group) in enumerate(zip(self.members, self.groups, strict=True)):
            # As the optimizer itself: nothing is kept without momentum.
            if group["momentum"]:
                for p, buffer in zip(group["params"], self.memory[0], strict=True):
                    member.state[p]["momentum_buffer"] = buffer[i]


class StackedAdam(StackedBase):
    """torch.optim.Adam and AdamW for all members:

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g g;  w <- w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps),
    after g <- g + decay w, or for AdamW w <- w - lr decay w. t counts the steps that the member has taken.
    """

    def __init__(self, members: Sequence[Descent], decoupled: bool) -> None:
        # What depends on t is computed in double precision, as by torch.
        super().__init__(members, exact=True)
        self.decoupled = decoupled
        self.decay = self.numbers([group["weight_decay"] for group in self.groups])
        self.decays = any(self.decay.tolist())
        self.eps = self.numbers([group["eps"] for group in self.groups])
        self.keeps = self.numbers([group["betas"][1] for group in self.groups])
        self.betas = [self.numbers([group["betas"][k] for group in self.groups], exact=True) for k in (0, 1)]
        # 1 - beta is rounded once, as by torch.
        self.takes = [self.numbers([1 - group["betas"][k] for group in self.groups]) for k in (0, 1)]
        firsts = [member.state.get(group["params"][0], {}) for member, group in zip(members, self.groups, strict=True)]
        steps = self.numbers([float(state.get("step", 0.0)) for state in firsts], exact=True)
        self.memory = [self.kept("exp_avg"), self.kept("exp_avg_sq"), [steps]]

    def step(self, weights: Tensors, gradients: Tensors, taken: Tensor) -> None:
        averages, squares, (steps,) = self.memory
        steps += taken
        rates = self.rates.where(taken, 0.0)
        # The first step is the first taken one: before it nothing moves.
        first, second = (1 - beta ** steps.clamp(min=1) for beta in self.betas)
        size, root, shrink = (
            values.to(weights[0].dtype) for values in (-rates / first, second.sqrt(), 1 - rates * self.decay)
        )
        takes = [values.where(taken, 0.0) for values in self.takes]
        keeps, eps = self.keeps.where(taken, 1.0), self.eps.where(taken, 1.0)
        for w, g, m, v in zip(weights, gradients, averages, squares, strict=True):
            g = g.where(by_member(taken, w), 0.0)
            if self.decays and self.decoupled:
                w.mul_(by_member(shrink, w))
            elif self.decays:
                g.addcmul_(w, by_member(self.decay, w))
            m.lerp_(g, by_member(takes[0], w).expand_as(w))
            v.mul_(by_member(keeps, w)).add_(g * g * by_member(takes[1], w))
            denominator = v.sqrt().div_(by_member(root, w)).add_(by_member(eps, w))
            w.add_(m / denominator * by_member(size, w))

    def give(self) -> None:
        averages, squares, (steps,) = self.memory
        counts = steps.tolist()
        for i, (member, group) in enumerate(zip(self.members, self.groups, strict=True)):
            for p, m, v in zip(group["params"], averages, squares, strict=True):
                member.state[p].update({"step": torch.tensor(counts[i]), "exp_avg": m[i], "exp_avg_sq": v[i]})


def stacked_base(members: Sequence[Descent]) -> StackedBase:
    """The base of these members, who all have the same; it goes on from their states."""
    kind = type(members[0].base)
    return StackedSGD(members) if kind is torch.optim.SGD else StackedAdam(members, kind is torch.optim.AdamW)
