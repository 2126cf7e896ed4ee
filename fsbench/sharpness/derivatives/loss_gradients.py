"""The gradient of each example's own loss, apart from its length.

A network that is sure of its training examples has gradients down to 1e-12 and below, where 1 - p has lost its
digits in float32. So the gradient with respect to the logits is taken in float64 and its length kept aside; what
goes back through the network has length 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fsbench.sharpness.derivatives.logit_hessian import is_plain_cross_entropy


def loss_directions(
    loss_fn: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor, logit_norm: float | None = None
) -> tuple[Tensor, Tensor]:
    """d loss_i / d o_i as directions, (1, n, K), of length 1 (or 0), and lengths, (n,), in float64.

    Args:
        logit_norm: the loss is of logit_norm o / ||o||, differentiated through this scaling; None: of o.
    """
    with torch.enable_grad():
        o = logits.detach().double().requires_grad_()
        scaled = o if logit_norm is None else logit_norm * o / o.norm(dim=-1, keepdim=True)
        if is_plain_cross_entropy(loss_fn) and labels.dim() == 1:
            own = labels[:, None]
            others = scaled.detach().softmax(-1).scatter(1, own, 0.0)
            gradient = others.scatter(1, own, -others.sum(-1, keepdim=True))  # p - e_y, without 1 - p_y
        else:
            loss = loss_fn(scaled, labels) * len(labels)
            (gradient,) = torch.autograd.grad(loss, scaled, retain_graph=True)
        if logit_norm is not None:
            (gradient,) = torch.autograd.grad(scaled, o, gradient)
    lengths = gradient.norm(dim=-1)
    directions = gradient / torch.where(lengths > 0, lengths, torch.ones_like(lengths))[:, None]
    return directions[None], lengths
