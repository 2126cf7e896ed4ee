"""The Frobenius norm of the Hessian, by the two definitions of Jia & Su."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from fsbench.sharpness.derivatives.logit_gradients import squared_gradient_norms
from fsbench.sharpness.derivatives.subset_grams import Gram, mean_over_subsets
from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.risk import Risk


def hessian_frobenius_norm(
    risk: Risk,
    definition: Literal["per_example", "fisher"] = "per_example",
    *,
    subset_size: int = 100,
    subsets: int = 100,
    seed: int = 0,
) -> Estimate:
    """||H||_F^2 with the observed Fisher information for H.

    Args:
        definition: `per_example`: (1/N) sum_i ||g_i g_i'||_F^2 = (1/N) sum_i ||g_i||^4, what appendix D of Jia & Su
            2020 computes (all entries of g_i g_i' rather than 100,000 drawn ones), exactly and over the whole risk.
            `fisher`: ||(1/N') sum_i g_i g_i'||_F^2 = ||J_t J_t'||_F^2 / N'^2, mean over T subsets: what its section
            7.1 names. The paper sets the two equal; they are not, for the sum is inside the norm here.
        subset_size, subsets, seed: N', T and the draws of `fisher`.

    Raises:
        Refused: fewer examples than a subset has.
        ValueError: an argument out of its range.

    Example:
        >>> print(hessian_frobenius_norm(risk))
        39.1032
    """
    if definition == "per_example":
        fourth = torch.stack(list(squared_gradient_norms(risk, "Frobenius norm").values())).sum(0).square()
        return Estimate.mean_over_examples(fourth, "per example")
    if definition != "fisher":
        raise ValueError(f"definition={definition}: must be per_example or fisher")

    def squared(gram: Gram) -> float:
        return float(gram.dense().square().sum()) / subset_size**2

    found = mean_over_subsets(risk, squared, subset_size, subsets, seed, "Frobenius norm")
    return replace(found, method=f"Fisher, {found.method}")
