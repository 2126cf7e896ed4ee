"""The problem of normalized sharpness for one matrix, by a general optimiser."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from torch import Tensor


def reference_minimum(curvature: Tensor, squares: Tensor) -> float:
    """inf over x, y of sum_ij a_ij e^(x_i + y_j) + b_ij e^-(x_i + y_j) for small matrices of moderate entries."""
    a, b = curvature.double().numpy(), squares.double().numpy()
    if not (a > 0).any() or not (b > 0).any():
        return 0.0
    m = len(a)
    # Scaled to order one; the value scales with the root of the product.
    unit = np.sqrt(a.max() * b.max())
    a, b = a / a.max(), b / b.max()

    def terms(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        exponent = np.clip(z[:m, None] + z[None, m:], -300, 300)
        return a * np.exp(exponent), b * np.exp(-exponent)

    def value(z: np.ndarray) -> float:
        p, q = terms(z)
        return (p + q).sum()

    def gradient(z: np.ndarray) -> np.ndarray:
        p, q = terms(z)
        return np.concatenate([(p - q).sum(1), (p - q).sum(0)])

    def hessian(z: np.ndarray) -> np.ndarray:
        both = np.add(*terms(z))
        return np.block([[np.diag(both.sum(1)), both], [both.T, np.diag(both.sum(0))]])

    start = np.zeros(sum(a.shape))
    found = minimize(
        value, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-12, "maxiter": 3000}
    )
    return float(found.fun) * unit
