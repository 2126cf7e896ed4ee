"""The gradient signal-to-noise ratio: how far the examples agree on where each weight should go."""

from __future__ import annotations

import math

import torch

from fsbench.sharpness.derivatives.logit_gradients import loss_gradients, squared_gradients
from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.risk import Risk, norm


def gradient_snr(risk: Risk) -> Estimate:
    """(1/W) sum_j E[g_j]^2 / Var[g_j] over the weights, g the gradients of the examples' own losses.

    Mean and variance (1/N) are over the risk's examples, exact for them. A weight whose gradient is zero for every
    example (its square too small for the precision) has no ratio (0/0) and is left out of the mean; W is the number of
    the others.

    Returns:
        In per_layer what each weight tensor adds, summing to the value; details["left out"], how many weights were, and
        a note where there are some.

    Raises:
        Refused: all gradients are zero, or not finite; the gradient of some weight is the same for every example
            (of a single example, say), so that its ratio is infinite.

    Source: Liu et al. 2020, "Understanding why neural networks generalize well through GSNR of parameters", whose
    variance is that of the distribution.

    Example:
        >>> print(gradient_snr(risk))
        0.545755
    """
    squares = squared_gradients(risk, loss_gradients(risk.loss_fn, power=2), 1, "gradient signal-to-noise ratio")
    _, mean = risk.gradient()
    if not math.isfinite(norm(mean)):
        raise Refused("the gradient is not finite")
    sums, counts = {}, {}
    for (name, square), signal in zip(squares.items(), mean, strict=True):
        second = square.double() / risk.examples
        signal = signal.double().square()
        precision = torch.finfo(square.dtype)
        noise, varies = second - signal, square > precision.tiny / precision.eps
        # What is left of the difference of two numbers that agree in all their digits is rounding.
        if bool((noise[varies] <= 100 * precision.eps * second[varies]).any()):
            raise Refused(f"the gradient of some weight of {name} is the same for every example; its noise is zero")
        sums[name], counts[name] = float((signal[varies] / noise[varies]).sum()), int(varies.sum())
    weights = sum(counts.values())
    if weights == 0:
        raise Refused("the gradient of every example is zero")
    left = sum(p.numel() for p in risk.weights) - weights
    per_layer = {name: total / weights for name, total in sums.items()}
    note = f"{left} weights have a gradient of zero for every example and are left out."
    return Estimate(
        value=sum(per_layer.values()),
        stderr=0.0,
        samples=risk.examples,
        exact=True,
        per_layer=per_layer,
        method="exact",
        notes=(note,) if left else (),
        details={"left out": left},
    )
