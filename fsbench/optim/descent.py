"""Any torch optimizer stepped by a closure: the ground every method here stands on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fsbench.geometries import Geometry
from fsbench.optim.ellipsoid import gradients_of, is_sharded, local, norm_of
from fsbench.optim.processes import Processes
from fsbench.optim.running_statistics import kept_buffers

Closure = Callable[..., Tensor]

_NO_CLOSURE = """{name}.step needs a closure that computes the loss and its gradient:

    def closure(rows=None):            # rows: a slice of the mini-batch, None for all of it
        loss = loss_fn(model(x), y) if rows is None else loss_fn(model(x[rows]), y[rows])
        loss.backward()
        return loss.detach()
    loss = optimizer.step(closure, size=len(x))"""


# Options of the methods that are kept in groups.
_IN_GROUPS = {"rho", "eta", "peak_lr"}
# Options of a base that say how it computes, or that newer versions of torch have added.
_NOT_IN_EVERY_STATE = {
    "foreach", "fused", "capturable", "differentiable", "maximize", "nesterov", "amsgrad", "decoupled_weight_decay",
}  # fmt: skip
_KINDS: dict[str, Callable[[Tensor], bool]] = {
    "complex": Tensor.is_complex,
    "sparse": lambda p: p.grad is not None and p.grad.layout != torch.strided,
    "sharded": is_sharded,
}


def batch_size(size: int | None, method: str) -> int:
    """The size handed to `step`, or ValueError telling how to hand it."""
    if size is None:
        raise ValueError(f"{method} slices the mini-batch: call optimizer.step(closure, size=len(x)), got size={size}")
    return size


def check_not_negative(**values: float) -> None:
    """Raise ValueError for a value that is not finite, or below 0."""
    for key, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{key} must be a finite number >= 0, got {value}")


def no_rows(rows: object, size: int | None) -> str:
    return (
        f"a pass over rows {rows} gave the loss nan and no gradient, as over no rows: has the closure's mini-batch "
        f"size={size} rows?"
    )


class NonFiniteGradient(ArithmeticError):
    """A pass ended in a loss or a gradient that is not finite; carries the loss at w."""

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

    Whoever calls `step` gets the loss at w from it; wrappers that drop what it returns (accelerate's) lose that loss,
    not the step. The closure's passes may add to the gradients of parameters that this optimizer does not have: another
    optimizer on those sees the sum of both passes', and has to make a pass of its own.

    Attributes:
        skipped: steps skipped so far because a loss or a gradient was not finite.
        skipped_in_a_row: of these, how many since the last step that was taken.
        progress: share of the training that is over, 0 to 1, as whoever calls `step` says.
        geometry: of the neighbourhood in which a second pass is made; None: there is no second pass like that.
        stackable: whether `StackedDescent` takes the steps of many of them as they would. It holds for the class that
            says so and is not inherited: a subclass that steps in another way would be taken for its parent.

    Example:
        SGD, and a step that is skipped for a gradient that is not finite, with the closure of `SAM`'s example.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = Descent([w], torch.optim.SGD, lr=0.1)
        >>> optimizer.step(closure), w.data
        (tensor(12.5000), tensor([2.7000, 3.6000]))
        >>> w.data[0] = torch.inf
        >>> optimizer.step(closure), optimizer.skipped
        (tensor(inf), 1)
    """

    geometry: Geometry | None = None
    stackable = True

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
        if not (isinstance(base, type) and issubclass(base, torch.optim.Optimizer)):
            raise TypeError(
                f"base must be a class such as torch.optim.SGD, got {base!r}; its options go to {type(self).__name__}"
            )
        if issubclass(base, torch.optim.LBFGS):
            raise TypeError("LBFGS evaluates the closure itself and can't be the base of a two-pass method")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be > 0 or None, got {max_norm}")
        self.max_norm = max_norm
        self.model = model
        self.processes = processes or Processes()
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.progress = 0.0
        # Whether each gradient so far was finite, while nobody on the host may ask.
        self._verdicts: list[Tensor] | None = None
        # The gradients that the last step left: object and version, by parameter. None: not known.
        self._left: dict[Tensor, tuple[int, int]] | None = None
        self._own_defaults = dict(defaults or {})
        super().__init__(params, dict(self._own_defaults))
        self.base = self.make_base(base, base_options)
        if clash := sorted(self._own_defaults.keys() & self.base.defaults.keys()):
            name = type(self).__name__
            raise ValueError(f"{base.__name__} can't be the base of {name}: both have an option {clash[0]}")
        self.defaults.update(self.base.defaults)
        self._share()

    def make_base(self, base: type[torch.optim.Optimizer], options: dict[str, Any]) -> torch.optim.Optimizer:
        """The optimizer that makes the steps, on the groups that are there."""
        return base(self.param_groups, **options)

    def _share(self) -> None:
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    @property
    def name(self) -> str:
        """Of the method, as its state goes by."""
        return type(self).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options it does not name take the defaults of the method and of the base."""
        for kind in type(self).__mro__:
            for key, option in signature(kind).parameters.items():
                if key in param_group and option.kind is option.KEYWORD_ONLY and key not in self._own_defaults:
                    raise ValueError(f"{key} is one for all groups: hand it to {type(self).__name__} itself")
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
        """Load this method's state, or one of its base optimizer alone: options missing there take the defaults.

        Raises:
            ValueError: the state of another method or of another base.
        """
        self._refuse_state_of_others(state_dict)
        self.base.load_state_dict(state_dict)
        for p, state in self.base.state.items():
            state.update({key: _as_laid_out(value, p) for key, value in state.items() if torch.is_tensor(value)})
        for group in self.base.param_groups:
            for key, value in self._own_defaults.items():
                group.setdefault(key, value)
        self._share()

    def state_dict(self) -> dict[str, Any]:
        """torch's, and the names of the method and its base."""
        return {**super().state_dict(), "method": self.name, "base": type(self.base).__name__}

    def _refuse_state_of_others(self, state_dict: Mapping[str, Any]) -> None:
        methods, base = {self.name, *(kind.__name__ for kind in type(self).__mro__)}, type(self.base).__name__
        if (method := state_dict.get("method", "Descent")) not in methods:
            raise ValueError(f"this is the state of {method}, and its options would come with it; use {method}")
        if (of := state_dict.get("base", base)) != base:
            raise ValueError(f"this is the state of a base of {of}, not of {base}")
        for group in state_dict["param_groups"]:
            if strange := sorted((_IN_GROUPS & group.keys()) - self.defaults.keys()):
                raise ValueError(f"this is the state of another method: {type(self).__name__} has no {strange[0]}")
            if lacking := sorted(self.base.defaults.keys() - _NOT_IN_EVERY_STATE - group.keys()):
                raise ValueError(f"this is not the state of a base of {base}: it has no {lacking[0]}")

    def __getstate__(self) -> dict[str, Any]:
        # torch.optim.Optimizer keeps only defaults, state and groups, which can't be copied or pickled back.
        return {**{name: value for name, value in self.__dict__.items() if name != "step"}, "_left": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch's closure takes no rows and returns a float
        self, closure: Closure | None = None, size: int | None = None
    ) -> Tensor:
        """One update from one mini-batch.

        Args:
            closure: computes loss and gradient of the mini-batch, or of the slice `rows` of it if
                called with one, adds the gradient into `.grad` and returns the detached mean loss.
            size: examples in the mini-batch; needed by options that slice it.

        Returns:
            The loss at w, before the update. A step whose loss or gradients are not finite leaves weights, state and
            the network's buffers as they were and counts in `skipped`.
        """
        if closure is None:
            raise RuntimeError(_NO_CLOSURE.format(name=type(self).__name__))
        if size is not None and size < 1:
            raise ValueError(f"size is the number of rows of the mini-batch, >= 1, or None; got {size}")
        self._warn_of_lost_gradients()
        self.begin()
        with kept_buffers(self.model) as before:
            try:
                loss = self.descent_gradient(closure, size)
                self._clip(loss)
            except NonFiniteGradient as failure:
                before.restore()
                self.zero_grad()
                self._left = {}
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
            vars(self.base)["found_inf"] = (~taken).float()
            self._base_step()
        except BaseException:
            self.zero_grad()  # what a recording that failed left there was never computed
            raise
        finally:
            self._verdicts = None
            vars(self.base)["found_inf"] = None
        return loss, taken

    def begin(self) -> Hashable:
        """The host's part of a step: what depends on the learning rates. Returns which form the step takes then."""
        return None

    def _base_step(self) -> None:
        params = self.trained()
        for p, g in zip(params, gradients_of(params), strict=True):
            p.grad = _as_laid_out(g, p)
        self._refuse_newly_trained()
        self.base.step()
        self._left = {p: (id(g), g._version) for p, g in zip(params, gradients_of(params), strict=True)}

    def _refuse_newly_trained(self) -> None:
        for group in self.param_groups:
            if group.get("fused") and group.get("momentum"):
                params = [p for p in group["params"] if p.grad is not None]
                started = {self.state.get(p, {}).get("momentum_buffer") is not None for p in params}
                if len(started) > 1:
                    raise RuntimeError(
                        "torch's fused SGD can't take in parameters that got no gradient before (unfrozen ones): add "
                        "them as a group of their own, or use fused=False"
                    )

    def _warn_of_lost_gradients(self) -> None:
        """Gradients that somebody else has added since the last step are not used."""
        if self._left is None:
            return
        known = [p for p in self.trained() if p in self._left]
        pairs = zip(known, gradients_of(known), strict=True)
        added = [g for p, g in pairs if self._left[p] != (id(g), g._version)]
        if added and norm_of(added) > 0:
            warnings.warn(
                "gradients that were there when the step began are thrown away, each pass makes its own; add up "
                "micro-batches inside the closure (`fsbench train`: trainer.micro_batch_size)",
                stacklevel=4,
            )

    def descent_gradient(self, closure: Closure, size: int | None) -> Tensor:
        """Leave the gradient to descend along in `.grad`; return the loss at w."""
        return self.one_pass(closure)

    def one_pass(self, closure: Closure, *args: Any, **kwargs: Any) -> Tensor:
        """Gradient of one evaluation of the closure, alone in `.grad`; returns its loss."""
        self.zero_grad()
        with torch.enable_grad():
            loss = closure(*args, **kwargs)
        if not isinstance(loss, Tensor):
            problem = f"; this one returned {loss!r}, not a tensor"
            raise RuntimeError(_NO_CLOSURE.format(name=type(self).__name__) + problem)
        return loss.detach()

    def trained(self) -> list[Tensor]:
        """The parameters that hold a gradient now, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    def names(self) -> dict[Tensor, str]:
        """The name of each parameter; one without a name is a "weight" if it has two or more dimensions, else a
        "bias"."""
        named: dict[Tensor, str] = {}
        for group in self.param_groups:
            of = group.get("param_names") or [""] * len(group["params"])
            named |= {p: n or ("weight" if p.ndim > 1 else "bias") for p, n in zip(group["params"], of, strict=True)}
        return named

    @property
    def device(self) -> torch.device:
        """That of the first parameter."""
        return next((p.device for group in self.param_groups for p in group["params"]), torch.device("cpu"))

    def kept_gradients(self) -> dict[Tensor, Tensor]:
        """Copies of the gradients there are now, by parameter.

        A closure may put all its gradients in the same memory, as DistributedDataParallel does with
        `gradient_as_bucket_view=True`, so what is used after the next pass is copied.
        """
        params = self.trained()
        gradients = gradients_of(params)
        if any(g.layout != torch.strided for g in gradients):
            copies = [g.clone() for g in gradients]
        else:
            copies = [torch.empty_like(g) for g in gradients]
            torch._foreach_copy_(copies, gradients)
        return dict(zip(params, copies, strict=True))

    def put_back(self, gradients: Mapping[Tensor, Tensor]) -> None:
        """Have these gradients and no others."""
        self.zero_grad()
        for p, g in gradients.items():
            p.grad = g

    def unfit(self) -> set[str]:
        """Kinds of weights and gradients ("complex", "sparse", "sharded") that the method can't do with."""
        return set()

    def require_fit(self, params: Iterable[Tensor]) -> None:
        """Raise ValueError where a weight, or its gradient, is of an unfit kind."""
        for kind in self.unfit():
            if any(_KINDS[kind](p) for p in params):
                instead = "; hand in their real and imaginary parts (torch.view_as_real)" if kind == "complex" else ""
                raise ValueError(f"{type(self).__name__} can't do with {kind} weights or gradients{instead}")

    def require_finite(self, norm: Tensor, loss: Tensor, rows: object = None, size: int | None = None) -> None:
        """Raise NonFiniteGradient where a norm or a loss is not finite; in a masked step, have the step undone.

        Args:
            rows: the slice of the mini-batch that the loss is of.

        Raises:
            ValueError: there are none.
        """
        finite = torch.isfinite(norm + loss)
        if self._verdicts is not None:
            self._verdicts.append(finite)
        elif not finite:
            if rows is not None and norm == 0:
                raise ValueError(no_rows(rows, size))
            raise NonFiniteGradient(loss)

    def _clip(self, loss: Tensor) -> None:
        gradients = gradients_of(self.trained())
        norm = norm_of(gradients) if gradients else torch.zeros_like(loss)
        self.require_finite(norm, loss)
        if self.max_norm is not None and gradients:
            # As torch.nn.utils.clip_grad_norm_ does it.
            torch._foreach_mul_(local(gradients), (self.max_norm / (norm + 1e-6)).clamp(max=1.0))


def _as_laid_out(value: Tensor, p: Tensor) -> Tensor:
    """`value` in p's memory format; torch's fused optimizers read both as they lie, and check nothing."""
    if value.shape != p.shape or value.stride() == p.stride() or value.layout != torch.strided:
        return value
    return torch.empty_like(p, dtype=value.dtype).copy_(value)
