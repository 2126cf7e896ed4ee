"""The Hessian of a risk as a linear map: products with vectors by double backward, the matrix never formed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.risk import Risk

Tensors = Sequence[Tensor]

# A product keeps the forward pass, the gradient's own graph and what the second backward pass makes of both.
GRAPHS = 5

# How the operations say that they have no second derivative: torch's own, Python functions, compiled networks.
_ONCE_ONLY = re.compile(r"derivative for (\S+) is not implemented|once_differentiable|support double backward")


class HessianOperator:
    """v -> H v with H = d2 L / dw dw, exact for every network that is twice differentiable (almost everywhere).

    The gradient's graph is built once for a piece of the data and used for all vectors handed in together. Weights
    that have no second derivative (unused ones, or a loss linear in them) get zeros.

    Args:
        risk: L.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
    """

    def __init__(self, risk: Risk) -> None:
        self.risk = risk
        self.size = sum(p.numel() for p in risk.weights)

    def products(self, blocks: Sequence[Tensors], what: str = "Hessian products") -> list[list[Tensor]]:
        """H v for each v of `blocks`; vectors and products are lists of tensors shaped like `risk.weights`."""
        flat = iter(self._mean(blocks, lambda block, product: list(product), what))
        return [[next(flat) for _ in self.risk.weights] for _ in blocks]

    def quadratic_forms(self, blocks: Sequence[Tensors], what: str = "Hessian products") -> Tensor:
        """v_d . (H v)_d for each vector v (rows) and weight tensor d (columns), float64; a row sums to v' H v.

        Holds one product at a time, where `products` holds them all.
        """

        def forms(block: Tensors, product: Tensors) -> list[Tensor]:
            return [torch.stack([(v * h).sum(dtype=torch.float64) for v, h in zip(block, product, strict=True)])]

        return torch.stack(self._mean(blocks, forms, what))

    def flat(self, vectors: Tensor, what: str = "Hessian products") -> Tensor:
        """H v for vectors of all weights in one: (W,) to (W,), or the rows of (m, W) to those of (m, W)."""
        rows = vectors if vectors.dim() == 2 else vectors.unsqueeze(0)
        products = torch.stack([self.join(product) for product in self.products([self.cut(v) for v in rows], what)])
        return products if vectors.dim() == 2 else products.squeeze(0)

    def cut(self, vector: Tensor) -> list[Tensor]:
        """A vector of all weights (W,) as tensors shaped and typed like `risk.weights`."""
        if vector.shape != (self.size,):
            raise ValueError(f"a vector must have one entry for each of the {self.size} weights, got {vector.shape}")
        parts = vector.split([p.numel() for p in self.risk.weights])
        return [part.view(p.shape).to(p) for part, p in zip(parts, self.risk.weights, strict=True)]

    def join(self, tensors: Tensors) -> Tensor:
        """The reverse of `cut`: (W,)."""
        return torch.cat([tensor.flatten() for tensor in tensors])

    def _mean(
        self, blocks: Sequence[Tensors], of: Callable[[Tensors, Tensors], list[Tensor]], what: str
    ) -> list[Tensor]:
        """Means over the examples of what `of(v, H v)` gives, for one vector after the other; linear in H v."""
        if not blocks:
            raise ValueError("products need at least one vector")
        weights = self.risk.weights
        shapes = [p.shape for p in weights]
        if any([v.shape for v in block] != shapes for block in blocks):
            raise ValueError(f"a vector must hold tensors shaped like {', '.join(self.risk.names)}")

        def parts(x: Tensor, y: Tensor) -> list[Tensor]:
            found: list[Tensor] = []
            with twice_differentiable():
                gradient = summed_gradient(self.risk, x, y)
                bent = [i for i, g in enumerate(gradient) if g.requires_grad]
                for number, block in enumerate(blocks, 1):
                    if bent:
                        product: Tensors = torch.autograd.grad(
                            [gradient[i] for i in bent],
                            weights,
                            [block[i] for i in bent],
                            retain_graph=number < len(blocks),
                            materialize_grads=True,
                        )
                    else:
                        product = [torch.zeros_like(p) for p in weights]
                    found += of(block, product)
            return found

        return self.risk.mean(parts, self.risk.piece(GRAPHS * self.risk.activation_bytes), what)


def summed_gradient(risk: Risk, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Gradient of the sum (not the mean) of the examples' losses, with its own graph; by `torch.autograd.grad`."""
    loss = risk.loss(risk.model(x), y) * len(y)
    return torch.autograd.grad(loss, risk.weights, create_graph=True, materialize_grads=True)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Gradients on, attention in its plain form (the fused ones have no second derivative), Refused where one lacks."""
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as failure:
        found = _ONCE_ONLY.search(str(failure))
        if found is None:
            raise
        operation = found.group(1) or str(failure).splitlines()[0]
        raise Refused(f"the network has no second derivative in torch: {operation}") from failure


def signs(size: int, generator: torch.Generator) -> Tensor:
    """`size` independent +1 and -1, each with probability 1/2."""
    return torch.empty(size).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
