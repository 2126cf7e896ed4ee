"""Robustness to the input: how far the prediction moves with it."""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.risk import Risk


def input_robustness(risk: Risk) -> Estimate:
    """(1/N) sum_x ||J_x softmax(f(x))||_2^2, the squared spectral norm.

    J_x (K, D) is the derivative with respect to the input as the network sees it (normalised). Smaller is more
    robust. Source: Jia & Su 2020, section 7.1, after Sokolic et al. 2017.

    Raises:
        Refused: the output is not (n, K).

    Example:
        >>> print(input_robustness(risk))
        0.183769
    """
    classes = risk.classes
    x = risk.probe[:1]
    size = risk.piece(classes * (2 * x.numel() * x.element_size() + 2 * risk.activation_bytes))
    norms = [_squared_norms(risk, x, classes) for x, _ in risk.pieces(size, "input robustness")]
    return Estimate.mean_over_examples(risk.of_all_processes(torch.cat(norms)))


def _squared_norms(risk: Risk, x: Tensor, classes: int) -> Tensor:
    """(n,) in float64."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = risk.model(x)
    p = logits.detach().double().softmax(-1)
    # Row k of d softmax / d logits is p_k (e_k - p).
    rows = (p[:, :, None] * (torch.eye(classes, dtype=p.dtype, device=p.device) - p[:, None, :])).transpose(0, 1)
    (jacobian,) = torch.autograd.grad(logits, x, rows.to(logits.dtype), is_grads_batched=True)
    jacobian = jacobian.flatten(2).transpose(0, 1).double()  # (n, K, D)
    return torch.linalg.eigvalsh(jacobian @ jacobian.mT)[:, -1].clamp(min=0).cpu()
