"""What is said where the value of K backward passes is not that of the Hessian."""

from __future__ import annotations

import warnings

from fsbench.sharpness.derivatives.logit_hessian import is_cross_entropy
from fsbench.sharpness.refused import Refused
from fsbench.sharpness.risk import Risk


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
