"""XTrace: the trace of a matrix by products with vectors that find its large part and sample the rest."""

from __future__ import annotations

import torch

from fsbench.sharpness.estimate import Estimate, standard_error
from fsbench.sharpness.left_out import LeftOut
from fsbench.sharpness.risk import Risk


def xtrace(risk: Risk, *, products: int = 100, seed: int = 0) -> Estimate:
    """Tr H of any twice differentiable network from `products` Hessian-vector products.

    Half of them, k, make the range Y = H O of k Gaussian vectors o_i; the others, H Q, are of its orthonormal basis Q.
    With P_i the projection onto the range of Y without its column i, and x_i = (1 - P_i) o_i,

        t_i = Tr(P_i H) + (W - k + 1) x_i' H x_i / ||x_i||^2,    Tr H ~ mean of t_i

    Each t_i is unbiased. The first term is exact, and the second one, Hutchinson's estimate of what is left, has little
    variance where few eigenvalues are large. It holds 3 k vectors of all W weights in float64 in the computer's memory.

    Args:
        products: at least 4; an odd one is not made. Of a matrix of rank below k the trace is exact.
        seed: of the vectors.

    Returns:
        value; stderr: sample standard deviation of t_i / sqrt(k), which takes them as independent. They share most of
        P_i, and it is too small: intervals of 95 % held the truth in 92 and 94 of 100 draws for k = 15 and two small
        networks, in 88 for k = 49 and a convolutional one. samples: products made; per_layer, likewise unbiased.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
        ValueError: products < 4.

    Source: Epperly, Tropp & Webber 2024, "XTrace: making the most of every sample in stochastic trace estimation".
    """
    found = LeftOut(risk, products, seed)
    omega, y, q, z, s, whole = found.omega, found.y, found.q, found.z, found.s, found.whole
    size, k = omega.shape
    w = q.T @ omega
    v = w - s * (s * w).sum(0)
    x, hx = omega - q @ v, y - z @ v
    scale = torch.zeros(k, dtype=torch.float64) if whole else (size - k + 1) / x.square().sum(0)
    parts = []
    for rows in torch.arange(size).split([p.numel() for p in risk.weights]):
        inside = q[rows].T @ z[rows]
        parts.append(inside.trace() - (s * (inside @ s)).sum(0) + scale * (x[rows] * hx[rows]).sum(0))
    table = torch.stack(parts)
    totals = table.sum(0)
    return Estimate(
        value=float(totals.mean()),
        stderr=0.0 if whole else standard_error(totals),
        samples=2 * k,
        exact=whole,
        degrees=k - 1,
        per_layer=dict(zip(risk.names, table.mean(1).tolist(), strict=True)),
        seed=seed,
        method="xtrace",
    )
