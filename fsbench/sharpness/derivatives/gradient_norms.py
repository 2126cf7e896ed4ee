"""||g_i||, the norm of each example's own gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.sharpness.derivatives.logit_gradients import logit_gradients
from fsbench.sharpness.derivatives.loss_gradients import loss_directions
from fsbench.sharpness.risk import Risk


def squared_gradient_norms(risk: Risk, what: str) -> dict[str, Tensor]:
    """||d loss_i / dW||^2 of every example, (N,) in float64, for each trained tensor W; zeros for unused ones."""
    parts: dict[str, list[Tensor]] = {name: [] for name in risk.names}

    def vectors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        directions, lengths = loss_directions(risk.loss_fn, logits, labels)
        return directions, lengths.square()[None]

    for piece in logit_gradients(risk, vectors, 1, what):
        for name, gradients in piece.gradients:
            parts[name].append((gradients.squared_norms() * piece.weights)[0])
    unused = torch.zeros(risk.examples, dtype=torch.float64)
    return {name: risk.of_all_processes(torch.cat(rows).cpu()) if rows else unused for name, rows in parts.items()}
