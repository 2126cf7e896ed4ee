"""The Frobenius norm of the Hessian, by the two definitions of Jia & Su."""

from __future__ import annotations

from typing import Literal

import torch

from fsbench.sharpness.derivatives.logit_gradients import squared_gradient_norms
from fsbench.sharpness.derivatives.subset_grams import subset_grams
from fsbench.sharpness.estimate import Estimate, standard_error
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
        return Estimate(
            value=float(fourth.mean()), stderr=0.0, samples=risk.examples, exact=True,
            example_stderr=standard_error(fourth), method="per example",
        )  # fmt: skip
    if definition != "fisher":
        raise ValueError(f"definition={definition}: must be per_example or fisher")
    values = [
        float(gram.dense().square().sum()) / subset_size**2
        for gram in subset_grams(risk, subset_size, subsets, seed, "Frobenius norm")
    ]
    return Estimate(
        value=sum(values) / len(values), stderr=standard_error(values), samples=subsets, exact=False, seed=seed,
        degrees=subsets - 1, method=f"Fisher, {subsets} subsets of {subset_size}",
    )  # fmt: skip
