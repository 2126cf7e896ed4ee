"""Worst-case sharpness: the rise of the loss in the neighbourhood that SAM, ASAM or FSAM guards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from fsbench.geometries import FORMS, GEOMETRIES, SCALES, Geometry
from fsbench.optim.perturbed_weights import perturbed
from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.risk import Risk, norm

T = TypeVar("T")
# Shaped like the weights; torch takes and gives both.
Tensors = list[Tensor] | tuple[Tensor, ...]


def worst_case_sharpness(
    risk: Risk,
    neighbourhood: str | Geometry = "sam",
    *,
    rho: float | None = None,
    eta: float | None = None,
    steps: int = 1,
    scale: str = "weights",
    form: str = "multiplicative",
) -> Estimate:
    """max L(w + eps) - L(w) over eps' D^-1 eps <= rho^2, D diagonal and fixed at w; in the units of the loss.

    D = 1 (`sam`), (|w| + eta)^2 (`asam`), 1/(1 + eta g^2) with g = grad L(w) of the whole risk (`fsam`);
    or that of a geometry of one's own.

    `steps` = 1: at eps = rho D g / sqrt(g' D g), the maximum of the linearised loss and the optimizers' perturbation.
    More: ascent from there in u = D^-1/2 eps. Each step tries u + t rho h / ||h||, h = D^1/2 grad L(w + eps), put back
    onto the ball where it leaves it; t starts at 1 and is halved where the loss does not rise, in which case the point
    is not moved. So the loss rises with every step taken and more steps never give less.

    Args:
        rho: radius, >= 0; by default that of the optimizer: 0.05, 0.5, 0.1.
        eta: >= 0; by default 0.01 (`asam`) and 1 (`fsam`); `sam` has none.
        steps: >= 1; each is one evaluation of the loss and, where it rose, one of the gradient.
        scale: for `asam`: tensors named with "weight" have D = (|w| + eta)^2 and the others 1, or `all`.
        form: for `fsam`: `additive` is 1/(g^2 + eta), eta > 0.

    Returns:
        The rise at the best point found: a lower bound of the maximum (a note says so), so `exact` is False and
        stderr, which nothing is known of, NaN. In details: "loss" L(w); "perturbed loss" L(w + eps); "one step", the
        rise with steps = 1; "length" ||eps||_2; "radius" sqrt(eps' D^-1 eps).

    Raises:
        Refused: the gradient is not finite.
        ValueError: an argument out of its range.

    Source: Kim et al. 2022, eq. 1 (`sam`), 4 (`asam`), 8 (`fsam`).

    Example:
        >>> print(worst_case_sharpness(risk), worst_case_sharpness(risk, "asam", steps=5))
        0.0510895 0.967897
    """
    for key, word, allowed in (("scale", scale, SCALES), ("form", form, FORMS)):
        if word not in allowed:
            raise ValueError(f"{key}={word}: must be one of {', '.join(allowed)}")
    if isinstance(neighbourhood, Geometry):
        geometry = neighbourhood
    elif neighbourhood in GEOMETRIES:
        geometry = {"asam": SCALES[scale], "fsam": FORMS[form]}.get(neighbourhood, GEOMETRIES[neighbourhood])
    else:
        raise ValueError(f"neighbourhood={neighbourhood}: must be one of {', '.join(GEOMETRIES)}")
    if eta is not None and "eta" not in geometry.defaults:
        raise ValueError(f"eta={eta}: the neighbourhood of {geometry.name} has none")
    rho = geometry.defaults["rho"] if rho is None else rho
    eta = geometry.defaults.get("eta", 0.0) if eta is None else eta
    for key, value in (("rho", rho), ("eta", eta)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{key}={value}: must be a finite number >= 0")
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    if geometry is FORMS["additive"] and eta == 0:
        raise ValueError("eta=0: must be > 0 in the additive form 1/(g^2 + eta)")

    _, gradient = risk.gradient()
    with torch.no_grad():
        weights = [p.detach() for p in risk.weights]
        inverse_metric = geometry.inverse_metric(weights, gradient, risk.names, [eta] * len(weights))
        axes = None if inverse_metric is None else [d.sqrt() for d in inverse_metric]  # D^1/2
    loss = risk.value()
    slope = _scaled(axes, gradient)  # of the loss by u
    if not math.isfinite(norm(slope)):
        raise Refused("the gradient is not finite")
    u = _of_length(rho, slope)
    best = first = _at(risk, _scaled(axes, u), risk.value)
    step, moved = 1.0, True
    for _ in range(1, steps):
        if moved:
            slope = _scaled(axes, _at(risk, _scaled(axes, u), risk.gradient)[1])
        if not math.isfinite(norm(slope)):
            break
        tried: Tensors = torch._foreach_add(u, _of_length(step * rho, slope))
        if norm(tried) > rho:
            tried = _of_length(rho, tried)
        rise = _at(risk, _scaled(axes, tried), risk.value)
        if moved := rise > best:
            u, best = tried, rise
        else:
            step /= 2
    eps = _scaled(axes, u)
    notes = ["A lower bound of the maximum over the neighbourhood."]
    if rho > 0 and norm(gradient) == 0:
        notes.append("The gradient at w is zero, so no direction was tried.")
    if not math.isfinite(best):
        notes.append("The loss is not finite there.")
    return Estimate(
        value=best - loss,
        stderr=math.nan,
        samples=risk.examples,
        exact=False,
        method="one step" if steps == 1 else f"ascent, {steps} steps",
        notes=tuple(notes),
        details={
            "loss": loss,
            "perturbed loss": best,
            "one step": first - loss,
            "length": norm(eps),
            "radius": norm(u),
            "rho": rho,
            "eta": eta,
        },
    )


def _scaled(axes: Tensors | None, tensors: Tensors) -> Tensors:
    return tensors if axes is None else torch._foreach_mul(axes, tensors)


def _of_length(radius: float, tensors: Tensors) -> Tensors:
    """The vector of that length in their direction (zeros for zeros)."""
    length = norm(tensors)
    return torch._foreach_mul(tensors, radius / length if length > 0 else 0.0)


def _at(risk: Risk, eps: Tensors, of: Callable[[], T]) -> T:
    """Of the risk with the weights w + eps."""
    with torch.no_grad(), perturbed(risk.weights, eps):
        return of()
