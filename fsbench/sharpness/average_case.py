"""Average-case sharpness: the rise of the loss at weights with random noise."""

from __future__ import annotations

import math

import torch

from fsbench.optim.perturbed_weights import perturbed
from fsbench.sharpness.estimate import Estimate, standard_error
from fsbench.sharpness.logit_normalized import logit_normalized
from fsbench.sharpness.noise import standard_normals
from fsbench.sharpness.risk import Risk


def average_case_sharpness(
    risk: Risk,
    *,
    rho: float = 0.1,
    adaptive: bool = True,
    draws: int = 100,
    logit_norm: float | None = None,
    seed: int = 0,
) -> Estimate:
    """E L(w + eps) - L(w), eps ~ N(0, rho^2 diag(c^2)), c = |w| (`adaptive`) or 1; in the units of the loss.

    Its mean over groups of m examples is that of all of them, for every m. The weights come back bit for bit.

    Args:
        rho: >= 0; the standard deviation of the noise, relative to each weight if `adaptive`.
        draws: how many eps, at least 2; each is one evaluation of the loss.
        logit_norm: the loss is of logits that are centred and scaled to this length (1 in the authors' code).
        seed: of the draws.

    Returns:
        The mean over the draws with its standard error; details["loss"], L(w).

    Raises:
        Refused: `logit_norm` for an output that is not (n, K).
        ValueError: an argument out of its range.

    Source: Andriushchenko et al. 2023, "A modern look at the relationship between sharpness and generalization".

    Example:
        >>> print(average_case_sharpness(risk, rho=0.5))
        0.219655 ± 0.069
    """
    if not (math.isfinite(rho) and rho >= 0):
        raise ValueError(f"rho={rho}: must be a finite number >= 0")
    if draws < 2:
        raise ValueError(f"draws={draws}: must be at least 2")
    risk = logit_normalized(risk, logit_norm)
    with torch.no_grad():
        scales = [rho * (w.abs() if adaptive else torch.ones_like(w)) for w in risk.weights]
    loss, rises = risk.value(), []
    for normals in standard_normals(risk, draws, seed, "average-case sharpness"):
        with torch.no_grad(), perturbed(risk.weights, torch._foreach_mul(scales, normals)):
            rises.append(risk.value() - loss)
    return Estimate(
        value=math.fsum(rises) / draws,
        stderr=standard_error(rises),
        samples=draws,
        exact=False,
        seed=seed,
        method=f"{draws} draws",
        details={"loss": loss},
        degrees=draws - 1,
    )
