"""The trace of the observed Fisher information."""

from __future__ import annotations

from dataclasses import replace

import torch

from fsbench.sharpness.derivatives.logit_gradients import squared_gradient_norms
from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.risk import Risk


def fisher_trace(risk: Risk, *, sub_batch: int | None = None) -> Estimate:
    """(1/N) sum_i ||d loss_i / dw||^2, whole and per weight tensor (Jia & Su 2020, section 6).

    Args:
        sub_batch: instead the form that the paper's regulariser is made of, the mean over groups of so many
            examples, in the order of the data, of the squared norm of the group's mean gradient. Examples left
            over are left out, and a note says so.

    Raises:
        Refused: fewer than `sub_batch` examples.
        ValueError: sub_batch below 1.

    Example:
        >>> print(fisher_trace(risk), list(fisher_trace(risk).per_layer))
        3.66958 ['0.weight', '2.weight']
    """
    if sub_batch is not None:
        return _of_sub_batches(risk, sub_batch)
    norms = squared_gradient_norms(risk, "Fisher trace")
    per_layer = {name: float(norm.mean()) for name, norm in norms.items()}
    return Estimate.mean_over_examples(torch.stack(list(norms.values())).sum(0), per_layer=per_layer)


def _of_sub_batches(risk: Risk, size: int) -> Estimate:
    if size < 1:
        raise ValueError(f"sub_batch={size}: must be at least 1")
    if size > risk.examples:
        raise Refused(f"sub_batch={size}: there are {risk.examples} examples only")
    rows = []
    for x, y in risk.groups(size, "Fisher trace"):
        if len(y) < size:
            continue
        with torch.enable_grad():
            loss = risk.loss(risk.model(x), y)
            gradient = torch.autograd.grad(loss, risk.weights, materialize_grads=True)
        rows.append(torch.stack([part.square().sum() for part in gradient]).double().cpu())
    norms = torch.stack(rows)  # (groups, tensors)
    left = risk.examples - size * len(rows)
    per_layer = dict(zip(risk.names, norms.mean(0).tolist(), strict=True))
    found = Estimate.mean_over_examples(norms.sum(1), f"groups of {size}", per_layer=per_layer)
    note = f"{left} examples at the end make no whole group and are left out"
    return replace(found, exact=False, notes=(note,)) if left else found
