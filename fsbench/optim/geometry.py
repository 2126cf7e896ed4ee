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

Tensors = Sequence[Tensor]


def euclidean(weights: Tensors) -> list[Tensor] | None:
    """D = 1, SAM's ball; None stands for it so that nothing is multiplied."""
    return None


def adaptive(weights: Tensors, scaled: Sequence[bool], eta: float) -> list[Tensor]:
    """D = T^2, T = |w| + eta where `scaled`, else 1: ASAM (Kwon et al. 2021, eq. 3 and section 5).

    Three perturbations go by the name of ASAM; this is T^2 g / ||T g||, the paper's.
    """
    return [
        (w.abs() + eta).square_() if scale else torch.ones_like(w) for w, scale in zip(weights, scaled, strict=True)
    ]


def inverse_fisher(fisher: Tensors, eta: float, form: str = "multiplicative") -> list[Tensor]:
    """D = F^-1 for a diagonal Fisher information f: FSAM (kim2022, sections 3 and 5).

    `multiplicative`: 1/(1 + eta f), the form of the paper's experiments; eta = 0 is SAM.
    `additive`: 1/(f + eta), the form of its section 3.
    """
    if form == "additive":
        return [(f + eta).reciprocal_() for f in fisher]
    return [(1 + eta * f).reciprocal_() for f in fisher]


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
    if inverse_metric is None:
        direction = list(gradients)
        norm = torch.nn.utils.get_total_norm(direction)
    else:
        direction = torch._foreach_mul(list(inverse_metric), list(gradients))
        norm = torch.stack([torch.sum(g * d) for g, d in zip(gradients, direction, strict=True)]).sum().sqrt()
    scale = torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))
    eps = torch._foreach_mul(direction, scale)
    torch._foreach_mul_(eps, list(radii))
    return eps, norm


def alignment(eps: Tensors, gradients: Tensors, radii: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Cosine, and ratio of lengths, between eps and SAM's eps at the same rho."""
    reference, _ = perturbation(gradients, None, radii)
    norm = torch.nn.utils.get_total_norm(list(eps))
    reference_norm = torch.nn.utils.get_total_norm(reference)
    inner = torch.stack([torch.sum(e * r) for e, r in zip(eps, reference, strict=True)]).sum()
    # Rounding may not make it more than parallel.
    return (inner / (norm * reference_norm)).clamp(-1, 1), norm / reference_norm
