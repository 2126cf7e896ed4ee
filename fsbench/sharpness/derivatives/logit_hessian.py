"""The Hessian of the loss with respect to the logits, as vectors to send back through the network.

Per example, d2 loss / do do = sum_s weight_s v_s v_s' (K x K). With it the Gauss-Newton matrix is
sum_s weight_s (J'v_s)(J'v_s)', J = do/dw, and J'v is a backward pass. It is the Hessian where every second
derivative of the logits with respect to one weight vanishes (Ibayashi et al. 2021, proposition 1).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fsbench.errors import first_line
from fsbench.sharpness.derivatives.surrogate_loss import MORE, normalized_softmax_cross_entropy, surrogate_factors
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.loss_facts import Loss, is_cross_entropy
from fsbench.sharpness.risk import Risk

_NOT_FINITE = "the loss has no finite second derivative with respect to the logits of some example"


class GaussNewtonWarning(UserWarning):
    """The value is of the Gauss-Newton matrix, not of the Hessian."""


def gauss_newton_notes(risk: Risk) -> tuple[str, ...]:
    """A note, and a warning, where the logits are not piecewise linear in each weight; empty where they are.

    There the Hessian is the Gauss-Newton matrix plus sum_k (d loss / d o_k) (d2 o_k / dw dw), whose diagonal K
    backward passes do not see (Ibayashi et al. 2021, proposition 1, holds for the former alone). Raises Refused where
    the loss is linear in the network's output.
    """
    operations = risk.nonlinear_operations
    if not operations:
        return ()
    if operations[-1] == "LogSoftmax" and not is_cross_entropy(risk.loss_fn):
        raise Refused(
            "the network ends in LogSoftmax, whose loss is linear; end it with the logits and use cross-entropy"
        )
    note = (
        f"Gauss-Newton, not Hessian: the network is not piecewise linear in each weight ({', '.join(operations)}); "
        "method='hutchinson' estimates the Hessian's"
    )
    warnings.warn(note, GaussNewtonWarning, stacklevel=3)
    return (note,)


def factors(loss_fn: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """All of the logit Hessian: v, (K, n, K), and weights, (K, n); None stands for ones.

    Cross-entropy: v_l = sqrt(p_l) (e_l - p), the square root diag(p)^1/2 (1 - 1p') of diag(p) - pp', without the
    difference of proposition 1, in which nearly everything cancels where the network is sure. The surrogate loss of
    normalized sharpness: the K + 3 of `surrogate_factors`. Any other loss: eigenvectors and eigenvalues. `logits`
    (n, K), `labels` (n,) or (n, ...).

    Raises:
        Refused: the loss is linear in the logits, or has no finite second derivative.
    """
    dtype = logits.dtype
    logits = logits.detach().double()
    if is_cross_entropy(loss_fn) and not labels.is_floating_point():
        p = logits.softmax(-1)
        root = p.sqrt()
        v = -root.t()[:, :, None].to(dtype) * p.to(dtype)
        # 1 - p_l as the sum of the other p's, which keeps its digits near p_l = 1.
        v.diagonal(dim1=0, dim2=2).copy_(root * _sums_of_others(p))
        return v, None
    classes = labels.dim() == 1 and not labels.is_floating_point() and bool((labels >= 0).all())
    if loss_fn is normalized_softmax_cross_entropy and classes:
        v, weights = surrogate_factors(logits, labels)
        if not v.isfinite().all():
            raise Refused(_NOT_FINITE)
        return v, weights
    values, vectors = torch.linalg.eigh(_logit_hessian(loss_fn, logits, labels))
    return vectors.permute(2, 0, 1), values.t()


def factor_count(loss_fn: Loss, classes: int) -> int:
    """The number of vectors that `factors` gives, for K classes."""
    return classes + (MORE if loss_fn is normalized_softmax_cross_entropy else 0)


def sampled_factors(
    loss_fn: Loss, logits: Tensor, labels: Tensor, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """An unbiased sample of it: v, (draws, n, K), and weights, (draws, n).

    Cross-entropy: v = e_l - p with classes l drawn with probability q_l in proportion to p_l ||e_l - p||^2, and
    weights p_l / (draws q_l). Any other loss: eigenvectors drawn with probability |lambda| / sum |lambda|. The draws
    are independent; each alone, times `draws`, is unbiased too.
    """
    logits = logits.detach().double()
    if is_cross_entropy(loss_fn) and not labels.is_floating_point():
        p = logits.softmax(-1)
        others = _sums_of_others(p)
        # p_l ||e_l - p||^2: the classes a sure network hardly draws by p alone are those that curve its loss.
        q = p * (others.square() + _sums_of_others(p.square()))
        drawn = _drawn(q, draws, generator).t()
        v = (-p).repeat(draws, 1, 1).scatter_(2, drawn[:, :, None], 0.0)
        # 1 - p_l as the sum of the other p's: it keeps its digits where p_l is nearly 1.
        v.scatter_(2, drawn[:, :, None], -v.sum(-1, keepdim=True))
        share = q / q.sum(-1, keepdim=True).where(q.sum(-1, keepdim=True) > 0, 1.0)
        chance = share.gather(1, drawn.t()).t()
        weights = p.gather(1, drawn.t()).t() / (draws * chance.where(chance > 0, torch.inf))
        return v, weights
    values, vectors = torch.linalg.eigh(_logit_hessian(loss_fn, logits, labels))
    mass = values.abs().sum(-1, keepdim=True)
    chosen = _drawn(torch.where(mass > 0, values.abs() / mass, 1 / values.shape[-1]), draws, generator)
    v = vectors.gather(2, chosen[:, None, :].expand(-1, vectors.shape[1], -1)).permute(2, 0, 1)
    return v, (values.gather(1, chosen).sign() * mass / draws).t()


def _sums_of_others(p: Tensor) -> Tensor:
    """sum_{k != l} p_k, (n, K), without a difference."""
    return p @ (1 - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device))


def _drawn(probabilities: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """(n, draws) indices by inversion, so that the pieces the data come in don't change what is drawn."""
    uniform = torch.rand(len(probabilities), draws, generator=generator, dtype=torch.float64)
    cumulated = probabilities.cumsum(-1)
    cumulated = cumulated / cumulated[:, -1:].where(cumulated[:, -1:] > 0, 1.0)
    return torch.searchsorted(cumulated, uniform.to(cumulated.device), right=True).clamp_(max=cumulated.shape[-1] - 1)


def _logit_hessian(loss_fn: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """(n, K, K), a row of all examples at a time: none's loss depends on another's logits."""
    with torch.enable_grad():
        o = logits.requires_grad_()
        try:
            (gradient,) = torch.autograd.grad(loss_fn(o, labels) * len(labels), o, create_graph=True)
            if not gradient.requires_grad:
                raise Refused("the loss is linear in the network's output: what curves it lies inside the network")
            rows = [torch.autograd.grad(column.sum(), o, retain_graph=True)[0] for column in gradient.unbind(-1)]
        except RuntimeError as failure:
            if "not implemented" not in str(failure):
                raise
            raise Refused(f"the loss has no second derivative in torch: {first_line(failure)}") from failure
    hessian = torch.stack(rows, dim=1)
    if not hessian.isfinite().all():
        raise Refused(_NOT_FINITE)
    return hessian
