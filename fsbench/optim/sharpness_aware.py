"""SAM, ASAM, FSAM, GSAM and Friendly SAM: the gradient at the worst point of an ellipsoid around w."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from fsbench.geometries import EUCLIDEAN, FORMS, SCALES, Geometry
from fsbench.optim.descent import Closure, Descent, batch_size, check_not_negative, no_rows
from fsbench.optim.ellipsoid import alignment, gradients_of, inner, inverse_or_zero, local, norm_of, scaled, wide
from fsbench.optim.perturbed_weights import InverseMetric, PerturbedWeights
from fsbench.optim.random_replay import RandomReplay
from fsbench.optim.running_statistics import frozen_statistics, kept_buffers, unmoved

# From a direction d and its length to the gradient at w + rho d / length, alone in `.grad`.
GradientAt = Callable[[Sequence[Tensor], Tensor], None]


class SharpnessAware(Descent):
    """w <- base(w, gradient at w + eps), eps = rho D g / sqrt(g' D g), both passes on the same mini-batch.

    Weight decay and momentum act at w; weights come back exactly, never recomputed; buffers (BatchNorm's running
    statistics) move in the first pass only, and both passes start with the same ones and draw the same dropout mask;
    the loss returned is the one at w. rho = 0 is the base optimizer, in one pass.

    A method that another D makes is a `Geometry`. One that perturbs in another way, or descends along another
    gradient, is a subclass with a `perturb` or a `descend` of its own.

    Options of a group: `rho` (and `eta`): tensors of a group with rho_k get eps = rho_k D g / norm,
    under the one global norm.

    Args:
        geometry: D of each weight tensor, and the defaults of rho and eta; None: that of the class (SAM's).
        rho: radius of the neighbourhood, >= 0 (the paper's gamma).
        eta: of the geometry, if it has one, >= 0.
        natural: descend along D g instead of g (kim2022, footnote 3).
        m: each contiguous sub-batch of m examples has its own eps (m-sharpness, Foret et al. 2021,
            section 4.1; needs `step(closure, size=N)`). Running statistics then move once in each sub-batch.
            kim2022 does not use it.
        perturbation: where several processes share the mini-batch, "global": its gradient perturbs (the papers
            here), or "local": on each process the gradient of its own rows does (m-sharpness again, m being
            the rows a process has; needs `step(closure, size=N)`). Both descend along the mean over all rows.
        start, stop: shares of the training between which the weights are perturbed (start <= `progress` < stop);
            outside the step is the base optimizer's, in one pass. Whoever calls `step` sets `progress` before it.
        max_norm, model, processes: as for `Descent`.

    Attributes:
        compare: while True, each step stores in `alignment` the cosine and the length ratio between its eps (of
            m-sharpness, the first sub-batch's) and SAM's at the same rho; else that is None.

    Example:
        The step of `SAM`'s example in a geometry of one's own.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> layerwise = Geometry("layerwise", lambda w, g, name, eta: w.square().sum(), {"rho": 0.05})
        >>> optimizer = SharpnessAware([w], torch.optim.SGD, geometry=layerwise, lr=0.1)
        >>> optimizer.step(closure), w.data
        (tensor(12.5000), tensor([2.6850, 3.5800]))
    """

    geometry: Geometry = EUCLIDEAN
    stackable = True

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        geometry: Geometry | None = None,
        natural: bool = False,
        m: int | None = None,
        perturbation: str = "global",
        start: float = 0.0,
        stop: float = 1.0,
        **options: Any,
    ) -> None:
        if not 0 <= start < stop <= 1:
            raise ValueError(f"start and stop must be 0 <= start < stop <= 1, got {start} and {stop}")
        if m is not None and m < 1:
            raise ValueError(f"m must be >= 1 or None, got {m}")
        if perturbation not in ("global", "local"):
            raise ValueError(f"perturbation must be 'global' or 'local', got {perturbation!r}")
        if perturbation == "local" and (m is not None or natural):
            raise ValueError(
                "perturbation='local' goes neither with m, whose groups span the processes, nor with natural"
            )
        if perturbation == "local" and self._own("descend"):
            raise ValueError(f"perturbation='local' does not go with {type(self).__name__}: at w gradients differ")
        self.geometry = geometry or self.geometry
        self.natural = natural
        self.m = m
        self.perturbation = perturbation
        self.start, self.stop = start, stop
        self.compare = False
        self._perturbed = PerturbedWeights()
        self.alignment: tuple[Tensor, Tensor] | None = None
        defaults = {key: options.pop(key, value) for key, value in self.geometry.defaults.items()}
        super().__init__(params, base, defaults=defaults, **options)

    @property
    def name(self) -> str:
        return self.geometry.name if type(self) is SharpnessAware else super().name

    def check_options(self, group: dict[str, Any]) -> None:
        check_not_negative(**{key: group[key] for key in ("rho", "eta") if key in group})

    @property
    def active(self) -> bool:
        """True where the next step is between `start` and `stop`."""
        return self.start <= self.progress and (self.progress < self.stop or self.stop == 1)

    def begin(self) -> Hashable:
        self.alignment = None
        return self.active, self.active and self.compare

    def unfit(self) -> set[str]:
        whole = self.perturbation == "local" or self._own("perturb") or self._own("descend")
        return {*self.geometry.unfit, *(["sharded"] if whole else [])}

    def _own(self, hook: str) -> bool:
        """True where a subclass has brought this hook."""
        return getattr(type(self), hook) is not getattr(SharpnessAware, hook)

    def inverse_metric(self, closure: Closure, rows: slice | None, size: int | None) -> InverseMetric | None:
        """D at w as a function of parameters out of `trained()`, whose `.grad` holds g; None for D = 1.

        Called as f(params, out) with one of them or all: D in the memory `out`, in new memory where that is None.
        """
        shape = self.geometry
        if shape.axis is None:
            return None
        names, eta = self.names(), self.group_values("eta")
        roots = self.root_of_fisher(closure, rows, size)

        def axes(params: list[Tensor], out: list[Tensor] | None) -> list[Tensor]:
            gradients = wide(local(p.grad for p in params)) if roots is None else [roots[p] for p in params]
            of, etas = [names[p] for p in params], [eta[p] for p in params]
            return shape.inverse_metric(wide(local(params)), gradients, of, etas, out) or []

        return axes

    def root_of_fisher(self, closure: Closure, rows: slice | None, size: int | None) -> dict[Tensor, Tensor] | None:
        """Root of the Fisher information, which the geometry gets for g; None: the gradient of the batch."""
        return None

    def perturb(
        self, params: list[Tensor], inverse_metric: InverseMetric | None, gradient_at: GradientAt
    ) -> tuple[Sequence[Tensor], Tensor]:
        """d and its length, for eps = rho d / length: here D g and sqrt(g' D g), g being in `.grad`.

        Args:
            params: those that have a gradient.
            inverse_metric: D at w; None for D = 1.
            gradient_at: called as f(d, length) it makes a pass more, on the same rows, and leaves in `.grad` the
                gradient at w + rho d / length: for several steps of ascent.

        Returns:
            d, one tensor for each of params, and a length that is not finite where a gradient is not. What is returned
            here lies in memory that the next pass takes: copy what is to be kept.
        """
        return self._perturbed.direction(params, inverse_metric)

    def descend(self, params: list[Tensor], at_w: list[Tensor]) -> None:
        """Change the gradient that the step descends along, in `.grad`: it is the one at w + eps. Nothing by default.

        Args:
            params: those that had a gradient at w.
            at_w: their gradients there, copied for methods that override this.
        """

    def descent_gradient(self, closure: Closure, size: int | None) -> Tensor:
        if not self.active or (not self.natural and all(group["rho"] == 0 for group in self.param_groups)):
            return self.one_pass(closure)
        if self.m is None:
            return self._two_passes(closure, None, size)
        size = batch_size(size, f"{type(self).__name__} with m={self.m}")
        total: dict[Tensor, Tensor] = {}
        loss: Tensor | float = 0.0
        for start in range(0, size, self.m):
            rows = slice(start, min(start + self.m, size))
            share = (rows.stop - start) / size
            loss = loss + share * self._two_passes(closure, rows, size)
            params = self.trained()
            for p, g in zip(params, gradients_of(params), strict=True):
                total[p] = total[p].add_(g, alpha=share) if p in total else g * share
        for p, gradient in total.items():
            p.grad = gradient
        return torch.as_tensor(loss)

    def group_values(self, key: str) -> dict[Tensor, Any]:
        """An option's value for each parameter, that of its group; None where it has none."""
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
        at_w = self.kept_gradients() if self._own("descend") else None
        axes = inverse_metric(params, None) if self.natural and inverse_metric is not None else None
        rho, maximized = self.group_values("rho"), self.group_values("maximize")
        # The worst point of what a base maximises is downhill.
        radii = [-rho[p] if maximized[p] else rho[p] for p in params]

        def gradient_at(direction: Sequence[Tensor], norm: Tensor) -> None:
            copies = [d.clone() for d in direction]
            there = self._perturbed.at(params, copies, radii, norm)
            with self.processes.apart() if apart else nullcontext(), there, unmoved(self.model, start), replay.again():
                self.one_pass(closure, *arguments)

        gradients = gradients_of(params)
        direction, norm = self.perturb(params, inverse_metric, gradient_at)
        if self._own("perturb"):
            direction = [d.clone() for d in direction]  # what a method keeps is its own: below it is overwritten
        if not apart:
            self.require_finite(norm, loss, rows, size)
        elif not math.isfinite(norm):
            # All processes have to skip the step, not this one alone: the second pass tells them.
            radii = [math.nan] * len(params)
        if self.compare and self.alignment is None:
            self.alignment = alignment(scaled(direction, norm, radii), gradients, radii)
        there = self._perturbed.at(params, direction, radii, norm)
        with unmoved(self.model, start), there, replay.again():
            self.one_pass(closure, *arguments)
        if axes is not None:
            for p, d in zip(params, axes, strict=True):
                if p.grad is not None:
                    local([p.grad])[0].mul_(d)
        if at_w is not None:
            self.descend(params, [at_w[p] for p in params])
        return loss

    def _over_processes(self, loss: Tensor, size: int | None) -> Tensor:
        """The mean over all rows of a loss that each process has of its own."""
        size = batch_size(size, f"{type(self).__name__} with perturbation='local'")
        total = loss * (len(self.processes.own(range(size), size)) / size)
        self.processes.sum_([total])
        return total


class SAM(SharpnessAware):
    """Sharpness-aware minimisation: D = 1 (Foret et al. 2021; kim2022 eq. 1-3).

    Args:
        rho: radius, by default 0.05.

    Example:
        One step from w = (3, 4) with the gradient w: w - lr (w + rho w / ||w||).

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> def closure():
        ...     loss = w.square().sum() / 2
        ...     loss.backward()
        ...     return loss.detach()
        >>> optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.5)
        >>> optimizer.step(closure), w.data
        (tensor(12.5000), tensor([2.6700, 3.5600]))
    """

    stackable = True

    def __init__(
        self, params: Iterable[Any], base: type[torch.optim.Optimizer] = torch.optim.SGD, **options: Any
    ) -> None:
        super().__init__(params, base, geometry=EUCLIDEAN, **options)


class ASAM(SharpnessAware):
    """Adaptive SAM: D = T^2 with T = |w| + eta on weights, T = 1 on biases (Kwon et al. 2021; kim2022 eq. 4-5).

    As in the authors' code a tensor is scaled if its name contains "weight" (BatchNorm's too), so hand
    in `model.named_parameters()`; of tensors without names those with two or more dimensions are scaled.

    Args:
        rho: radius, by default 0.5.
        eta: added to |w|, >= 0, by default 0.01.
        scale: "weights", or "all" to scale every tensor.

    Example:
        The step of `SAM`'s example; T = |w| turns the perturbation to the larger weight.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = ASAM([("weight", w)], torch.optim.SGD, lr=0.1, rho=0.5, eta=0.0)
        >>> optimizer.step(closure), w.data
        (tensor(12.5000), tensor([2.6265, 3.4257]))
    """

    stackable = True

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        scale: str = "weights",
        **options: Any,
    ) -> None:
        if scale not in SCALES:
            raise ValueError(f"scale must be 'weights' or 'all', got {scale!r}")
        self.scale = scale
        super().__init__(params, base, geometry=SCALES[scale], **options)
        if scale == "weights" and any("param_names" not in group for group in self.param_groups):
            warnings.warn(
                "ASAM got parameters without names and takes every one-dimensional tensor for a bias, BatchNorm's "
                "scale too; hand in model.named_parameters() to scale as the ASAM paper does",
                stacklevel=2,
            )


class FSAM(SharpnessAware):
    """Fisher SAM: D = F^-1, the inverse of a diagonal Fisher information (Kim et al. 2022, eq. 8-12, algorithm 1).

    Not Friendly SAM (`FriendlySAM`), which goes by the same letters elsewhere.

    Args:
        rho: radius, by default 0.1.
        eta: regulariser of the inverse, >= 0 (> 0 in the additive form), by default 1.
        form: "multiplicative", D = 1/(1 + eta f), of the paper's experiments (section 5), or
            "additive", D = 1/(f + eta), of its section 3.
        fisher: "batch", f = g*g of the mini-batch mean gradient (eq. 12); "per_example", f = the mean
            of squared per-example gradients (eq. 11; N more passes, BatchNorm by its running
            statistics); "true", the same with labels drawn from the model. In these passes the loss is -log p(y|x),
            without label smoothing and the like: the closure is called as `closure(rows, sample_labels=True)` for
            "true", for "per_example" with False if it takes that argument; other passes don't give it.

    Example:
        The step of `SAM`'s example; F^-1 turns the perturbation to the smaller gradient.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = FSAM([w], torch.optim.SGD, lr=0.1, rho=0.5)
        >>> optimizer.step(closure), w.data
        (tensor(12.5000), tensor([2.6889, 3.5913]))
    """

    stackable = True

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        form: str = "multiplicative",
        fisher: str = "batch",
        **options: Any,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be 'multiplicative' or 'additive', got {form!r}")
        if fisher not in ("batch", "per_example", "true"):
            raise ValueError(f"fisher must be 'batch', 'per_example' or 'true', got {fisher!r}")
        self.form = form
        self.fisher = fisher
        super().__init__(params, base, geometry=FORMS[form], **options)

    def check_options(self, group: dict[str, Any]) -> None:
        super().check_options(group)
        if self.form == "additive" and group["eta"] == 0:
            raise ValueError("eta must be > 0 in the additive form 1/(f + eta), got 0")

    def unfit(self) -> set[str]:
        return super().unfit() | ({"sharded"} if self.fisher != "batch" else set())

    def root_of_fisher(self, closure: Closure, rows: slice | None, size: int | None) -> dict[Tensor, Tensor] | None:
        if self.fisher == "batch":
            return None
        squares = self._mean_of_squares(closure, rows, size, self.trained())
        return dict(zip(squares, torch._foreach_sqrt(list(squares.values())), strict=True))

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
        if any(without) and not all(without) and norm_of(total).isfinite():
            raise ValueError(no_rows(f"of example {own[without.index(True)]}", size))
        if self.perturbation == "global":
            self.processes.sum_(total)
        return dict(zip(params, total, strict=True))


class GSAM(SharpnessAware):
    """Surrogate gap guided SAM: SAM without what widens the gap L(w + eps) - L(w) (Zhuang et al. 2022, algorithm 1).

    With the gradients g at w and g_p at w + eps it descends along

        g_p - alpha (g - <g, g_p> g_p / ||g_p||^2),

    alpha times what of g is orthogonal to g_p being taken away. Where `rho_min` is given, the radius of each step
    follows the learning rate:

        rho_t = rho_min + (rho - rho_min) (lr_t - lr_min) / (lr_max - lr_min)

    with the group's rate lr_t and its peak lr_max, from which a scheduler of torch starts (`initial_lr`); beyond
    lr_min and lr_max it stays as it is there. The authors' code (JAX, and PyTorch) takes the gradients of each device's
    own rows, and adds 1e-12 to norms; here gradients are those of the whole mini-batch, and eps is zero where g is.

    Args:
        rho: radius, by default 0.05; with `rho_min` the paper's rho_max.
        alpha: >= 0, by default 0.4; 0 is SAM.
        rho_min: radius where the learning rate is lr_min, 0 to rho; None: the radius is rho throughout.
        lr_min: least learning rate of the schedule, >= 0.

    Example:
        The step of `SAM`'s example: both gradients are parallel, and nothing is taken away.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = GSAM([w], torch.optim.SGD, lr=0.1, rho=0.5, alpha=0.4)
        >>> optimizer.step(closure), w.data
        (tensor(12.5000), tensor([2.6700, 3.5600]))
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        alpha: float = 0.4,
        rho_min: float | None = None,
        lr_min: float = 0.0,
        **options: Any,
    ) -> None:
        check_not_negative(alpha=alpha, rho_min=rho_min or 0.0, lr_min=lr_min)
        self.alpha, self.rho_min, self.lr_min = alpha, rho_min, lr_min
        super().__init__(params, base, geometry=EUCLIDEAN, **options)

    def check_options(self, group: dict[str, Any]) -> None:
        super().check_options(group)
        if self.rho_min is not None and self.rho_min > group["rho"]:
            raise ValueError(f"rho_min must be at most rho, {group['rho']}, got {self.rho_min}")

    def unfit(self) -> set[str]:
        return super().unfit() | {"complex", "sparse"}

    def begin(self) -> Hashable:
        # Steps of other radii are other steps.
        return super().begin(), self.rho_min is not None and tuple(map(self._radius, self.param_groups))

    def group_values(self, key: str) -> dict[Tensor, Any]:
        if key != "rho" or self.rho_min is None:
            return super().group_values(key)
        return {p: self._radius(group) for group in self.param_groups for p in group["params"]}

    def _radius(self, group: dict[str, Any]) -> float:
        """rho_t of a group."""
        assert self.rho_min is not None
        lr, peak = float(group["lr"]), float(group.get("initial_lr", group["lr"]))
        share = (lr - self.lr_min) / (peak - self.lr_min) if peak > self.lr_min else 1.0
        return self.rho_min + (group["rho"] - self.rho_min) * min(max(share, 0.0), 1.0)

    def descend(self, params: list[Tensor], at_w: list[Tensor]) -> None:
        if self.alpha == 0:
            return
        inverse = inverse_or_zero(norm_of(gradients_of(self.trained())))
        pairs = [(g, p.grad) for p, g in zip(params, at_w, strict=True) if p.grad is not None]
        if not pairs:
            return
        g, perturbed = (list(tensors) for tensors in zip(*pairs, strict=True))
        # <g, g_p> / ||g_p||^2, without a square that could vanish.
        along = torch.stack(list(map(inner, wide(g), wide(perturbed)))).sum() * inverse * inverse
        torch._foreach_mul_(perturbed, 1 + self.alpha * along)
        torch._foreach_add_(perturbed, g, alpha=-self.alpha)


class FriendlySAM(SharpnessAware):
    """Friendly SAM: eps along the mini-batch's own noise, not along the full gradient (Li et al. 2024).

    With the mean of past gradients m_t = decay m_(t-1) + (1 - decay) g_t, m_0 = 0, in place of the full gradient

        eps = rho d / ||d||,  d = g_t - sigma m_t.

    Not Fisher SAM (`FSAM`). m is kept beside the base's state of each parameter; a step that is skipped leaves it as it
    was, and so does one without a second pass. With m-sharpness each sub-batch is a mini-batch. The authors' code
    starts with m_1 = g_1 and subtracts m_(t-1), which for sigma = 1 is the same direction from the same mean.

    Args:
        rho: radius, by default 0.05.
        sigma: share of the mean that is taken away, >= 0, by default 1; 0 is SAM.
        decay: of the mean (the paper's lambda), 0 to below 1, by default 0.9.

    Example:
        The first step of `SAM`'s example is SAM's: d is 0.9 g.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = FriendlySAM([w], torch.optim.SGD, lr=0.1, rho=0.5)
        >>> optimizer.step(closure), w.data
        (tensor(12.5000), tensor([2.6700, 3.5600]))
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        sigma: float = 1.0,
        decay: float = 0.9,
        **options: Any,
    ) -> None:
        check_not_negative(sigma=sigma)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        if options.get("perturbation") == "local":
            raise ValueError("perturbation='local' does not go with FriendlySAM: its mean is of the whole mini-batches")
        self.sigma, self.decay = sigma, decay
        # The means that the step in progress leaves, if it is taken.
        self._means: dict[Tensor, Tensor] = {}
        super().__init__(params, base, geometry=EUCLIDEAN, **options)

    def unfit(self) -> set[str]:
        return super().unfit() | {"sparse"}

    def descent_gradient(self, closure: Closure, size: int | None) -> Tensor:
        self._means = {}
        return super().descent_gradient(closure, size)

    def perturb(
        self, params: list[Tensor], inverse_metric: InverseMetric | None, gradient_at: GradientAt
    ) -> tuple[Sequence[Tensor], Tensor]:
        gradients = gradients_of(params)
        known = [self._means.get(p, self.state.get(p, {}).get("gradient_mean")) for p in params]
        before = [torch.zeros_like(p) if mean is None else mean for p, mean in zip(params, known, strict=True)]
        means = torch._foreach_lerp(before, gradients, 1 - self.decay)
        self._means.update(zip(params, means, strict=True))
        direction = list(torch._foreach_sub(wide(gradients), wide(means), alpha=self.sigma))
        return direction, norm_of(direction)

    def _base_step(self) -> None:
        super()._base_step()
        skipped = vars(self.base).get("found_inf")  # of a masked step
        for p, mean in self._means.items():
            if p.grad is None:  # the base has no state of it yet, and must be the first to make one
                continue
            kept = self.state[p].setdefault("gradient_mean", mean)
            if kept is not mean:
                kept.copy_(mean if skipped is None else torch.where(skipped > 0, kept, mean))
        self._means = {}


def _is_told(closure: Closure) -> bool:
    """True of a closure that takes `sample_labels`."""
    parameters = signature(closure).parameters.values()
    return any(p.name == "sample_labels" or p.kind == Parameter.VAR_KEYWORD for p in parameters)
