"""The base optimizers on stacked weights, each member with its own rate, momentum and decay."""

from __future__ import annotations

import math
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

    def step(self, weights: Tensors, gradients: Tensors, taken: Sequence[bool]) -> None:
        """Move the weights; the gradients may be overwritten. Members that do not take the step are restored after."""
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

    def step(self, weights: Tensors, gradients: Tensors, taken: Sequence[bool]) -> None:
        back = -_numbers(_rates(self.members), weights[0])
        for index, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            if self.decays:
                g.addcmul_(w, by_member(self.decay, w))
            if self.moves:
                momentum = by_member(self.momentum, w)
                buffer = self.memory[0][index].mul_(momentum).add_(g)
                g = g.addcmul_(buffer, momentum) if self.nesterov else buffer
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
        self._groups = [member.param_groups[0] for member in members]
        like = self._params[0][0]
        self.decay = _numbers([group["weight_decay"] for group in self._groups], like)
        self.decays = any(self.decay.tolist())
        self.eps = _numbers([group["eps"] for group in self._groups], like)
        self.keeps = [_numbers([group["betas"][k] for group in self._groups], like) for k in (0, 1)]
        # 1 - beta is rounded once, as by torch.
        self.takes = [_numbers([1 - group["betas"][k] for group in self._groups], like) for k in (0, 1)]
        self.memory = [_memory(members, self._params, key) for key in ("exp_avg", "exp_avg_sq")]
        self.steps = [
            int(member.state[params[0]]["step"]) if "step" in member.state.get(params[0], {}) else 0
            for member, params in zip(members, self._params, strict=True)
        ]

    def step(self, weights: Tensors, gradients: Tensors, taken: Sequence[bool]) -> None:
        self.steps = [count + bool(one) for count, one in zip(self.steps, taken, strict=True)]
        rates = _rates(self.members)
        rows = []
        for count, rate, group in zip(self.steps, rates, self._groups, strict=True):
            (one, two), count = group["betas"], max(count, 1)
            rows.append((-rate / (1 - one**count), math.sqrt(1 - two**count), 1 - rate * group["weight_decay"]))
        size, root, shrink = _numbers(rows, weights[0]).unbind(1)
        for w, g, m, v in zip(weights, gradients, *self.memory, strict=True):
            if self.decays and self.decoupled:
                w.mul_(by_member(shrink, w))
            elif self.decays:
                g.addcmul_(w, by_member(self.decay, w))
            m.lerp_(g, by_member(self.takes[0], w).expand_as(w))
            v.mul_(by_member(self.keeps[1], w)).add_(g * g * by_member(self.takes[1], w))
            denominator = v.sqrt().div_(by_member(root, w)).add_(by_member(self.eps, w))
            w.add_(m / denominator * by_member(size, w))

    def give(self) -> None:
        for i, (member, params) in enumerate(zip(self.members, self._params, strict=True)):
            for p, m, v in zip(params, *self.memory, strict=True):
                step = torch.tensor(float(self.steps[i]))
                member.state[p].update({"step": step, "exp_avg": m[i], "exp_avg_sq": v[i]})


def stacked_base(members: Sequence[Descent]) -> StackedBase:
    """The base of these members, who all have the same; it goes on from their states."""
    kind = type(members[0].base)
    return StackedSGD(members) if kind is torch.optim.SGD else StackedAdam(members, kind is torch.optim.AdamW)


def _params(member: Descent) -> Tensors:
    return member.param_groups[0]["params"]


def _rates(members: Sequence[Descent]) -> list[float]:
    return [member.param_groups[0]["lr"] for member in members]


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
