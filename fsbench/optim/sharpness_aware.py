"""SAM, ASAM and FSAM: the gradient at the worst point of an ellipsoid around w."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import nullcontext
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from fsbench.optim import geometry
from fsbench.optim.beside import Beside, InverseMetric
from fsbench.optim.descent import Closure, Descent, no_rows
from fsbench.optim.geometry import wide
from fsbench.optim.random_replay import RandomReplay
from fsbench.optim.running_statistics import frozen_statistics, kept_buffers, unmoved
from fsbench.optim.shards import local
from fsbench.optim.sub_batches import batch_size, groups_of


class SharpnessAware(Descent, ABC):
    """w <- base(w, gradient at w + eps), eps = rho D g / sqrt(g' D g), both passes on the same mini-batch.

    Weight decay and momentum act at w; weights come back exactly, never recomputed; buffers (BatchNorm's running
    statistics) move in the first pass only, and both passes start with the same ones and draw the same dropout mask;
    the loss returned is the one at w. rho = 0 is the base optimizer, in one pass. Subclasses give D by
    `inverse_metric`.

    Options of a group: `rho` (and `eta`): tensors of a group with rho_k get eps = rho_k D g / norm,
    under the one global norm.

    Args:
        rho: radius of the neighbourhood, >= 0 (the paper's gamma).
        natural: descend along D g instead of g (kim2022, footnote 3).
        m: each contiguous sub-batch of m examples has its own eps (m-sharpness, Foret et al. 2021,
            section 4.1; needs `step(closure, size=N)`). Running statistics then move once in each sub-batch.
            kim2022 does not use it.
        perturbation: where several processes share the mini-batch, "global": its gradient perturbs (the papers
            here), or "local": on each process the gradient of its own rows does (m-sharpness again, m being
            the rows a process has; needs `step(closure, size=N)`). Both descend along the mean over all rows.
        max_norm, model, processes: as for `Descent`.

    Attributes:
        compare: while True, each step stores in `alignment` the cosine and the length ratio between its eps (of
            m-sharpness, the first sub-batch's) and SAM's at the same rho; else that is None.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        rho: float = 0.05,
        natural: bool = False,
        m: int | None = None,
        perturbation: str = "global",
        defaults: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if m is not None and m < 1:
            raise ValueError(f"m must be >= 1 or None, got {m}")
        if perturbation not in ("global", "local"):
            raise ValueError(f"perturbation must be 'global' or 'local', got {perturbation!r}")
        if perturbation == "local" and (m is not None or natural):
            raise ValueError(
                "perturbation='local' goes neither with m, whose groups span the processes, nor with natural"
            )
        self.natural = natural
        self.m = m
        self.perturbation = perturbation
        self.compare = False
        self._beside = Beside()
        self.alignment: tuple[Tensor, Tensor] | None = None
        super().__init__(params, base, defaults={"rho": rho, **(defaults or {})}, **options)

    def check_options(self, group: dict[str, Any]) -> None:
        for key in ("rho", "eta"):
            value = group.get(key, 0.0)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{key} must be a finite number >= 0, got {value}")

    def begin(self) -> bool:
        self.alignment = None
        return self.compare

    def unfit(self) -> set[str]:
        return {"sharded"} if self.perturbation == "local" else set()

    @abstractmethod
    def inverse_metric(self, closure: Closure, rows: slice | None, size: int | None) -> InverseMetric | None:
        """D at w as a function of parameters out of `trained()`, whose `.grad` holds g; None for D = 1.

        Called as f(params, out) with one of them or all: D in the memory `out`, in new memory where that is None.
        """
        ...

    def descent_gradient(self, closure: Closure, size: int | None) -> Tensor:
        if not self.natural and all(group["rho"] == 0 for group in self.param_groups):
            return self.one_pass(closure)
        if self.m is None:
            return self._two_passes(closure, None, size)
        total: dict[Tensor, Tensor] = {}
        loss = 0.0
        for rows, share in groups_of(batch_size(size, f"{type(self).__name__} with m={self.m}"), self.m):
            loss = loss + share * self._two_passes(closure, rows, size)
            for p in self.trained():
                total[p] = total[p].add_(p.grad, alpha=share) if p in total else p.grad * share
        for p, gradient in total.items():
            p.grad = gradient
        return loss

    def group_values(self, key: str) -> dict[Tensor, float]:
        """An option's value for each parameter, that of its group."""
        return {p: group.get(key) for group in self.param_groups for p in group["params"]}

    def _two_passes(self, closure: Closure, rows: slice | None, size: int | None) -> Tensor:
        arguments = () if rows is None else (rows,)
        replay = RandomReplay(self.device)
        apart = self.perturbation == "local"
        with self.processes.apart() if apart else nullcontext():
            with kept_buffers(self.model) as start:
                loss = self.one_pass(closure, *arguments)
            params = self.trained()
            self.require_fit(params)
            # Outside of the replay: labels that are drawn are others in each step.
            inverse_metric = self.inverse_metric(closure, rows, size) if params else None
        if apart:
            loss = self._over_processes(loss, size)
        if not params:
            if apart:  # a process without rows has nothing to perturb, but its part in the second pass
                self.one_pass(closure, *arguments)
            return loss
        axes = inverse_metric(params, None) if self.natural and inverse_metric is not None else None
        rho, maximized = self.group_values("rho"), self.group_values("maximize")
        # The worst point of what a base maximises is downhill.
        radii = [-rho[p] if maximized[p] else rho[p] for p in params]
        direction, norm = self._beside.direction(params, inverse_metric)
        if not apart:
            self.require_finite(norm, loss, rows, size)
        elif not math.isfinite(norm):
            # All processes have to skip the step, not this one alone: the second pass tells them.
            radii = [math.nan] * len(params)
        if self.compare and self.alignment is None:
            eps = geometry.scaled(direction, norm, radii)
            self.alignment = geometry.alignment(eps, [p.grad for p in params], radii)
        beside = self._beside.displaced(params, direction, radii, norm)
        with unmoved(self.model, start), beside, replay.again():
            self.one_pass(closure, *arguments)
        if axes is not None:
            for p, d in zip(params, axes, strict=True):
                if p.grad is not None:
                    local([p.grad])[0].mul_(d)
        return loss

    def _over_processes(self, loss: Tensor, size: int | None) -> Tensor:
        """The mean over all rows of a loss that each process has of its own."""
        size = batch_size(size, f"{type(self).__name__} with perturbation='local'")
        total = loss * (len(self.processes.own(range(size), size)) / size)
        self.processes.sum_([total])
        return total


class SAM(SharpnessAware):
    """Sharpness-aware minimisation: D = 1 (Foret et al. 2021; kim2022 eq. 1-3)."""

    def inverse_metric(self, closure: Closure, rows: slice | None, size: int | None) -> InverseMetric | None:
        return None


class ASAM(SharpnessAware):
    """Adaptive SAM: D = T^2 with T = |w| + eta on weights, T = 1 on biases (Kwon et al. 2021; kim2022 eq. 4-5).

    As in the authors' code a tensor is scaled if its name contains "weight" (BatchNorm's too), so hand
    in `model.named_parameters()`; of tensors without names those with two or more dimensions are scaled.

    Args:
        eta: added to |w|, >= 0.
        scale: "weights", or "all" to scale every tensor.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        rho: float = 0.5,
        eta: float = 0.01,
        scale: str = "weights",
        **options: Any,
    ) -> None:
        if scale not in ("weights", "all"):
            raise ValueError(f"scale must be 'weights' or 'all', got {scale!r}")
        self.scale = scale
        super().__init__(params, base, rho=rho, defaults={"eta": eta}, **options)
        if scale == "weights" and any("param_names" not in group for group in self.param_groups):
            warnings.warn(
                "ASAM got parameters without names and takes every one-dimensional tensor for a bias, BatchNorm's "
                "scale too; hand in model.named_parameters() to scale as the ASAM paper does",
                stacklevel=2,
            )

    def unfit(self) -> set[str]:
        return super().unfit() | {"complex"}

    def inverse_metric(self, closure: Closure, rows: slice | None, size: int | None) -> InverseMetric:
        scaled: dict[Tensor, bool] = {}
        for group in self.param_groups:
            names = group.get("param_names") or [""] * len(group["params"])
            scaled |= {p: self._scales(p, name) for p, name in zip(group["params"], names, strict=True)}
        eta = self.group_values("eta")

        def axes(params: list[Tensor], out: list[Tensor] | None) -> list[Tensor]:
            return geometry.adaptive(wide(local(params)), [scaled[p] for p in params], [eta[p] for p in params], out)

        return axes

    def _scales(self, p: Tensor, name: str) -> bool:
        if self.scale == "all":
            return True
        return "weight" in name if name else p.ndim > 1


class FSAM(SharpnessAware):
    """Fisher SAM: D = F^-1, the inverse of a diagonal Fisher information (Kim et al. 2022, eq. 8-12, algorithm 1).

    Not Friendly SAM, which goes by the same letters elsewhere.

    Args:
        eta: regulariser of the inverse, >= 0 (> 0 in the additive form).
        form: "multiplicative", D = 1/(1 + eta f), of the paper's experiments (section 5), or
            "additive", D = 1/(f + eta), of its section 3.
        fisher: "batch", f = g*g of the mini-batch mean gradient (eq. 12); "per_example", f = the mean
            of squared per-example gradients (eq. 11; N more passes, BatchNorm by its running
            statistics); "true", the same with labels drawn from the model. In these passes the loss is -log p(y|x),
            without label smoothing and the like: the closure is called as `closure(rows, sample_labels=True)` for
            "true", for "per_example" with False if it takes that argument; other passes don't give it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        rho: float = 0.1,
        eta: float = 1.0,
        form: str = "multiplicative",
        fisher: str = "batch",
        **options: Any,
    ) -> None:
        if form not in ("multiplicative", "additive"):
            raise ValueError(f"form must be 'multiplicative' or 'additive', got {form!r}")
        if fisher not in ("batch", "per_example", "true"):
            raise ValueError(f"fisher must be 'batch', 'per_example' or 'true', got {fisher!r}")
        self.form = form
        self.fisher = fisher
        super().__init__(params, base, rho=rho, defaults={"eta": eta}, **options)

    def check_options(self, group: dict[str, Any]) -> None:
        super().check_options(group)
        if self.form == "additive" and group["eta"] == 0:
            raise ValueError("eta must be > 0 in the additive form 1/(f + eta), got 0")

    def unfit(self) -> set[str]:
        return super().unfit() | {"complex", "sparse"} | ({"sharded"} if self.fisher != "batch" else set())

    def inverse_metric(self, closure: Closure, rows: slice | None, size: int | None) -> InverseMetric:
        eta = self.group_values("eta")
        known = None if self.fisher == "batch" else self._mean_of_squares(closure, rows, size, self.trained())

        def axes(params: list[Tensor], out: list[Tensor] | None) -> list[Tensor]:
            if known is None:
                information = geometry.squared(wide(local(p.grad for p in params)), out)
            else:
                information = [torch.empty_like(known[p]) for p in params] if out is None else out
                torch._foreach_copy_(information, [known[p] for p in params])
            return geometry.inverse_fisher_(information, [eta[p] for p in params], self.form)

        return axes

    def _mean_of_squares(
        self, closure: Closure, rows: slice | None, size: int | None, params: list[Tensor]
    ) -> dict[Tensor, Tensor]:
        size = batch_size(size, f"FSAM with fisher={self.fisher!r}")
        of = range(size)[rows or slice(None)]
        own = self.processes.own(of, size)
        count = len(own if self.perturbation == "local" else of)
        told = {"sample_labels": self.fisher == "true"} if self.fisher == "true" or _is_told(closure) else {}
        total = [torch.zeros_like(p) for p in wide(params)]
        # The batch gradient is the caller's: these passes leave .grad as they found it.
        kept = self.kept_gradients()
        losses = []
        with frozen_statistics(self.model), self.processes.apart():
            for i in own:
                losses.append(self.one_pass(closure, slice(i, i + 1), **told))
                for f, p in zip(total, params, strict=True):
                    if p.grad is not None:
                        f.addcmul_(p.grad, p.grad, value=1 / count)
        self.put_back(kept)
        without = torch.stack(losses).isnan().tolist() if losses else []
        if any(without) and not all(without) and geometry.norm_of(total).isfinite():
            raise ValueError(no_rows(f"of example {own[without.index(True)]}", size))
        if self.perturbation == "global":
            self.processes.sum_(total)
        return dict(zip(params, total, strict=True))


def _is_told(closure: Closure) -> bool:
    """Whether a closure takes `sample_labels`."""
    parameters = signature(closure).parameters.values()
    return any(p.name == "sample_labels" or p.kind == Parameter.VAR_KEYWORD for p in parameters)
