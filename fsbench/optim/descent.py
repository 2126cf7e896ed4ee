"""Any torch optimizer stepped by a closure: the ground every method here stands on."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fsbench.optim.processes import Processes
from fsbench.optim.running_statistics import kept_buffers

Closure = Callable[..., Tensor]

_NO_CLOSURE = """{name}.step needs a closure that computes the loss and its gradient:

    def closure(rows=None):            # rows: a slice of the mini-batch, None for all of it
        loss = loss_fn(model(x), y) if rows is None else loss_fn(model(x[rows]), y[rows])
        loss.backward()
        return loss.detach()
    loss = optimizer.step(closure, size=len(x))"""


class NonFiniteGradient(ArithmeticError):
    """A pass ended in a gradient whose norm is not finite; carries the loss at w."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__("non-finite gradient")
        self.loss = loss


class Descent(torch.optim.Optimizer):
    """The base optimizer on the gradient that `descent_gradient` leaves in `.grad`.

    Plain here: the mini-batch gradient at w. Subclasses override `descent_gradient`; skipping of
    non-finite gradients, clipping, state and resume are written once, in this class.

    `param_groups` and `state` are the base optimizer's own objects: schedulers act on them and
    `state_dict` holds momentum and everything else the base keeps.

    Args:
        params: tensors, named tensors or groups of either; a group may carry its own values of any option.
        base: a class of torch.optim (or alike) whose step needs no closure.
        max_norm: clip the descent gradient (the one handed to the base, not the one that perturbs)
            to this global L2 norm.
        model: the network; only needed where its modules run without hooks (torch.compile, TorchScript), so
            that their buffers (running statistics) are found all the same.
        processes: those that share each mini-batch; None: this one alone.
        defaults: options of the method itself, kept in the groups beside the base's.
        base_options: `lr`, `momentum`, ...: handed to `base`.

    Attributes:
        skipped: steps skipped so far because a gradient was not finite.
        skipped_in_a_row: of these, how many since the last step that was taken.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer],
        *,
        max_norm: float | None = None,
        model: nn.Module | None = None,
        processes: Processes | None = None,
        defaults: dict[str, Any] | None = None,
        **base_options: Any,
    ) -> None:
        if issubclass(base, torch.optim.LBFGS):
            raise TypeError("LBFGS evaluates the closure itself and can't be the base of a two-pass method")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be > 0 or None, got {max_norm}")
        self.max_norm = max_norm
        self.model = model
        self.processes = processes or Processes()
        self.skipped = 0
        self.skipped_in_a_row = 0
        # Whether each gradient so far was finite, while nobody on the host may ask.
        self._verdicts: list[Tensor] | None = None
        self._own_defaults = dict(defaults or {})
        super().__init__(params, dict(self._own_defaults))
        self.base = base(self.param_groups, **base_options)
        self.defaults.update(self.base.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options it does not name take the defaults of the method and of the base."""
        self.check_options({**self._own_defaults, **param_group})
        if not hasattr(self, "base"):
            super().add_param_group(param_group)
            return
        for key, value in self._own_defaults.items():
            param_group.setdefault(key, value)
        self.base.add_param_group(param_group)

    def check_options(self, group: dict[str, Any]) -> None:
        """Raise ValueError where an option of the method (in `group`) is out of its range."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this method's state, or one of its base optimizer alone: options missing there take the defaults."""
        self.base.load_state_dict(state_dict)
        for p, state in self.base.state.items():
            state.update({key: _as_laid_out(value, p) for key, value in state.items() if torch.is_tensor(value)})
        for group in self.base.param_groups:
            for key, value in self._own_defaults.items():
                group.setdefault(key, value)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        # torch.optim.Optimizer keeps only defaults, state and groups, which can't be copied or pickled back.
        return {name: value for name, value in self.__dict__.items() if name != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Closure | None = None, size: int | None = None) -> Tensor:
        """One update from one mini-batch.

        Args:
            closure: computes loss and gradient of the mini-batch, or of the slice `rows` of it if
                called with one, adds the gradient into `.grad` and returns the detached mean loss.
            size: examples in the mini-batch; needed by options that slice it.

        Returns:
            The loss at w, before the update. A step whose gradients are not finite leaves weights, state and
            the network's buffers as they were and counts in `skipped`.
        """
        if closure is None:
            raise RuntimeError(_NO_CLOSURE.format(name=type(self).__name__))
        self.begin()
        with kept_buffers(self.model) as before:
            try:
                loss = self.descent_gradient(closure, size)
                self._clip(loss)
            except NonFiniteGradient as failure:
                before.restore()
                self.zero_grad()
                self.skipped += 1
                self.skipped_in_a_row += 1
                return failure.loss
        self._base_step()
        self.skipped_in_a_row = 0
        return loss

    @torch.no_grad()
    def masked_step(self, closure: Closure, size: int | None = None) -> tuple[Tensor, Tensor]:
        """`step` without a look at any value from the host, so that a CUDA graph can hold it; `begin` comes before.

        Needs a base of torch's fused kernels (`fused=True`) whose state is there: a plain step came before.

        Returns:
            The loss at w, and whether the step was taken. One that was not left everything as it was; it is the
            caller who counts it.
        """
        self._verdicts = []
        try:
            with kept_buffers(self.model) as before:
                loss = self.descent_gradient(closure, size)
                self._clip(loss)
                taken = torch.stack(self._verdicts).all()
                before.restore(~taken)
            self.base.found_inf = (~taken).float()
            self._base_step()
        finally:
            self._verdicts = None
            self.base.found_inf = None
        return loss, taken

    def begin(self) -> Hashable:
        """The host's part of a step: what depends on the learning rates. Returns which form the step takes then."""
        return None

    def _base_step(self) -> None:
        for p in self.trained():
            p.grad = _as_laid_out(p.grad, p)
        self.base.step()

    def descent_gradient(self, closure: Closure, size: int | None) -> Tensor:
        """Leave the gradient to descend along in `.grad`; return the loss at w."""
        return self.one_pass(closure)

    def one_pass(self, closure: Closure, *args: Any, **kwargs: Any) -> Tensor:
        """Gradient of one evaluation of the closure, alone in `.grad`; returns its loss."""
        self.zero_grad()
        with torch.enable_grad():
            loss = closure(*args, **kwargs)
        if not isinstance(loss, Tensor):
            raise RuntimeError(_NO_CLOSURE.format(name=type(self).__name__))
        return loss.detach()

    def trained(self) -> list[Tensor]:
        """The parameters that hold a gradient now, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    def require_finite(self, norm: Tensor, loss: Tensor) -> None:
        """Raise NonFiniteGradient where a norm is not finite; in a masked step, have the step undone."""
        if self._verdicts is not None:
            self._verdicts.append(torch.isfinite(norm))
        elif not math.isfinite(norm):
            raise NonFiniteGradient(loss)

    def _clip(self, loss: Tensor) -> None:
        params = self.trained()
        if not params:
            return
        norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        self.require_finite(norm, loss)
        if self.max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(params, self.max_norm, norm)


def _as_laid_out(value: Tensor, p: Tensor) -> Tensor:
    """`value` in p's memory format; torch's fused optimizers read both as they lie, and check nothing."""
    if value.shape != p.shape or value.stride() == p.stride() or value.layout != torch.strided:
        return value
    return torch.empty_like(p, dtype=value.dtype).copy_(value)
