"""The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fsbench.sharpness.derivatives.hessian_operator import HessianOperator
from fsbench.sharpness.risk import Risk

# What is left of a vector, relative to the largest coefficient so far, where its Krylov space has ended: rounding.
ENDED = 1e-10


@dataclass(frozen=True)
class SpectralDensity:
    """Of each probe a quadrature: nodes, the outer ones at eigenvalues, and weights that sum to one.

    Args:
        nodes, weights: an array for each probe, nodes rising.
        size: W, the number of eigenvalues.
        seed: of the probes.
        products: Hessian-vector products made.
    """

    nodes: list[np.ndarray]
    weights: list[np.ndarray]
    size: int
    seed: int
    products: int

    def moments(self, power: int) -> np.ndarray:
        """Of each probe, an estimate of Tr H^power / W: unbiased for power < 2 steps."""
        return np.array([float(w @ t**power) for t, w in zip(self.nodes, self.weights, strict=True)])

    def at(self, grid: np.ndarray, width: float) -> np.ndarray:
        """The density at the points of `grid`, integrating to one: a normal density of standard deviation `width` at
        each node, by its weight, mean over the probes.

        Raises:
            ValueError: width not above 0.
        """
        if not width > 0:
            raise ValueError(f"width={width}: must be above 0")
        nodes, weights = np.concatenate(self.nodes), np.concatenate(self.weights) / len(self.nodes)
        bells = np.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
        density: np.ndarray = bells @ weights
        return density


def spectral_density(risk: Risk, *, probes: int = 10, steps: int = 80, seed: int = 0) -> SpectralDensity:
    """The density of the eigenvalues of H = d2 L / dw dw, sum_i delta(t - lambda_i) / W.

    For a unit vector v in a uniformly random direction, E[v' f(H) v] = Tr f(H) / W. `steps` Lanczos steps from v,
    each new vector made orthogonal to all before it, twice, give a tridiagonal matrix; its eigenvalues and the squares
    of the first entries of its eigenvectors are the nodes and weights of the Gauss quadrature of v' f(H) v, exact for
    polynomials f of a degree below 2 `steps`. It keeps `steps` vectors of all weights in float64 in the computer's
    memory. In single precision the nodes are those of a Hessian with that rounding.

    Args:
        probes: random vectors, >= 1.
        steps: Hessian-vector products for each, >= 1; no more than W are made, and fewer where a Krylov space ends.
        seed: of the probes.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
        ValueError: an argument out of its range.

    Source: Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019, who smooth as `SpectralDensity.at` does.

    Example:
        >>> found = spectral_density(risk, probes=4, steps=3)
        >>> [len(nodes) for nodes in found.nodes]
        [3, 3, 3, 3]
    """
    for name, value in (("probes", probes), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    operator = HessianOperator(risk)
    generator = torch.Generator().manual_seed(seed)
    nodes, weights, products = [], [], 0
    for number in range(1, probes + 1):
        start = torch.randn(operator.size, generator=generator, dtype=torch.float64).numpy()
        diagonal, beside = _tridiagonal(operator, start, steps, f"spectrum, probe {number} of {probes}")
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        nodes.append(values)
        weights.append(vectors[0] ** 2)
        products += len(diagonal)
    return SpectralDensity(nodes, weights, operator.size, seed, products)


def _tridiagonal(
    operator: HessianOperator, start: np.ndarray, steps: int, what: str
) -> tuple[list[float], list[float]]:
    """The diagonal and what is beside it, of V' H V in the Lanczos basis V from `start`."""
    steps = min(steps, operator.size)
    basis = np.empty((steps, operator.size))
    basis[0] = start / np.linalg.norm(start)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        image = operator.flat(torch.from_numpy(basis[step].copy()), what).double().cpu().numpy()
        diagonal.append(float(basis[step] @ image))
        if step + 1 == steps:
            break
        known = basis[: step + 1]
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = float(np.linalg.norm(image))
        if rest <= ENDED * max(map(abs, (*diagonal, *beside))):
            break
        beside.append(rest)
        basis[step + 1] = image / rest
    return diagonal, beside
