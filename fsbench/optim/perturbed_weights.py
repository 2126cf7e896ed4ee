"""The weights at w + eps and back, without recomputing w: where every second pass is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fsbench.optim.ellipsoid import direction, gradients_of, inner, inverse_or_zero, length, local, scaled, wide

# D at w of some of the parameters whose `.grad` holds g, in new memory or in the one handed in.
InverseMetric = Callable[[list[Tensor], list[Tensor] | None], list[Tensor]]


class PerturbedWeights:
    """Memory of the size of the weights, made once, and the two ways there and back.

    On a CPU the perturbed weights are written into this memory in one sweep and the parameters point to it for the
    length of the pass; w itself is never touched. Elsewhere w is saved in this memory and the parameters move in
    place, all tensors in one call, so that addresses stay.

    The memory is no part of a state: copies and pickles start without it.
    """

    def __init__(self) -> None:
        self._kept: dict[Tensor, Tensor] = {}

    def __reduce__(self) -> tuple[type[PerturbedWeights], tuple[()]]:
        return PerturbedWeights, ()

    def memory(self, params: list[Tensor]) -> list[Tensor]:
        for p, own in zip(params, local(params), strict=True):
            kept = self._kept.get(p)
            if kept is None or _form(kept) != _form(own):
                self._kept[p] = torch.empty_like(own, requires_grad=False)
        return [self._kept[p] for p in params]

    def direction(self, params: list[Tensor], inverse_metric: InverseMetric | None) -> tuple[list[Tensor], Tensor]:
        """D g, and sqrt(g' D g). D g may be `.grad` itself or lie in the memory: it is gone once the weights move."""
        gradients = gradients_of(params)
        if inverse_metric is None:
            return direction(gradients, None)
        if not _swaps(params) or any(p.dtype in (torch.float16, torch.bfloat16) for p in params):
            along = inverse_metric(params, None)
            torch._foreach_mul_(along, wide(local(gradients)))
            return along, length(gradients, along)
        # Tensor by tensor, so that what is computed in between stays in the cache.
        memory, products = self.memory(params), []
        for p, g, b in zip(params, gradients, memory, strict=True):
            (d,) = inverse_metric([p], [b])
            (b if d is b else b.copy_(d)).mul_(g)
            products.append(inner(g, b))
        return memory, torch.stack(products).sum().sqrt()

    @contextmanager
    def at(
        self, params: list[Tensor], direction: Sequence[Tensor], radii: Sequence[float], norm: Tensor | None = None
    ) -> Iterator[None]:
        """Weights at w + radius direction / norm inside, at exactly w after, also when the pass inside fails.

        With a norm, `direction` may be overwritten.
        """
        memory = self.memory(params)
        if _swaps(params):
            scale = 1.0 if norm is None else inverse_or_zero(norm).item()
            at_w = [p.data for p in params]
            for p, d, radius, b in zip(at_w, direction, radii, memory, strict=True):
                torch.add(p, d, alpha=radius * scale, out=b)
            try:
                _point(params, memory)
                yield
            finally:
                _point(params, at_w)
            return
        params = local(params)
        torch._foreach_copy_(memory, params)
        try:
            if norm is not None:
                torch._foreach_mul_(list(direction), inverse_or_zero(norm))
            if len(set(radii)) == 1:
                torch._foreach_add_(params, list(direction), alpha=radii[0])
            else:
                torch._foreach_add_(params, scaled(direction, None, radii))
            torch.clear_autocast_cache()
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, memory)
            torch.clear_autocast_cache()


def _swaps(params: list[Tensor]) -> bool:
    """True where the parameters may point elsewhere for a while: plain dense tensors on a CPU."""
    return all(
        p.device.type == "cpu" and type(p) in (Tensor, nn.Parameter) and p.layout == torch.strided for p in params
    )


def _point(params: list[Tensor], values: list[Tensor]) -> None:
    # Autocast around the whole step would go on with the halved weights of the pass before.
    torch.clear_autocast_cache()
    for p, value in zip(params, values, strict=True):
        p.data = value


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


@contextmanager
def perturbed(params: Sequence[Tensor], eps: Sequence[Tensor]) -> Iterator[None]:
    """Weights at w + eps inside, at exactly w after; for a single visit."""
    with PerturbedWeights().at(list(params), eps, [1.0] * len(params)):
        yield
