"""What is known of a loss function: whether it is cross-entropy, its label smoothing, the label that it ignores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

# Of logits (n, K) and labels (n,): the mean over the examples.
Loss = Callable[[Tensor, Tensor], Tensor]


def label_smoothing(loss_fn: Loss) -> float | None:
    """That of cross-entropy without class weights, whose logit Hessian is diag(p) - pp' whatever the labels.

    None for every other loss.
    """
    if isinstance(loss_fn, partial):
        known = loss_fn.func is functional.cross_entropy and not loss_fn.args
        known = known and loss_fn.keywords.keys() <= {"label_smoothing"}
        return loss_fn.keywords.get("label_smoothing", 0.0) if known else None
    if type(loss_fn) is nn.CrossEntropyLoss:
        return loss_fn.label_smoothing if loss_fn.weight is None and loss_fn.reduction == "mean" else None
    return 0.0 if loss_fn is functional.cross_entropy else None


def is_cross_entropy(loss_fn: Loss) -> bool:
    """True of plain cross-entropy, label smoothing or not."""
    return label_smoothing(loss_fn) is not None


def ignored_label(loss_fn: Loss) -> int | None:
    """The label that cross-entropy passes over; None for another loss."""
    if not is_cross_entropy(loss_fn):
        return None
    return loss_fn.ignore_index if isinstance(loss_fn, nn.CrossEntropyLoss) else -100
