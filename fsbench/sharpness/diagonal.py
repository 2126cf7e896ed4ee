"""The diagonal of the Hessian of the loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fsbench.sharpness.baseline import baseline_diagonal
from fsbench.sharpness.derivatives.gauss_newton import gauss_newton_notes
from fsbench.sharpness.derivatives.logit_gradients import logit_gradients
from fsbench.sharpness.derivatives.logit_hessian import factor_count, factors
from fsbench.sharpness.diagonal_approximations import difference_diagonal
from fsbench.sharpness.estimate import Diagonal
from fsbench.sharpness.risk import Risk


def hessian_diagonal(
    risk: Risk, method: Literal["exact", "baseline", "2019", "2020"] = "exact", *, probes: int = 100, seed: int = 0
) -> Diagonal:
    """diag H, a tensor for each trained weight tensor.

    Args:
        method: `exact`: K backward passes, mean over examples of sum_l p_l (d o_l / dW)^2 - (d ln Z / dW)^2 for
            cross-entropy (Ibayashi et al. 2021, appendix H), diag of (do/dW)' (d2 loss / do do) (do/dW) for any loss
            on logits; the Hessian's under the conditions of `hessian_trace`, else Gauss-Newton's, with a warning.
            `baseline`: one derivative for each weight. `2019`, `2020`: the two published approximations by
            differences of gradients (appendix G), `probes` of them from `seed`; see `difference_diagonal`.

    Raises:
        Refused: the output is not (n, K) (`exact`).
        ValueError: an argument out of its range.
    """
    if method == "baseline":
        return baseline_diagonal(risk)
    if method in ("2019", "2020"):
        return difference_diagonal(risk, probes=probes, seed=seed, form=method)
    if method != "exact":
        raise ValueError(f"method={method}: must be one of exact, baseline, 2019, 2020")
    notes = gauss_newton_notes(risk)

    def vectors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        return factors(risk.loss_fn, logits, labels)

    sums = squared_gradients(risk, vectors, factor_count(risk.loss_fn, risk.classes), "diagonal")
    return Diagonal(
        values={name: value / risk.examples for name, value in sums.items()},
        stderr=None,
        samples=risk.examples,
        exact=not notes,
        method="gauss-newton" if notes else "exact",
        notes=notes,
    )


def squared_gradients(risk: Risk, vectors, count: int, what: str) -> dict[str, Tensor]:
    """sum over examples and vectors of weight (J'v)^2, elementwise, by the name of each trained tensor."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in risk.parameters.items()}
    for piece in logit_gradients(risk, vectors, count, what):
        for name, gradients in piece.gradients:
            sums[name] += gradients.weighted_squares(piece.weights)
    risk.over_processes(list(sums.values()))
    return sums
