"""The Fisher-Rao norm."""

from __future__ import annotations

from torch import Tensor

from fsbench.sharpness.derivatives.loss_gradients import loss_directions
from fsbench.sharpness.diagonal import squared_gradients
from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.risk import Risk


def fisher_rao_norm(risk: Risk) -> Estimate:
    """sum_i w_i^2 (1/N) sum_z (d loss_z / d w_i)^2, true labels (Liang et al. 2017; Tsuzuku et al. 2019, eq. 25)."""

    def vectors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        directions, lengths = loss_directions(risk.loss_fn, logits, labels)
        return directions, lengths.square()[None]

    fisher = squared_gradients(risk, vectors, 1, "Fisher-Rao norm")
    parts = {
        name: float((risk.parameters[name].detach().double().square() * fisher[name].double()).sum()) / risk.examples
        for name in risk.names
    }
    return Estimate(sum(parts.values()), 0.0, risk.examples, exact=True, per_layer=parts, method="exact")
