"""Diagonal and trace of the Hessian the naive way: one derivative for each weight; for comparison."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm import tqdm

from fsbench.sharpness.derivatives.hessian_operator import GRAPHS, summed_gradient, twice_differentiable
from fsbench.sharpness.estimate import Diagonal, Estimate
from fsbench.sharpness.risk import Risk


def baseline_diagonal(risk: Risk) -> Diagonal:
    """H_ii = d/dw_i (dL / dw_i), the gradient with its graph and then one derivative of each entry of it.

    Exact for every network that is twice differentiable, at the cost of W backward passes over the data. Each
    derivative is taken with respect to the weight tensor that the entry is in, not to all of them.

    Raises:
        Refused: an operation has no second derivative.

    Source: what Ibayashi et al. 2021, section 3.1, compare with.
    """
    size = sum(p.numel() for p in risk.weights)
    with tqdm(
        total=size * risk.examples, desc="baseline diagonal", unit="derivative", unit_scale=True,
        disable=None if risk.progress else True, delay=1.0, leave=False, dynamic_ncols=True,
    ) as bar:  # fmt: skip

        def parts(x: Tensor, y: Tensor) -> list[Tensor]:
            with twice_differentiable():
                gradient = summed_gradient(risk, x, y)
                found = []
                for p, g in zip(risk.weights, gradient, strict=True):
                    entries = torch.zeros(p.numel(), dtype=p.dtype, device=p.device)
                    flat = g.flatten()
                    # Without a graph it is constant in w: of an unused weight, or of a loss linear in it.
                    for i in range(len(flat) if g.requires_grad else 0):
                        # Indexed: iterating over a tensor ties all its entries into one node of the graph.
                        (row,) = torch.autograd.grad(flat[i], p, retain_graph=True, materialize_grads=True)
                        entries[i] = row.flatten()[i]
                        bar.update(len(y))
                    found.append(entries.view_as(p))
            return found

        values = risk.mean(parts, risk.piece(GRAPHS * risk.activation_bytes))
    return Diagonal(
        values=dict(zip(risk.names, values, strict=True)),
        stderr=None,
        samples=risk.examples,
        exact=True,
        method="baseline",
    )


def baseline_trace(risk: Risk) -> Estimate:
    """Tr H, per weight tensor and whole, as the sum of `baseline_diagonal`; raises as it does."""
    diagonal = baseline_diagonal(risk)
    per_layer = {name: float(value.sum(dtype=torch.float64)) for name, value in diagonal.values.items()}
    return Estimate(
        value=math.fsum(per_layer.values()),
        stderr=0.0,
        samples=diagonal.samples,
        exact=True,
        per_layer=per_layer,
        method="baseline",
    )
