"""The spectral radius of the Hessian, as Jia & Su measure it."""

from __future__ import annotations

import torch

from fsbench.sharpness.derivatives.subset_grams import Gram, mean_over_subsets
from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.risk import Risk


def hessian_spectral_radius(risk: Risk, *, subset_size: int = 100, subsets: int = 100, seed: int = 0) -> Estimate:
    """(1/T) sum_t ||J_t||_2^2, J_t as in `fisher_log_determinant` (Jia & Su 2020, appendix D).

    It is N' times the largest eigenvalue of a subset's observed Fisher information J'J/N', which is the Hessian
    at a minimum with all labels fitted (eq. 1); constants are dropped as in the paper. For the Hessian's own
    eigenvalues see `hessian_top_eigenvalues`.

    Raises:
        Refused: fewer examples than a subset has.
        ValueError: an argument out of its range.

    Example:
        >>> print(hessian_spectral_radius(risk, subset_size=2, subsets=5))
        8.70043 ± 2.1
    """

    def largest(gram: Gram) -> float:
        return float(torch.linalg.eigvalsh(gram.dense())[-1])

    return mean_over_subsets(risk, largest, subset_size, subsets, seed, "spectral radius")
