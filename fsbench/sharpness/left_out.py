"""The large part of a Hessian from products with random vectors, and that part as if each vector had been left out."""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.sharpness.derivatives.hessian_operator import HessianOperator
from fsbench.sharpness.risk import Risk


class LeftOut:
    """Y = H O of k Gaussian vectors o_i, an orthonormal basis Q of its range, and H Q: 2 k products.

    P_i = Q (1 - s_i s_i') Q' is the projection onto the range of Y without its column i, so o_i is independent of it.
    Everything is float64 in the computer's memory.

    Args:
        products: at least 4; an odd one is not made.
        seed: of the vectors.

    Attributes:
        omega, y, q, z: O, H O, Q and H Q, (W, k).
        r, s: Y = Q r; the unit vectors s_i, its columns, (k, k).
        whole: the range holds all of H, so that nothing is left to sample, and s is zero.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
        ValueError: products < 4.

    Source: Epperly, Tropp & Webber 2024, "XTrace: making the most of every sample in stochastic trace estimation".
    """

    def __init__(self, risk: Risk, products: int, seed: int) -> None:
        if products < 4:
            raise ValueError(f"products={products}: must be at least 4")
        operator = HessianOperator(risk)
        k = min(products // 2, operator.size)
        generator = torch.Generator().manual_seed(seed)
        self.omega = torch.randn(k, operator.size, dtype=torch.float64, generator=generator).T
        self.y = _multiplied(operator, self.omega)
        self.q, self.r = torch.linalg.qr(self.y)
        self.z = _multiplied(operator, self.q)
        self.whole = k == operator.size or int(torch.linalg.matrix_rank(self.r)) < k
        inverse = torch.zeros_like(self.r) if self.whole else torch.linalg.inv(self.r).T
        self.s = torch.nn.functional.normalize(inverse, dim=0)


def _multiplied(operator: HessianOperator, vectors: Tensor) -> Tensor:
    """H times the columns of (W, k), in float64 on the CPU, as many together as fit into the risk's memory."""
    itemsize = max(p.element_size() for p in operator.risk.weights)
    fit = operator.risk.piece(2 * operator.size * itemsize)
    made = [operator.flat(block, "products with random vectors").double().cpu() for block in vectors.T.split(fit)]
    return torch.cat(made).T
