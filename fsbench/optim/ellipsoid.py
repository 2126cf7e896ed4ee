"""Sharpness-aware perturbations as one formula on an ellipsoid; only its axes differ by method (`Geometry`).

    eps* = argmax <g, eps>  subject to  eps' D^-1 eps <= rho^2   =   rho D g / sqrt(g' D g)

with D diagonal: one non-negative entry for each weight, a list of tensors shaped like the weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = Sequence[Tensor]


def is_sharded(tensor: Any) -> bool:
    """True of a weight whose parts lie on several processes: a DTensor, as `fully_shard` makes it."""
    return hasattr(tensor, "to_local")


def local(tensors: Iterable[Any]) -> list[Tensor]:
    """This process's shards, in the memory of the whole; other tensors are their own."""
    return [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]


def over_shards(total: Callable[..., Tensor], *lists: Sequence[Any]) -> Tensor:
    """`total` of lists of shards, a scalar that adds up over tensors and their parts, over all processes.

    One exchange for each way in which the tensors of the first list are sharded.
    """
    ways: dict[Any, list[int]] = defaultdict(list)
    for index, tensor in enumerate(lists[0]):
        # The mesh, and along which of its dimensions the parts differ.
        way = (tensor.device_mesh, tuple(not p.is_replicate() for p in tensor.placements)) if is_sharded(tensor) else ()
        ways[way].append(index)
    parts = []
    for way, of in ways.items():
        part = total(*(local(some[i] for i in of) for some in lists))
        if way:
            from torch.distributed.tensor import DTensor, Partial, Replicate

            mesh, differs = way
            part = DTensor.from_local(part, mesh, [Partial() if d else Replicate() for d in differs]).full_tensor()
        parts.append(part)
    return sum(parts[1:], parts[0])


def gradients_of(params: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of the parameters that have one."""
    return [p.grad for p in params if p.grad is not None]


def wide(tensors: Tensors) -> list[Tensor]:
    """The same in fp32 where they are of a half type, in which squares vanish or overflow."""
    return [tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for tensor in tensors]


def norm_of(tensors: Tensors) -> Tensor:
    """The Euclidean norm of all tensors together, shards of other processes too."""
    if not any(is_sharded(tensor) for tensor in tensors):
        return torch.nn.utils.get_total_norm(wide(tensors))
    return over_shards(lambda parts: torch.nn.utils.get_total_norm(wide(parts)).square(), tensors).sqrt()


def direction(gradients: Tensors, inverse_metric: Tensors | None) -> tuple[list[Tensor], Tensor]:
    """D g, and sqrt(g' D g) as a scalar tensor over all tensors; D = 1 where `inverse_metric` is None."""
    if inverse_metric is None:
        return wide(local(gradients)), norm_of(gradients)
    found = list(torch._foreach_mul(list(inverse_metric), wide(local(gradients))))
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
        return list(torch._foreach_mul(list(direction), list(radii)))
    eps = list(torch._foreach_mul(list(direction), inverse_or_zero(norm)))
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
