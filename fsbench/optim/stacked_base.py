"""The base optimizers on stacked weights, each member with its own rate, momentum and decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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


class StackedBase(Protocol):
    """A base optimizer of all members.

    Attributes:
        memory: what it keeps beside the weights: lists of stacked tensors.
    """

    memory: list[Tensors]

    def begin(self) -> None:
        """The host's part of a step."""
        ...

    def step(self, weights: Tensors, gradients: Tensors, taken: Tensor) -> None:
        """Move the weights of the members that take the step, (M,); the gradients may be overwritten."""
        ...

    def give(self) -> None:
        """Hand each member its slices as the state of its own optimizer."""
        ...


class StackedSGD:
    """torch.optim.SGD without dampening, for all members:

    g <- g + decay w;  b <- momentum b + g;  w <- w - lr b, or with Nesterov w - lr (g + momentum b).
    """

    def __init__(self, members: Sequence[Descent]) -> None:
        self.members = members
        self._params = [_params(member) for member in members]
        groups = [member.param_groups[0] for member in members]
        like = self._params[0][0]
        self.momentum = _numbers([group["momentum"] for group in groups], like)
        self.decay = _numbers([group["weight_decay"] for group in groups], like)
        self.nesterov = groups[0]["nesterov"]
        self.moves, self.decays = any(self.momentum.tolist()), any(self.decay.tolist())
        self.memory = [_memory(members, self._params, "momentum_buffer")] if self.moves else []
        self._rates = _Rates(members, like)

    def begin(self) -> None:
        self._rates.begin()

    def step(self, weights: Tensors, gradients: Tensors, taken: Tensor) -> None:
        # A member that stays adds gradients of zero, decayed by nothing, to a buffer that keeps what it holds.
        back, decay = (values.where(taken, 0.0) for values in (-self._rates.values, self.decay))
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
        for i, (member, params) in enumerate(zip(self.members, self._params, strict=True)):
            # As the optimizer itself: nothing is kept without momentum.
            if member.param_groups[0]["momentum"]:
                for p, buffer in zip(params, self.memory[0], strict=True):
                    member.state[p]["momentum_buffer"] = buffer[i]


class StackedAdam:
    """torch.optim.Adam and AdamW for all members:

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g g;  w <- w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps),
    after g <- g + decay w, or for AdamW w <- w - lr decay w. t counts the steps that the member has taken.
    """

    def __init__(self, members: Sequence[Descent], decoupled: bool) -> None:
        self.members, self.decoupled = members, decoupled
        self._params = [_params(member) for member in members]
        groups = [member.param_groups[0] for member in members]
        like = self._params[0][0]
        self.decay = _numbers([group["weight_decay"] for group in groups], like)
        self.decays = any(self.decay.tolist())
        self.eps = _numbers([group["eps"] for group in groups], like)
        self.keeps = _numbers([group["betas"][1] for group in groups], like)
        # 1 - beta is rounded once, as by torch.
        self.takes = [_numbers([1 - group["betas"][k] for group in groups], like) for k in (0, 1)]
        averages = [_memory(members, self._params, key) for key in ("exp_avg", "exp_avg_sq")]
        steps = [
            float(member.state[params[0]]["step"]) if "step" in member.state.get(params[0], {}) else 0.0
            for member, params in zip(members, self._params, strict=True)
        ]
        # What depends on t is computed in double precision, as by torch.
        exact = torch.zeros((), dtype=torch.float64, device=like.device)
        self.betas = [_numbers([group["betas"][k] for group in groups], exact) for k in (0, 1)]
        self.memory = [*averages, [_numbers(steps, exact)]]
        self._rates = _Rates(members, exact)

    def begin(self) -> None:
        self._rates.begin()

    def step(self, weights: Tensors, gradients: Tensors, taken: Tensor) -> None:
        averages, squares, (steps,) = self.memory
        steps += taken
        rates = self._rates.values.where(taken, 0.0)
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
        for i, (member, params) in enumerate(zip(self.members, self._params, strict=True)):
            for p, m, v in zip(params, averages, squares, strict=True):
                member.state[p].update({"step": torch.tensor(counts[i]), "exp_avg": m[i], "exp_avg_sq": v[i]})


def stacked_base(members: Sequence[Descent]) -> StackedBase:
    """The base of these members, who all have the same; it goes on from their states."""
    kind = type(members[0].base)
    return StackedSGD(members) if kind is torch.optim.SGD else StackedAdam(members, kind is torch.optim.AdamW)


def _params(member: Descent) -> Tensors:
    return member.param_groups[0]["params"]


class _Rates:
    """The members' learning rates on the device, where each step finds its own."""

    def __init__(self, members: Sequence[Descent], like: Tensor) -> None:
        self.members = members
        self.values = torch.zeros(len(members), dtype=like.dtype, device=like.device)
        self._sent: list[float] = []

    def begin(self) -> None:
        rates = [member.param_groups[0]["lr"] for member in self.members]
        if rates != self._sent:
            # From pinned memory, which is not used again before it was read, nobody waits.
            there = torch.tensor(rates, dtype=self.values.dtype, pin_memory=self.values.is_cuda)
            self.values.copy_(there, non_blocking=True)
            self._sent = rates


def _numbers(values: Sequence[Any], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype).to(like.device)


def _memory(members: Sequence[Descent], params: Sequence[Tensors], key: str) -> Tensors:
    def kept(member: Descent, p: Tensor) -> Tensor:
        found = member.state.get(p, {}).get(key)
        return torch.zeros_like(p) if found is None else found

    return [
        stacked([kept(member, p) for member, p in zip(members, same, strict=True)])
        for same in zip(*params, strict=True)
    ]
