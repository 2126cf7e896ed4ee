"""The length of the gradient of the whole risk."""

from __future__ import annotations

from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.risk import Risk, norm


def gradient_norm(risk: Risk) -> Estimate:
    """||grad L(w)||_2, exact: how far the weights are from a stationary point.

    Returns:
        In per_layer the norms of the weight tensors' own gradients, whose squares sum to that of the value.

    Example:
        >>> print(gradient_norm(risk), list(gradient_norm(risk).per_layer))
        1.00524 ['0.weight', '2.weight']
    """
    _, gradient = risk.gradient()
    per_layer = {name: norm([part]) for name, part in zip(risk.names, gradient, strict=True)}
    return Estimate(norm(gradient), 0.0, risk.examples, exact=True, per_layer=per_layer, method="exact")
