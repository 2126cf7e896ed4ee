"""The neighbourhoods of sharpness-aware methods, each defined once: for training, populations and measures alike.

eps' D^-1 eps <= rho^2 with D diagonal, one non-negative entry for each weight (kim2022, sections 2 and 3).
Imports no torch: what knows names and defaults alone stays quick to start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Sequence["Tensor"]
Names = Sequence[str]
Etas = Sequence[Any]  # a number each; in populations a tensor that broadcasts, a number for each member
Axis = Callable[["Tensor", "Tensor", str, Any], "Tensor"]
# From weights, gradients, names and etas to D, in the memory handed in, in new memory where that is None.
Fast = Callable[[Tensors, Tensors, Names, Etas, "Tensors | None"], "list[Tensor]"]


@dataclass(frozen=True)
class Geometry:
    """The shape of a neighbourhood: D of each weight tensor by itself.

    Args:
        name: of the method.
        axis: D of one tensor, shaped like it or broadcast to it, from its values w, the mini-batch gradient g there (or
            the root of another Fisher information), its name ("weight" or "bias" by its dimensions where it has none)
            and eta. Built of torch's functions, without a look at values, so that it can be mapped over the members
            of a population. None: D = 1.
        defaults: rho and, where the geometry has one, eta.
        fast: D of all tensors in few sweeps. Entry by entry, so that it serves weights that are stacked or sharded
            as well, etas then being tensors that broadcast. Equal to `axis`.
        unfit: kinds of weights and gradients ("complex", "sparse", "sharded") that it can't do with.

    Example:
        A layer-wise SAM, every tensor perturbed in proportion to its length:

        >>> Geometry("layerwise", lambda w, g, name, eta: w.square().sum(), {"rho": 0.05}).defaults
        {'rho': 0.05}
    """

    name: str
    axis: Axis | None
    defaults: Mapping[str, float]
    fast: Fast | None = field(default=None, kw_only=True)
    unfit: frozenset[str] = field(default=frozenset({"complex", "sparse", "sharded"}), kw_only=True)

    def inverse_metric(
        self, weights: Tensors, gradients: Tensors, names: Names, etas: Etas, out: Tensors | None = None
    ) -> list[Tensor] | None:
        """D of every tensor, in the memory `out` or in new memory; None for D = 1."""
        if self.axis is None:
            return None
        if self.fast is not None:
            return self.fast(weights, gradients, names, etas, out)
        into = [w.detach().clone() for w in weights] if out is None else list(out)
        for d, values in zip(into, zip(weights, gradients, names, etas, strict=True), strict=True):
            d.copy_(self.axis(*values))
        return into


def is_weight(name: str) -> bool:
    """As in the authors' code of ASAM: a tensor is scaled if its name contains "weight", BatchNorm's scale too."""
    return "weight" in name


def _adaptive(w: Tensor, g: Tensor, name: str, eta: Any) -> Tensor:
    return _adaptive_of_all(w, g, name, eta) if is_weight(name) else w.new_ones(w.shape)


def _adaptive_of_all(w: Tensor, g: Tensor, name: str, eta: Any) -> Tensor:
    return (w.abs() + eta).square()


def _inverse_fisher(w: Tensor, g: Tensor, name: str, eta: Any) -> Tensor:
    return 1 / (1 + eta * g.square())


def _inverse_fisher_additive(w: Tensor, g: Tensor, name: str, eta: Any) -> Tensor:
    return 1 / (g.square() + eta)


def _fast_adaptive(weights: Tensors, gradients: Tensors, names: Names, etas: Etas, out: Tensors | None) -> list[Tensor]:
    import torch

    t = _fast_adaptive_of_all(weights, gradients, names, etas, out)
    if ones := [d for d, name in zip(t, names, strict=True) if not is_weight(name)]:
        torch._foreach_zero_(ones)
        torch._foreach_add_(ones, 1)
    return t


def _fast_adaptive_of_all(
    weights: Tensors, gradients: Tensors, names: Names, etas: Etas, out: Tensors | None
) -> list[Tensor]:
    import torch

    if out is None:
        t = list(torch._foreach_abs(list(weights)))
    else:
        t = [torch.abs(w, out=o) for w, o in zip(weights, out, strict=True)]
    torch._foreach_add_(t, etas)
    torch._foreach_mul_(t, t)
    return t


def _squared(gradients: Tensors, out: Tensors | None) -> list[Tensor]:
    import torch

    if out is None:
        return list(torch._foreach_mul(list(gradients), list(gradients)))
    return [torch.mul(g, g, out=f) for g, f in zip(gradients, out, strict=True)]


def _fast_inverse_fisher(
    weights: Tensors, gradients: Tensors, names: Names, etas: Etas, out: Tensors | None
) -> list[Tensor]:
    import torch

    d = _squared(gradients, out)
    torch._foreach_mul_(d, etas)
    torch._foreach_add_(d, 1)
    torch._foreach_reciprocal_(d)
    return d


def _fast_inverse_fisher_additive(
    weights: Tensors, gradients: Tensors, names: Names, etas: Etas, out: Tensors | None
) -> list[Tensor]:
    import torch

    d = _squared(gradients, out)
    torch._foreach_add_(d, etas)
    torch._foreach_reciprocal_(d)
    return d


# SAM (Foret et al. 2021; kim2022 eq. 2).
EUCLIDEAN = Geometry("sam", None, {"rho": 0.05}, unfit=frozenset())
# ASAM: D = T^2, T = |w| + eta (Kwon et al. 2021, eq. 3 and section 5; kim2022 eq. 5). Three perturbations go by that
# name; with this D it is T^2 g / ||T g||, the paper's.
ADAPTIVE_OF_ALL = Geometry(
    "asam", _adaptive_of_all, {"rho": 0.5, "eta": 0.01}, fast=_fast_adaptive_of_all, unfit=frozenset({"complex"})
)
# T = 1 on biases.
ADAPTIVE = replace(ADAPTIVE_OF_ALL, axis=_adaptive, fast=_fast_adaptive)
# FSAM: D = F^-1, the inverse of the diagonal Fisher information f = g g of a mini-batch (kim2022, eq. 10 and 12),
# as in the paper's experiments, ...
INVERSE_FISHER = Geometry(
    "fsam", _inverse_fisher, {"rho": 0.1, "eta": 1.0}, fast=_fast_inverse_fisher,
    unfit=frozenset({"complex", "sparse"}),
)  # fmt: skip
# ... and as in its section 3.
INVERSE_FISHER_ADDITIVE = replace(INVERSE_FISHER, axis=_inverse_fisher_additive, fast=_fast_inverse_fisher_additive)

# By the options of ASAM and FSAM, and by name.
SCALES = {"weights": ADAPTIVE, "all": ADAPTIVE_OF_ALL}
FORMS = {"multiplicative": INVERSE_FISHER, "additive": INVERSE_FISHER_ADDITIVE}
# Balls ||eps / c||_p <= rho that worst cases are looked for in, each with its radius where none is given.
BALLS = {"l2": 0.5, "linf": 0.001}
GEOMETRIES = {geometry.name: geometry for geometry in (EUCLIDEAN, ADAPTIVE, INVERSE_FISHER)}
