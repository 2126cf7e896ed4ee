"""Worst-case sharpness of a few examples at a time, elementwise adaptive, by Auto-PGD."""

from __future__ import annotations

import math

import torch

from fsbench.geometries import BALLS
from fsbench.sharpness.auto_pgd import maximum_on_ball
from fsbench.sharpness.estimate import Estimate, Refused, standard_error
from fsbench.sharpness.logit_normalized import logit_normalized
from fsbench.sharpness.risk import Risk


def worst_case_sharpness_apgd(
    risk: Risk,
    *,
    rho: float | None = None,
    ball: str = "linf",
    adaptive: bool = True,
    group_size: int = 128,
    steps: int = 20,
    logit_norm: float | None = None,
) -> Estimate:
    """Mean over groups G of max L_G(w + eps) - L_G(w) over ||eps / c||_p <= rho; in the units of the loss.

    c = |w| (`adaptive`) or 1; L_G is the mean loss of a group's m examples. The maximum is what Auto-PGD finds in its
    steps (`maximum_on_ball`). The authors' code takes the l2 steps in eps and projects onto the ellipsoid; here they
    are taken in eps / c, which leaves the neighbourhood what it is. The weights come back bit for bit.

    Args:
        rho: radius, >= 0; by default 0.001 (`linf`) or 0.5 (`l2`).
        ball: p: `linf` or `l2`.
        group_size: m, in the order of the data. Examples left over are left out, and a note says so.
        steps: >= 1; each is one gradient.
        logit_norm: the loss is of logits that are centred and scaled to this length (1 in the authors' code).

    Returns:
        A lower bound (a note says so), so `exact` is False and stderr NaN; example_stderr is over the groups. In
        details: "loss", the mean L_G(w); "radius", the largest ||eps / c||_p.

    Raises:
        Refused: fewer examples than a group has, several processes share them, the gradient at w is not finite,
            or `logit_norm` for an output that is not (n, K).
        ValueError: an argument out of its range.

    Source: Andriushchenko et al. 2023, "A modern look at the relationship between sharpness and generalization"
    (groups of 128, 20 steps).

    Example:
        >>> print(worst_case_sharpness_apgd(risk, ball="l2", group_size=3))
        0.961097
    """
    if group_size < 1:
        raise ValueError(f"group_size={group_size}: must be at least 1")
    if group_size > risk.examples:
        raise Refused(f"group_size={group_size}: there are {risk.examples} examples only")
    if rho is None:
        rho = BALLS.get(ball, 0.0)
    risk = logit_normalized(risk, logit_norm)
    with torch.no_grad():
        axes = [w.abs() if adaptive else torch.ones_like(w) for w in risk.weights]
    maxima = [
        maximum_on_ball(risk.like(batches=[(x, y)]), axes, rho, ball, steps)
        for x, y in risk.groups(group_size, "worst-case sharpness")
        if len(y) == group_size
    ]
    rises = [found.loss - found.at_w for found in maxima]
    left = risk.examples - group_size * len(maxima)
    notes = ["A lower bound of the maximum over the neighbourhood."]
    if left:
        notes.append(f"{left} examples at the end make no whole group and are left out.")
    if flat := sum(found.flat for found in maxima):
        notes.append(f"The gradient of {flat} groups is zero, so no direction was tried there.")
    if not all(map(math.isfinite, rises)):
        notes.append("The loss is not finite there.")
    return Estimate(
        value=sum(rises) / len(rises),
        stderr=math.nan,
        samples=len(rises),
        exact=False,
        example_stderr=standard_error(rises),
        method=f"Auto-PGD, {steps} steps, groups of {group_size}",
        notes=tuple(notes),
        details={
            "loss": sum(found.at_w for found in maxima) / len(maxima),
            "radius": max(found.radius for found in maxima),
        },
    )
