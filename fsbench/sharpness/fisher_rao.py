"""The Fisher-Rao norm."""

from __future__ import annotations

from fsbench.sharpness.derivatives.logit_gradients import loss_gradients, squared_gradients
from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.risk import Risk


def fisher_rao_norm(risk: Risk) -> Estimate:
    """sum_i w_i^2 (1/N) sum_z (d loss_z / d w_i)^2, true labels (Liang et al. 2017; Tsuzuku et al. 2019, eq. 25).

    Example:
        >>> print(fisher_rao_norm(risk))
        8.28645
    """
    fisher = squared_gradients(risk, loss_gradients(risk.loss_fn, power=2), 1, "Fisher-Rao norm")
    parts = {
        name: float((risk.parameters[name].detach().double().square() * fisher[name].double()).sum()) / risk.examples
        for name in risk.names
    }
    return Estimate(sum(parts.values()), 0.0, risk.examples, exact=True, per_layer=parts, method="exact")
