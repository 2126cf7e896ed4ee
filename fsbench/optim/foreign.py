"""An optimizer of somebody else's, in the same loop."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from fsbench.optim.descent import Closure, Descent


def base_parameter(kind: Any) -> str | None:
    """The parameter by which a class takes the base optimizer's class: `base` or `base_optimizer`, if either."""
    return next((name for name in ("base", "base_optimizer") if name in signature(kind).parameters), None)


class Foreign(Descent):
    """A class of `torch.optim.Optimizer` whose own `step(closure)` makes all the passes of a method.

    Its closure empties the gradients, computes the loss of the mini-batch and its gradient, and returns the loss; the
    first call of a step has to be at w. What else the class does, with BatchNorm's statistics say, is its own affair.

    Args:
        kind: the class. If it takes `base` (or `base_optimizer`), it is made as kind(params, base=base, lr=..., ...)
            with the base's options among the rest, else as kind(params, lr=..., ...), and there is no base.
        own: names of the options that are the method's, not the base's.
    """

    stackable = False

    def __init__(
        self,
        params: Any,
        base: type[torch.optim.Optimizer],
        *,
        kind: Any,
        own: Iterable[str],
        lr: float,
        **options: Any,
    ) -> None:
        shared = {key: options.pop(key) for key in ("max_norm", "model", "processes")}
        if shared["max_norm"] is not None:
            raise ValueError(f"{kind.__name__} makes its own steps, and trainer.max_norm can't act in them")
        asked = base_parameter(kind)
        self._below: dict[str, Any] = {} if asked is None else {asked: base}
        handed = options if asked is not None else {key: options[key] for key in own}
        super().__init__(params, kind, lr=lr, **shared, **handed)

    def make_base(self, base: type[torch.optim.Optimizer], options: dict[str, Any]) -> torch.optim.Optimizer:
        return base(self.param_groups, **self._below, **options)

    @property
    def name(self) -> str:
        return type(self.base).__name__

    def descent_gradient(self, closure: Closure, size: int | None) -> Tensor:
        """Make their step; returns the loss of its first pass. What is not finite there ends it before it moves."""
        losses: list[Tensor] = []

        def theirs() -> Any:  # a float by torch's annotation
            losses.append(self.one_pass(closure))
            if len(losses) == 1:
                super(Foreign, self)._clip(losses[0])
            return losses[-1]

        self.base.step(theirs)
        if not losses:
            raise RuntimeError(f"{self.name}.step made no pass: it has to call the closure that it is handed")
        return losses[0]

    def _clip(self, loss: Tensor) -> None:
        """Their step has been made."""

    def _base_step(self) -> None:
        """Their step has been made."""
