"""The largest eigenvalues of the Hessian, by Lanczos iteration on Hessian-vector products."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from fsbench.sharpness.derivatives.hessian_operator import HessianOperator
from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.risk import Risk

# Vectors that ARPACK keeps at least; a network with no more weights than that is handled by its whole Hessian.
LEAST_BASIS = 20
# A tolerance that whatever the first basis holds meets.
ANY = 1e30


_INCOMPLETE = "An eigenvalue, but whether a larger one was passed over (one that coincides with another) is open."


class _OutOfProducts(Exception):
    pass


def hessian_top_eigenvalues(
    risk: Risk,
    k: int = 1,
    *,
    tolerance: float = 1e-6,
    max_products: int = 1000,
    seed: int = 0,
) -> list[Estimate]:
    """The k largest eigenvalues of H = d2 L / dw dw, largest first; `hessian_top_eigenpairs` without the vectors.

    Example:
        >>> print(*hessian_top_eigenvalues(risk, 2))
        0.746382 0.467564
    """
    pairs = hessian_top_eigenpairs(risk, k, tolerance=tolerance, max_products=max_products, seed=seed)
    return [value for value, _ in pairs]


def hessian_top_eigenpairs(
    risk: Risk,
    k: int = 1,
    *,
    tolerance: float = 1e-6,
    max_products: int = 1000,
    seed: int = 0,
) -> list[tuple[Estimate, dict[str, Tensor]]]:
    """The k largest eigenvalues of H with their unit eigenvectors, a tensor for each trained weight tensor.

    Restarted Lanczos iteration (ARPACK) from a random vector. It keeps max(2 k + 1, 20) vectors of all weights in
    double precision in the computer's memory.

    Args:
        k: how many, 1 to W.
        tolerance: wanted residual ||H v - lambda v||, relative to the largest |lambda|; not asked for below a
            hundred times the precision of the products (1e-5 in single precision).
        max_products: Hessian-vector products at most, besides k for the residuals after each of up to three rounds.
        seed: of the start vector, which the result does not depend on up to `tolerance`.

    Returns:
        For each eigenvalue: value, v' H v; details["residual"], ||H v - lambda v||: some eigenvalue of H is no
        further than that from the value; details["products"]: how many were spent on all k; per_layer:
        v_d . (H v)_d, summing to the value. Where the residual is above the tolerance, `exact` is False, stderr NaN
        and a note says so; the first one's value is still a lower bound of the largest eigenvalue. A network
        of at most max(2 k + 1, 20) weights is handled by its whole Hessian.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
        ValueError: an argument out of its range.

    Source: Lanczos 1950; ARPACK (Lehoucq et al. 1998). Beyond the papers.

    Example:
        >>> (value, vector), = hessian_top_eigenpairs(risk)
        >>> print(value, list(vector))
        0.746382 ['0.weight', '2.weight']
    """
    operator = HessianOperator(risk)
    if not 1 <= k <= operator.size:
        raise ValueError(f"k={k}: must be 1 to {operator.size}, the number of weights")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance={tolerance}: must be a finite number > 0")
    basis = max(2 * k + 1, LEAST_BASIS)
    # The product that tells whether H is zero, ARPACK's own with the start vector, and the first basis.
    least = operator.size if operator.size <= basis else basis + 2
    if max_products < least:
        raise ValueError(f"max_products={max_products}: must be at least {least} for k={k}")
    if operator.size <= basis:
        whole = operator.flat(torch.eye(operator.size, dtype=torch.float64)).double().cpu().numpy()
        values, vectors = np.linalg.eigh((whole + whole.T) / 2)
        found = _Found(operator, values[::-1][:k], vectors[:, ::-1][:, :k], operator.size)
    else:
        found = _lanczos(operator, k, basis, tolerance, max_products, seed)
    return found.pairs(tolerance, None if operator.size <= basis else seed)


class _Found:
    """Approximate eigenpairs: values (k,), unit vectors (W, k), with H v of each and the residuals (k,)."""

    def __init__(self, operator: HessianOperator, values: np.ndarray, vectors: np.ndarray, products: int) -> None:
        self.operator, self.values, self.vectors, self.products = operator, values, vectors, products
        self.complete = True
        self.images = operator.flat(torch.from_numpy(vectors.T.copy()), "residuals").double().cpu().numpy().T
        self.residuals = np.linalg.norm(self.images - values * vectors, axis=0)

    def converged(self, tolerance: float) -> np.ndarray:
        # Products in single precision leave more than any tolerance below theirs.
        floor = max(torch.finfo(p.dtype).eps for p in self.operator.risk.weights)
        return self.residuals <= max(tolerance, 100 * floor) * abs(self.values).max()

    def pairs(self, tolerance: float, seed: int | None) -> list[tuple[Estimate, dict[str, Tensor]]]:
        risk = self.operator.risk
        cuts = np.cumsum([p.numel() for p in risk.weights])[:-1]
        pairs = []
        for i, converged in enumerate(self.converged(tolerance)):
            certain = bool(converged) and (i == 0 or self.complete)
            vector, residual = self.vectors[:, i], float(self.residuals[i])
            parts = [float(part.sum()) for part in np.split(vector * self.images[:, i], cuts)]
            note = f"Not converged: ||H v - lambda v|| = {residual:.2g} after {self.products} products."
            estimate = Estimate(
                value=math.fsum(parts),
                stderr=0.0 if certain else math.nan,
                samples=risk.examples,
                exact=certain,
                per_layer=dict(zip(risk.names, parts, strict=True)),
                seed=seed,
                method="whole Hessian" if seed is None else "lanczos",
                notes=(note,) if not converged else () if certain else (_INCOMPLETE,),
                details={"residual": residual, "products": self.products},
            )
            cut = self.operator.cut(torch.from_numpy(vector.copy()))
            pairs.append((estimate, dict(zip(risk.names, cut, strict=True))))
        return pairs


def _lanczos(operator: HessianOperator, k: int, basis: int, tolerance: float, max_products: int, seed: int) -> _Found:
    spent = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal spent
        if spent == max_products:
            raise _OutOfProducts
        spent += 1
        return operator.flat(torch.from_numpy(vector.ravel()), "Lanczos iteration").double().cpu().numpy()

    start = torch.randn(operator.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    if not product(start).any():
        # A random vector is in the null space only where everything is; ARPACK fails on that.
        return _Found(operator, np.zeros(k), np.eye(operator.size, k), spent)
    matrix = LinearOperator((operator.size, operator.size), matvec=product, dtype=np.float64)
    # ARPACK hands nothing back of what has not converged, so it is asked for more in steps, each from the last one.
    for wanted in (ANY, max(tolerance, 1e-3), tolerance):
        try:
            values, vectors = eigsh(matrix, k, which="LA", v0=start, ncv=basis, tol=wanted, maxiter=max_products)
        except _OutOfProducts:
            break
        order = np.argsort(-values, kind="stable")
        found = _Found(operator, values[order], vectors[:, order], spent)
        if found.converged(tolerance).all():
            break
        start = vectors.sum(1)
    if k > 1:
        found = _completed(found, product, basis, tolerance, seed)
    found.products = spent
    return found


def _completed(
    found: _Found, product: Callable[[np.ndarray], np.ndarray], basis: int, tolerance: float, seed: int
) -> _Found:
    """Of eigenvalues that coincide an iteration finds one; another, without what was found, meets the others.

    Each round takes the pairs found out of H and looks for its largest eigenvalue from a new start, until none is
    above the least that is kept.
    """
    k, generator = len(found.values), torch.Generator().manual_seed(seed + 1)
    for _ in range(k):
        values, vectors = found.values, found.vectors
        largest = float(np.abs(values).max())
        taken = values + 2 * largest  # to below all others

        def rest(vector: np.ndarray, taken: np.ndarray = taken, vectors: np.ndarray = vectors) -> np.ndarray:
            return product(vector) - vectors @ (taken * (vectors.T @ vector.ravel()))

        size = found.operator.size
        start = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
        matrix = LinearOperator((size, size), matvec=rest, dtype=np.float64)
        try:
            (value,), vector = eigsh(matrix, 1, which="LA", v0=start, ncv=basis, tol=tolerance)
        except _OutOfProducts:
            found.complete = False
            return found
        if value <= values.min() + tolerance * largest:
            return found
        together = np.append(values, value)
        order = np.argsort(-together, kind="stable")[:k]
        found = _Found(found.operator, together[order], np.hstack([vectors, vector])[:, order], found.products)
    return found
