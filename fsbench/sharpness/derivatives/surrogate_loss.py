"""The loss of normalized sharpness, cross-entropy that forgets the scale of the logits, and its logit Hessian."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Vectors of `surrogate_factors` beside one for each class.
MORE = 3


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

    Example:
        >>> logits, label = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1])
        >>> normalized_softmax_cross_entropy(logits, label), normalized_softmax_cross_entropy(9 * logits + 5, label)
        (tensor(0.3222), tensor(0.3222))
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


def surrogate_factors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """v, (K + 3, n, K), and weights, (K + 3, n): d2 loss / do do = sum_s weight_s v_s v_s' for each example.

    With u the centred logits at length 1, p = softmax(sqrt(K) u), r = p - e_y, Q the projection on what is orthogonal
    to u and to 1, q = r - (r'u) u and t = r'u / sqrt(K), the Hessian of `normalized_softmax_cross_entropy` is

        (Q (diag(p - t) - pp') Q - (q u' + u q') / sqrt(K)) / std(o)^2.

    Where t <= 0 (the network is right, say) the first part is the square of diag(d)^1/2 (1 - beta bb'), d = p - t and
    b = p / sqrt(d), in which p and pp' do not cancel. Elsewhere its vectors are those of the diagonal, with the signs
    of p - t, and p; that is harmless, as a network that is sure and wrong has a large t. The second part is the
    difference of the squares of q/|q| + u and q/|q| - u.

    Args:
        logits: (n, K) in float64; where those of an example are all equal its vectors are zero, as the derivatives.
        labels: (n,), classes.

    Source: eq. 20-22 of Tsuzuku et al. 2019, differentiated twice.
    """
    n, classes = logits.shape
    centred = logits - logits[:, :1]
    centred = centred - centred.mean(1, keepdim=True)
    size = centred.abs().amax(1, keepdim=True)
    equal = size == 0
    scaled = centred / size.where(~equal, 1.0)
    length = scaled.norm(dim=1, keepdim=True).where(~equal, 1.0)
    u = scaled / length
    p = (math.sqrt(classes) * u).softmax(1)
    # 1 - p_y as the sum of the other p's, which keeps its digits near p_y = 1.
    own = labels[:, None]
    others = p.scatter(1, own, 0.0)
    r = others.scatter(1, own, -others.sum(1, keepdim=True))
    along = (r * u).sum(1, keepdim=True)
    t = along / math.sqrt(classes)
    root, signs = _root(p, t)
    # Q of each vector: u is orthogonal to 1.
    root = root - root.mean(2, keepdim=True)
    root = root - (root * u).sum(2, keepdim=True) * u
    q = r - along * u
    bend = q.norm(dim=1, keepdim=True)
    direction = q / bend.where(bend > 0, 1.0)
    share = (bend / (2 * math.sqrt(classes))).sqrt()
    v = torch.cat([root, (share * (direction + u))[None], (share * (direction - u))[None]])
    one = torch.ones(1, n, dtype=v.dtype, device=v.device)
    inverse = (math.sqrt(classes) / length / size.where(~equal, 1.0)).where(~equal, 0.0)  # 1 / std(o)
    return v * inverse, torch.cat([signs, -one, one])


def _root(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """w, (K + 1, n, K), and signs, (K + 1, n): diag(p - t) - pp' = sum_s sign_s w_s w_s'."""
    d = p - t
    definite = t <= 0
    inverse = d.where(definite & (d > 0), 1.0).reciprocal()
    b = p * inverse.sqrt()
    rest = (-t * p * inverse).sum(1, keepdim=True)  # 1 - |b|^2, without the difference
    beta = (1 / (1 + rest.clamp_min(0).sqrt())).where(definite, 0.0)
    # Column l of diag(d)^1/2 (1 - beta bb') is sqrt(d_l) e_l - beta b_l p.
    w = -(beta * b).t()[:, :, None] * p
    scale = d.abs().sqrt()
    w.diagonal(dim1=0, dim2=2).copy_(scale * (1 - beta * b.square()))
    signs = torch.ones_like(d).where(d >= 0, -1.0).t()
    last = p.where(~definite, 0.0)
    return torch.cat([w, last[None]]), torch.cat([signs, -torch.ones_like(signs[:1])])
