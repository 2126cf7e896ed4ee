"""XDiag: the diagonal of a matrix by products with vectors that find its large part and sample the rest."""

from __future__ import annotations

import torch

from fsbench.sharpness.estimate import Diagonal
from fsbench.sharpness.left_out import LeftOut
from fsbench.sharpness.risk import Risk


def xdiag(risk: Risk, *, products: int = 100, seed: int = 0) -> Diagonal:
    """diag H of any twice differentiable network from `products` Hessian-vector products.

    With the vectors o_i and the projections P_i of `LeftOut`, all products of vectors elementwise,

        d_i = diag(P_i H) + o_i * (1 - P_i) H o_i,    diag H ~ mean of d_i

    Each d_i is unbiased; its first term is exact. With Q, Z = H Q, s_i and Y = Q R, o_i * (1 - P_i) H o_i is
    o_i * Q s_i (s_i' r_i), and diag(P_i H) the row sums of Q * Z less Q s_i * Z s_i.

    Args:
        products: at least 4; an odd one is not made. Of a matrix of rank below k the diagonal is exact.
        seed: of the vectors.

    Returns:
        values; stderr: for each entry, sample standard deviation of d_i / sqrt(k), which takes them as independent
        (they share most of P_i); samples: products made.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
        ValueError: products < 4.

    Source: Epperly, Tropp & Webber 2024, "XTrace: making the most of every sample in stochastic trace estimation".
    Signs for o_i would spread a little less; the products of normal vectors hold the whole range of a matrix of low
    rank with certainty.
    """
    found = LeftOut(risk, products, seed)
    k = found.omega.shape[1]
    values, errors = {}, {}
    for name, p, rows in zip(
        risk.names, risk.weights, torch.arange(len(found.q)).split([p.numel() for p in risk.weights]), strict=True
    ):
        q, z = found.q[rows], found.z[rows]
        inside = (q * z).sum(1)
        if found.whole:
            values[name] = inside.view(p.shape).to(p)
            continue
        left = (q @ found.s) * ((found.s * found.r).sum(0) * found.omega[rows] - z @ found.s)
        values[name] = (inside + left.mean(1)).view(p.shape).to(p)
        errors[name] = (left.std(1) / k**0.5).view(p.shape).to(p)
    return Diagonal(
        values=values,
        stderr=None if found.whole else errors,
        samples=2 * k,
        exact=found.whole,
        seed=seed,
        method="xdiag",
    )
