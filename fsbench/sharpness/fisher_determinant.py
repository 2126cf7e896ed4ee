"""The determinant of the observed Fisher information."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from fsbench.sharpness.derivatives.subset_grams import Gram, mean_over_subsets
from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.risk import Risk


def fisher_log_determinant(
    risk: Risk, *, subset_size: int = 100, subsets: int = 100, seed: int = 0, logit_norm: float | None = None
) -> Estimate:
    """gamma-hat = (1/T) sum_t ln det(J_t J_t') (Jia & Su 2020, eq. 6), in nats.

    J_t: the gradients of N' = `subset_size` single examples' losses as rows, not averaged; T = `subsets`, each
    drawn without replacement. -inf where two examples of a subset have parallel gradients (a duplicate).

    Args:
        logit_norm: take the loss of logits scaled to this norm, example by example; the authors' code has 25.

    The authors' code sums ln singular values, which is half of eq. 6: details["sum_log_singular_values"].

    Raises:
        Refused: fewer examples than a subset has, or fewer weights (the determinant is zero by construction).
        ValueError: an argument out of its range.

    Example:
        >>> print(fisher_log_determinant(risk, subset_size=2, subsets=5))
        -6.89463 ± 0.65
    """
    weights = sum(parameter.numel() for parameter in risk.weights)
    if subset_size > weights:
        raise Refused(f"subset_size={subset_size}: the network has {weights} trained weights, the determinant is zero")
    smallest: list[float] = []
    singular = 0

    def log_determinant(gram: Gram) -> float:
        nonlocal singular
        smallest.append(float(gram.eigenvalues[0]))
        value = gram.log_determinant()
        singular += not math.isfinite(value)
        return value

    found = mean_over_subsets(risk, log_determinant, subset_size, subsets, seed, "Fisher determinant", logit_norm)
    notes: tuple[str, ...] = ()
    if singular:
        notes = (f"{singular} of {subsets} subsets hold examples with linearly dependent gradients (duplicates?)",)
    elif min(smallest) < 10 * torch.finfo(risk.weights[0].dtype).eps:
        notes = (f"smallest eigenvalue {min(smallest):.1g} of the cosines is near rounding; use float64",)
    return replace(
        found,
        method=found.method + ("" if logit_norm is None else f", logit norm {logit_norm:g}"),
        notes=notes,
        details={"sum_log_singular_values": found.value / 2},
    )
