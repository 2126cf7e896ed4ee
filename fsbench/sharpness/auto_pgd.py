"""The largest loss in a ball around the weights, by Auto-PGD."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fsbench.geometries import BALLS
from fsbench.optim.perturbed_weights import perturbed
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.risk import Risk, norm

# Shaped like the weights; torch takes and gives both.
Tensors = list[Tensor] | tuple[Tensor, ...]


@dataclass(frozen=True)
class Maximum:
    """The best point that was found.

    Args:
        loss, at_w: L(w + eps), at least L(w), and L(w).
        radius: ||eps / axes|| in the norm of the ball.
        flat: the gradient at w is zero, so that no direction was tried.
    """

    loss: float
    at_w: float
    radius: float
    flat: bool


def maximum_on_ball(risk: Risk, axes: Tensors, rho: float, ball: str, steps: int) -> Maximum:
    """max L(w + eps) over ||eps / axes||_p <= rho, p = 2 (`l2`) or infinity (`linf`), from below.

    Auto-PGD in u = eps / axes from u = 0: z = P(u + t s), s the steepest direction of that norm, P the projection;
    u' = P(u + 0.75 (z - u) + 0.25 (u - u_before)); t = 2 rho at first. At the checkpoints t is halved, and the search
    goes on from the best point, where fewer than three quarters of the steps since the last one rose, or where neither
    t nor the best loss has changed. Each step is one gradient; the weights come back bit for bit.

    Raises:
        Refused: the gradient at w is not finite.
        ValueError: an argument out of its range.

    Source: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", algorithm 1.
    """
    if ball not in BALLS:
        raise ValueError(f"ball={ball}: must be one of {', '.join(BALLS)}")
    if not (math.isfinite(rho) and rho >= 0):
        raise ValueError(f"rho={rho}: must be a finite number >= 0")
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")

    def climbed(u: Tensors) -> tuple[float, Tensors]:
        with torch.no_grad(), perturbed(risk.weights, torch._foreach_mul(axes, u)):
            loss, gradient = risk.gradient()
        return loss, torch._foreach_mul(axes, gradient)

    u: Tensors = [torch.zeros_like(axis) for axis in axes]
    before = best_u = u
    loss, slope = climbed(u)
    if not math.isfinite(norm(slope)):
        raise Refused("the gradient is not finite")
    at_w, best, best_slope, flat = loss, loss, slope, norm(slope) == 0
    step, rises, last, step_at_last, best_at_last = 2 * rho, 0, 0, 2 * rho, loss
    checkpoints = _checkpoints(steps)
    for k in range(1, steps + 1):
        if not 0 < norm(slope) < math.inf:
            break
        moved = _projected(torch._foreach_add(u, _steepest(slope, ball), alpha=step), rho, ball)
        if k > 1:
            momentum = torch._foreach_mul(torch._foreach_sub(u, before), 0.25)
            moved = _projected(torch._foreach_add(torch._foreach_lerp(u, moved, 0.75), momentum), rho, ball)
        loss_before, before, u = loss, u, moved
        loss, slope = climbed(u)
        rises += loss > loss_before
        if loss > best:
            best, best_u, best_slope = loss, u, slope
        if k in checkpoints:
            stuck = rises < 0.75 * (k - last) or (step == step_at_last and best == best_at_last)
            rises, last, step_at_last, best_at_last = 0, k, step, best
            if stuck:
                step, loss, u, slope = step / 2, best, best_u, best_slope
    radius = norm(best_u) if ball == "l2" else max(float(part.abs().max()) for part in best_u if part.numel())
    return Maximum(best, at_w, radius, flat)


def _checkpoints(steps: int) -> set[int]:
    """ceil(p_j steps), p = 0.22, 0.41, 0.57, ...: gaps that shrink by 0.03 down to 0.06."""
    found, percent, gap = set(), 22, 22
    while percent < 100:
        found.add(-(-percent * steps // 100))
        gap = max(gap - 3, 6)
        percent += gap
    return found


def _steepest(slope: Tensors, ball: str) -> Tensors:
    """The vector of length 1 in the norm of the ball along which the loss rises most."""
    return torch._foreach_sign(slope) if ball == "linf" else torch._foreach_div(slope, norm(slope))


def _projected(u: Tensors, rho: float, ball: str) -> Tensors:
    if ball == "linf":
        return [part.clamp(-rho, rho) for part in u]
    length = norm(u)
    return torch._foreach_mul(u, rho / length) if length > rho else u
