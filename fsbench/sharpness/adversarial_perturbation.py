"""Loss and accuracy at points along the gradient: how soon a network breaks under adversarial parameter noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fsbench.optim.perturbed_weights import perturbed
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.risk import Batch, Risk, norm

# The paper says alpha = 0.1 to 5.
ALPHAS = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)


@dataclass(frozen=True)
class Perturbed:
    """The network at w + alpha g / ||g||.

    Args:
        alpha: length of the perturbation, in units of weight.
        loss: mean loss there.
        accuracy: share of examples whose largest output is their label's, 0 to 1; NaN where labels are no classes.
    """

    alpha: float
    loss: float
    accuracy: float


def adversarial_perturbation(
    risk: Risk, alphas: Iterable[float] = ALPHAS, evaluate_on: Iterable[Batch] | None = None
) -> list[Perturbed]:
    """Loss and accuracy at w + alpha g / ||g||, g = grad L(w) of the mean loss over the whole risk; alpha = 0 first.

    The weights are moved in eval mode and restored exactly. The norm is one over all trained weights.

    Args:
        risk: what g is the gradient of: the training set in the paper.
        alphas: lengths >= 0; their order is kept, and alpha = 0, the network itself, is put first.
        evaluate_on: (x, y) batches of other examples, the test set in the paper; by default those of `risk`.

    Raises:
        Refused: the gradient is zero or not finite; what `Risk` refuses of `evaluate_on`.
        ValueError: an alpha is negative or not finite.

    Source: Kim et al. 2022, section 5.4, after Sun et al. 2021. The paper does not say whether the network is in
    eval mode.

    Example:
        >>> for point in adversarial_perturbation(risk, [0.5]):
        ...     print(point.alpha, round(point.loss, 6), round(point.accuracy, 6))
        0.0 1.125661 0.666667
        0.5 1.701171 0.666667
    """
    lengths = [0.0, *(float(alpha) for alpha in alphas if alpha != 0)]
    for alpha in lengths:
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alphas: must be finite numbers >= 0, got {alpha}")
    seen = risk if evaluate_on is None else risk.like(batches=evaluate_on)
    _, gradient = risk.gradient()
    length = norm(gradient)
    if not (math.isfinite(length) and length > 0):
        raise Refused(f"the gradient has no direction: its norm is {length}")
    found = []
    for alpha in lengths:
        with torch.no_grad(), perturbed(risk.weights, torch._foreach_mul(gradient, alpha / length)):
            found.append(Perturbed(alpha, *_loss_and_accuracy(seen)))
    return found


def _loss_and_accuracy(risk: Risk) -> tuple[float, float]:
    def sums(x: Tensor, y: Tensor) -> list[Tensor]:
        output = risk.model(x)
        right = torch.full((len(y),), math.nan, dtype=torch.float64, device=output.device)
        if not y.is_floating_point() and y.dim() == output.dim() - 1 and y.shape[1:] == output.shape[2:]:
            # Of each example the share of its positions (one for a classifier of images) with the right class.
            right = (output.argmax(1) == y).double().reshape(len(y), -1).mean(1)
        return [risk.loss(output, y).double() * len(y), right.sum()]

    with torch.no_grad():
        loss, accuracy = risk.mean(sums, risk.piece(2 * risk.activation_bytes), "perturbed network")
    return float(loss), float(accuracy)
