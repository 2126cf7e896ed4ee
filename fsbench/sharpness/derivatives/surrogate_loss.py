"""The loss whose Hessian normalized sharpness is made of: cross-entropy that forgets the scale of the logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def normalized_softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of -ln softmax(f / std(f))[y], in nats; unchanged by a f + b for any a > 0 and b.

        std(f)^2 = (1/K) sum_k (f_k - mean(f))^2     (the population form, over the K classes of one example)

    Twice differentiable, also under `torch.func`. Where all logits of an example are equal the quotient is 0/0 and
    the loss has no limit (it depends on the direction the point is come from). Such an example counts as the uniform
    prediction: its loss is ln K and its derivatives are zero, as it prefers no class by any amount.

    Args:
        logits: (n, K) or (n, K, ...).
        labels: as for `torch.nn.functional.cross_entropy`: class indices, or probabilities shaped like `logits`.

    Raises:
        ValueError: the logits have no class dimension.

    Source: Tsuzuku et al. 2019, eq. 20-22.
    """
    if logits.dim() < 2:
        raise ValueError(f"logits of shape {tuple(logits.shape)}: must be (n, K)")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    # Differences first: equal logits become exact zeros, and a large common shift costs no digits afterwards.
    centred = logits - logits.narrow(1, 0, 1)
    centred = centred - centred.mean(1, keepdim=True)
    # The loss is the same for any constant in place of `size`; this one keeps the squares in range.
    size = centred.detach().abs().amax(1, keepdim=True)
    equal = size == 0
    scaled = centred / torch.where(equal, torch.ones_like(size), size)
    # Twice `where`: the branch not taken must have finite derivatives too.
    variance = torch.where(equal, torch.ones_like(size), scaled.square().mean(1, keepdim=True))
    normalized = torch.where(equal, torch.zeros_like(scaled), scaled * variance.rsqrt())
    return functional.cross_entropy(normalized, labels)
