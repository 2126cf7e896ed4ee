"""Keskar's epsilon-sharpness: how much higher the loss is somewhere in a small box."""

from __future__ import annotations

import math

from fsbench.sharpness.auto_pgd import maximum_on_ball
from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.risk import Risk


def epsilon_sharpness(risk: Risk, *, epsilon: float = 1e-3, steps: int = 20) -> Estimate:
    """100 (max L(w + eps) - L(w)) / (1 + L(w)) over |eps_i| <= epsilon (|w_i| + 1), in percent.

    In the space of all weights (the paper's A = 1). The maximum is what Auto-PGD finds in its steps
    (`maximum_on_ball`), where the paper takes ten iterations of L-BFGS-B. The weights come back bit for bit.

    Args:
        epsilon: >= 0; 1e-3 and 5e-4 in the paper.
        steps: >= 1; each is one gradient.

    Returns:
        A lower bound (a note says so), so `exact` is False and stderr NaN. In details: "loss" L(w); "perturbed loss".

    Raises:
        Refused: the gradient is not finite; L(w) <= -1, which the ratio is not defined for.
        ValueError: an argument out of its range.

    Source: Keskar et al. 2017, "On large-batch training for deep learning", metric 2.1.

    Example:
        >>> print(epsilon_sharpness(risk))
        0.269253
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon={epsilon}: must be a finite number >= 0")
    axes = [w.detach().abs() + 1 for w in risk.weights]
    found = maximum_on_ball(risk, axes, epsilon, "linf", steps)
    if found.at_w <= -1:
        raise Refused(f"the loss is {found.at_w:.6g}; rises are relative to 1 + L, which has to be above 0")
    notes = ["A lower bound of the maximum over the box."]
    if found.flat:
        notes.append("The gradient at w is zero, so no direction was tried.")
    if not math.isfinite(found.loss):
        notes.append("The loss is not finite there.")
    return Estimate(
        value=100 * (found.loss - found.at_w) / (1 + found.at_w),
        stderr=math.nan,
        samples=risk.examples,
        exact=False,
        method=f"Auto-PGD, {steps} steps",
        notes=tuple(notes),
        details={"loss": found.at_w, "perturbed loss": found.loss},
    )
