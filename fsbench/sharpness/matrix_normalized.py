"""Matrix-normalized sharpness: each matrix's curvature times its squared norm."""

from __future__ import annotations

import math

from fsbench.sharpness.estimate import Diagonal, Estimate
from fsbench.sharpness.normalized import sum_of_matrices, surrogate_diagonal, weight_matrices
from fsbench.sharpness.rescaling.homogeneous_operations import scale_notes
from fsbench.sharpness.risk import Risk


def matrix_normalized_sharpness(risk: Risk, *, diagonal: Diagonal | None = None) -> Estimate:
    """sum over weight matrices W of sqrt(||W||_F^2 H), H = max(0, sum of that matrix's entries of diag(Hessian)).

    The sum is taken first and clipped then. Loss, matrices, warnings and notes are those of `normalized_sharpness`,
    which is at most twice this value where no entry of the diagonal is negative. Unchanged by rescaling whole layers
    of positively homogeneous networks.

    Args:
        risk: model and examples; the surrogate loss takes the place of its own.
        diagonal: used in place of the exact one of the surrogate loss. Where it was estimated from random draws,
            `stderr` is an upper bound to first order, as in `normalized_sharpness`.

    Returns:
        The sum, in nats^(1/2); `per_layer` its terms by the name of the weight.

    Raises:
        Refused: there is no such matrix, or the output is not (n, K).
        ValueError: `diagonal` lacks a matrix or has one of another shape.

    Source: Tsuzuku et al. 2019, eq. 9 and 13.

    Example:
        >>> print(matrix_normalized_sharpness(risk))
        1.51776
    """
    matrices, which = weight_matrices(risk)
    notes = scale_notes(risk, "matrix-normalized sharpness")
    diagonal = surrogate_diagonal(risk, matrices, diagonal)
    per_layer: dict[str, float] = {}
    stderr, negative = 0.0, []
    for matrix in matrices:
        squares = float(risk.parameters[matrix.name].detach().double().square().sum())
        curvature = float(diagonal.values[matrix.name].double().sum())
        if curvature < 0:
            negative.append(matrix.name)
        per_layer[matrix.name] = math.sqrt(squares * max(0.0, curvature))
        if diagonal.stderr is not None:
            error = float(diagonal.stderr[matrix.name].double().sum())
            # d sqrt(s H) / dH; at H = 0 that is no number, and the error itself takes the place of H.
            stderr += math.sqrt(squares) * error / (2 * math.sqrt(max(curvature, error))) if error else 0.0
    if negative:
        notes += (f"the sum over the diagonal is negative, and counts as 0, for: {', '.join(negative)}",)
    return sum_of_matrices(diagonal, per_layer, stderr, (which, *notes), {"negative_matrices": len(negative)})
