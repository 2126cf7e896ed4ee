"""The scales of the layers of a chain at which the trace of the Hessian is least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_STEPS = 10_000


@dataclass(frozen=True)
class Scales:
    """The minimum of the trace over the scales of the layers.

    Args:
        value: the infimum.
        weights, biases: what is left there of each layer's two terms.
        log_scales: ln alpha_d of each layer, summing to 0; +-inf for those that go there where the infimum is not
            attained.
        attained: whether there are scales with that value; else it is approached in the limit.
    """

    value: float
    weights: list[float]
    biases: list[float]
    log_scales: list[float]
    attained: bool


def least_scales(weights: Sequence[float], biases: Sequence[float] | None = None) -> Scales:
    """min over alpha > 0 with prod_d alpha_d = 1 of sum_d T_d alpha_d^-2 + sum_d b_d (prod_{i<=d} alpha_i)^-2.

    Without biases that is D (prod_d T_d)^(1/D), with ln alpha_d = ln(T_d)/2 minus the mean of these. With biases, and
    w_d = 2 ln prod_{i<=d} alpha_i, it is convex in w_1 .. w_(D-1): Newton's method, until no component of the
    gradient exceeds 1e-12 times the value. w_D = 0, so the last bias is a constant.

    A layer k with T_k = 0 costs nothing to scale: what comes before it can be scaled up at its expense, so all
    earlier terms go to zero. What follows is held by the first bias with b_j > 0, j >= k: the weights up to layer j go
    to zero, and the minimum over the rest is attained. Without such a bias the infimum is b_D.

    Args:
        weights: T_d, the trace for each layer's weight, in the order of execution; none negative.
        biases: b_d, likewise, 0 for layers without a bias; all 0 by default.

    Raises:
        ValueError: no layers, lengths that differ, negative or non-finite values.
        ArithmeticError: Newton's method did not end.

    Source: Ibayashi et al. 2021, theorem 1, appendix C (whose alpha* is alpha^-2), and the remark on biases.
    """
    t = [float(value) for value in weights]
    b = [0.0] * len(t) if biases is None else [float(value) for value in biases]
    if not t:
        raise ValueError("no layers: there must be at least one trace")
    if len(b) != len(t):
        raise ValueError(f"{len(t)} traces of weights and {len(b)} of biases: must be as many")
    for value in (*t, *b):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"a trace is {value}: must be finite and not negative")
    depth = len(t)
    constant = b[-1]
    # Nodes 0 .. depth stand between the layers; 0 and depth are the fixed ends. What comes before `first` is lost.
    cut = max((d for d in range(depth) if t[d] == 0), default=-1)
    first = 0 if cut < 0 else next((d + 1 for d in range(cut, depth - 1) if b[d] > 0), depth)
    held = np.zeros(depth + 1)
    if first < depth:
        start = 0 if cut < 0 else first
        held[start : depth + 1] = _solve(t[start:], b[start - 1 : depth - 1] if cut >= 0 else [0.0, *b[:-1]], cut < 0)
    kept_t = [d for d in range(depth) if cut < 0 or d >= first]
    kept_b = [d for d in range(depth - 1) if cut < 0 or d + 1 >= first]
    parts_t, parts_b = [0.0] * depth, [0.0] * depth
    parts_b[-1] = constant
    for d in kept_t:
        parts_t[d] = math.exp(math.log(t[d]) + held[d] - held[d + 1])
    for d in kept_b:
        parts_b[d] = math.exp(math.log(b[d]) - held[d + 1]) if b[d] > 0 else 0.0
    lost = any(t[d] > 0 for d in range(depth) if d not in kept_t) or any(
        b[d] > 0 for d in range(depth - 1) if d not in kept_b
    )
    return Scales(
        value=math.fsum([*parts_t, *parts_b]),
        weights=parts_t,
        biases=parts_b,
        log_scales=_log_scales(held, depth, cut, first, lost),
        attained=not lost,
    )


def _log_scales(held: np.ndarray, depth: int, cut: int, first: int, lost: bool) -> list[float]:
    scales = [float(held[d + 1] - held[d]) / 2 for d in range(depth)]
    if cut < 0:
        return scales
    if not lost:
        # The layer that costs nothing makes up for the others.
        scales[:first] = [0.0] * first
        if first < depth:
            scales[cut] = float(held[first]) / 2
        return scales
    # Node values rise without bound before the cut and fall without bound from it on, up to `first`.
    return [math.inf if d != cut else -math.inf for d in range(min(first, depth))] + scales[first:]


def _solve(t: list[float], b: list[float], anchored: bool) -> np.ndarray:
    """w at nodes s .. D, w_D = 0, minimising sum t_d e^(w_d - w_(d+1)) + sum b_d e^-w_d; d from s to D - 1.

    Args:
        t: of the layers after each of the nodes s .. D - 1, all positive.
        b: of the biases at the nodes s .. D - 1.
        anchored: w_s = 0 too; else it is free, and b_s positive.
    """
    count = len(t)
    with np.errstate(divide="ignore"):
        ln_t, ln_b = np.log(np.asarray(t)), np.log(np.asarray(b))
    free = np.arange(1 if anchored else 0, count)
    w = np.zeros(count + 1)
    if anchored:
        # The solution without biases.
        w[1:] = np.cumsum(ln_t - ln_t.mean())
        w[-1] = 0.0
    if not len(free):
        return w
    for _ in range(2):
        # Each exactly, given its neighbours: brings terms of very different size within reach of Newton's method.
        for d in free:
            into = np.logaddexp(ln_b[d], ln_t[d - 1] + w[d - 1]) if d > 0 else ln_b[d]
            w[d] = (into - (ln_t[d] - w[d + 1])) / 2
    for _ in range(_STEPS):
        flow = np.exp(ln_t + w[:-1] - w[1:])
        leak = np.exp(ln_b - w[:-1])
        leak[0] = 0.0 if anchored else leak[0]
        value = flow.sum() + leak.sum()
        before = np.concatenate([[0.0], flow[:-1]])
        gradient = flow - before - leak
        # d2: each term e^(v' w) adds itself times v v'.
        hessian = np.diag(flow + before + leak) - np.diag(flow[:-1], 1) - np.diag(flow[:-1], -1)
        if np.abs(gradient[free]).max() <= 1e-12 * value:
            return w
        scale = 1 / np.sqrt(np.diag(hessian)[free])
        step = np.zeros(count + 1)
        step[free] = scale * np.linalg.solve(
            hessian[np.ix_(free, free)] * scale[:, None] * scale, -gradient[free] * scale
        )
        largest = max(np.abs(np.diff(step)).max(), np.abs(step).max())
        # This share of the step always descends on a sum of exponentials (Bach 2010, proposition 1).
        w = w + step * (math.log1p(largest) / largest if largest > 0 else 1.0)
    raise ArithmeticError(f"no minimum found within {_STEPS} Newton steps")
