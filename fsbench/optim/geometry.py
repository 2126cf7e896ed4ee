"""Sharpness-aware perturbations as one formula on an ellipsoid; only its axes differ by method.

    eps* = argmax <g, eps>  subject to  eps' D^-1 eps <= rho^2   =   rho D g / sqrt(g' D g)

with D diagonal: one non-negative entry for each weight, a list of tensors shaped like the weights.
SAM: D = 1 (Foret et al. 2021; kim2022 eq. 2). ASAM: D = T^2 (Kwon et al. 2021; kim2022 eq. 5).
FSAM: D = F^-1, the inverse Fisher information (kim2022 eq. 10).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fsbench.optim.shards import is_sharded, local, over_shards

Tensors = Sequence[Tensor]


def wide(tensors: Tensors) -> list[Tensor]:
    """The same in fp32 where they are of a half type, in which squares vanish or overflow."""
    return [tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for tensor in tensors]


def norm_of(tensors: Tensors) -> Tensor:
    """The Euclidean norm of all tensors together, shards of other processes too."""
    if not any(is_sharded(tensor) for tensor in tensors):
        return torch.nn.utils.get_total_norm(wide(tensors))
    return over_shards(lambda parts: torch.nn.utils.get_total_norm(wide(parts)).square(), tensors).sqrt()


def euclidean(weights: Tensors) -> list[Tensor] | None:
    """D = 1, SAM's ball; None stands for it so that nothing is multiplied."""
    return None


def adaptive(
    weights: Tensors, scaled: Sequence[bool], eta: float | Sequence[float], out: Tensors | None = None
) -> list[Tensor]:
    """D = T^2, T = |w| + eta where `scaled`, else 1: ASAM (Kwon et al. 2021, eq. 3 and section 5).

    Three perturbations go by the name of ASAM; this is T^2 g / ||T g||, the paper's. `eta` is one for all or
    one for each tensor; `out` is the memory for D.
    """
    if out is None:
        t = torch._foreach_abs(list(weights))
    else:
        t = [torch.abs(w, out=o) for w, o in zip(weights, out, strict=True)]
    torch._foreach_add_(t, eta)
    torch._foreach_mul_(t, t)
    if ones := [d for d, scale in zip(t, scaled, strict=True) if not scale]:
        torch._foreach_zero_(ones)
        torch._foreach_add_(ones, 1)
    return t


def squared(gradients: Tensors, out: Tensors | None = None) -> list[Tensor]:
    """g * g, the Fisher information of a mini-batch by its mean gradient (kim2022, eq. 12)."""
    if out is None:
        return torch._foreach_mul(list(gradients), list(gradients))
    return [torch.mul(g, g, out=f) for g, f in zip(gradients, out, strict=True)]


def inverse_fisher(fisher: Tensors, eta: float | Sequence[float], form: str = "multiplicative") -> list[Tensor]:
    """D = F^-1 for a diagonal Fisher information f: FSAM (kim2022, sections 3 and 5).

    `multiplicative`: 1/(1 + eta f), the form of the paper's experiments; eta = 0 is SAM.
    `additive`: 1/(f + eta), the form of its section 3. `eta` is one for all or one for each tensor.
    """
    return inverse_fisher_([f.clone() for f in fisher], eta, form)


def inverse_fisher_(fisher: Tensors, eta: float | Sequence[float], form: str) -> list[Tensor]:
    """`inverse_fisher` in the memory of f."""
    d = list(fisher)
    if form == "additive":
        torch._foreach_add_(d, eta)
    else:
        torch._foreach_mul_(d, eta)
        torch._foreach_add_(d, 1)
    torch._foreach_reciprocal_(d)
    return d


def direction(gradients: Tensors, inverse_metric: Tensors | None) -> tuple[list[Tensor], Tensor]:
    """D g, and sqrt(g' D g) as a scalar tensor over all tensors; D = 1 where `inverse_metric` is None."""
    if inverse_metric is None:
        return wide(local(gradients)), norm_of(gradients)
    found = torch._foreach_mul(list(inverse_metric), wide(local(gradients)))
    return found, length(gradients, found)


def length(gradients: Tensors, direction: Tensors) -> Tensor:
    """sqrt(g' D g) of g and D g."""
    return over_shards(_inner_of_like_signs, gradients, direction).sqrt()


def _inner_of_like_signs(a: Tensors, b: Tensors) -> Tensor:
    """The sum of a * b over all tensors, no term being negative: its 1-norm then, which takes few launches."""
    return torch.stack(torch._foreach_norm(torch._foreach_mul(wide(a), wide(b)), 1)).sum()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum of a * b, in one sweep where both lie alike in memory."""
    dense = a.is_contiguous() or a.is_contiguous(memory_format=_DENSE.get(a.ndim, torch.contiguous_format))
    if dense and a.stride() == b.stride() and a.dtype in (torch.float32, torch.float64):
        return torch.dot(a.as_strided((a.numel(),), (1,)), b.as_strided((b.numel(),), (1,)))
    return torch.sum(a * b)


_DENSE = {4: torch.channels_last, 5: torch.channels_last_3d}


def inverse_or_zero(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))


def scaled(direction: Tensors, norm: Tensor | None, radii: Sequence[float]) -> list[Tensor]:
    """radius direction / norm, 0 where the norm is; a norm of None is 1."""
    if norm is None:
        return torch._foreach_mul(list(direction), list(radii))
    eps = torch._foreach_mul(list(direction), inverse_or_zero(norm))
    torch._foreach_mul_(eps, list(radii))
    return eps


def perturbation(
    gradients: Tensors, inverse_metric: Tensors | None, radii: Sequence[float]
) -> tuple[list[Tensor], Tensor]:
    """eps = rho D g / sqrt(g' D g), one global norm over all tensors; eps = 0 where g = 0.

    Args:
        gradients: g, one tensor per weight tensor.
        inverse_metric: D, shaped like g; None for D = 1.
        radii: rho of each tensor (all equal unless parameter groups differ).

    Returns:
        eps, and the norm sqrt(g' D g) as a scalar tensor: not finite where the gradient is not.
    """
    along, norm = direction(gradients, inverse_metric)
    return scaled(along, norm, radii), norm


def alignment(eps: Tensors, gradients: Tensors, radii: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Cosine, and ratio of lengths, between eps and SAM's eps at the same rho."""
    reference, _ = perturbation(gradients, None, radii)

    def inner(a: Tensors, b: Tensors) -> Tensor:
        return over_shards(lambda _, *parts: _inner_of_like_signs(*parts), gradients, a, b)

    own, sams = inner(eps, eps).sqrt(), inner(reference, reference).sqrt()
    # D >= 0, so eps and SAM's have like signs. Rounding may not make them more than parallel.
    return (inner(eps, reference) / (own * sams)).clamp(max=1), own / sams
