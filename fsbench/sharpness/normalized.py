"""Normalized sharpness: curvature times squared weights, at the best variances of rows and columns."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fsbench.sharpness.derivatives.surrogate_loss import normalized_softmax_cross_entropy
from fsbench.sharpness.diagonal import hessian_diagonal
from fsbench.sharpness.estimate import Diagonal, Estimate, Refused
from fsbench.sharpness.rescaling.balancing import balance
from fsbench.sharpness.rescaling.homogeneous_operations import scale_notes
from fsbench.sharpness.risk import Risk


def normalized_sharpness(risk: Risk, *, diagonal: Diagonal | None = None) -> Estimate:
    """sum over weight matrices W of min over x, y of sum_ij h_ij e^(x_i + y_j) + W_ij^2 e^-(x_i + y_j).

    h is the diagonal of the Hessian of the mean surrogate loss (`normalized_softmax_cross_entropy`, whatever the
    risk's own loss is), clipped at 0 as in algorithm 1, and lambda = 1/2. Each minimum is found to a relative gap of
    1e-12 (see `balance`); `details["gap"]` bounds the sum of the gaps. The measure is unchanged by rescaling a row of
    one layer and the matching column of the next in positively homogeneous networks, and by a f + b in place of the
    logits f. Other networks get a `NotInvariantWarning` that names what stands in the way.

    The matrices are those of linear and convolution layers, the latter with h and W^2 summed over the kernel, as
    (out, in); a weight that several layers share counts once. Biases, normalisation layers, embeddings, bare
    parameters and weights that are not trained are left out; a note says what there was of them.

    Args:
        risk: model and examples.
        diagonal: used in place of the exact one of the surrogate loss. Where it was estimated from random draws,
            `stderr` is an upper bound to first order (sum of e^(x_i + y_j) times each entry's own standard error,
            whatever their correlation); clipping biases the value upwards, and the minimum it downwards.

    Returns:
        The sum, in nats^(1/2); `per_layer` the minimum for each matrix by the name of the weight. In `details`: how
        many entries of the diagonal were negative, and their share of the sum of absolute values.

    Raises:
        Refused: there is no such matrix, or the output is not (n, K).
        ValueError: `diagonal` lacks a matrix or has one of another shape.

    Source: Tsuzuku et al. 2019, eq. 17, algorithm 1; sections 5.2 to 5.4.

    Example:
        >>> print(normalized_sharpness(risk))
        1.52551
    """
    matrices, which = weight_matrices(risk)
    notes = scale_notes(risk, "normalized sharpness")
    diagonal = surrogate_diagonal(risk, matrices, diagonal)
    per_layer: dict[str, float] = {}
    gap = stderr = negative_mass = mass = 0.0
    negative = entries = 0
    for matrix in matrices:
        h = diagonal.values[matrix.name]
        below = h < 0
        negative, entries = negative + int(below.sum()), entries + h.numel()
        negative_mass -= float(h[below].double().sum())
        mass += float(h.double().abs().sum())
        squares = matrix.summed(risk.parameters[matrix.name].detach().double().square())
        found = balance(matrix.summed(h.clamp_min(0)), squares)
        per_layer[matrix.name] = found.value
        gap += found.gap
        if diagonal.stderr is not None:
            # The derivative of a minimum is that of the objective where it is attained.
            variances = (found.rows[:, None] + found.columns).nan_to_num(nan=-math.inf).exp()
            stderr += float((matrix.summed(diagonal.stderr[matrix.name]).to(variances.device) * variances).sum())
    share = negative_mass / mass if mass else 0.0
    if negative:
        notes += (
            f"{negative} of {entries} entries of the diagonal are negative, {share:.2g} of its absolute sum; "
            "clipped at 0 (algorithm 1)",
        )
    details = {"negative_entries": negative, "negative_share": share, "gap": gap}
    return sum_of_matrices(diagonal, per_layer, stderr, (which, *notes), details)


def sum_of_matrices(
    diagonal: Diagonal, per_layer: dict[str, float], stderr: float, notes: tuple[str, ...], details: dict[str, float]
) -> Estimate:
    """The sum over the matrices, as exact as the diagonal; `stderr`: what the diagonal's own error makes of it."""
    if diagonal.stderr is not None:
        notes += ("the standard error is an upper bound: errors of the entries were taken as fully correlated",)
    return Estimate(
        value=math.fsum(per_layer.values()),
        # A Gauss-Newton diagonal is not exact, but nothing in it was drawn.
        stderr=math.nan if diagonal.stderr is None and diagonal.seed is not None else stderr,
        samples=diagonal.samples,
        exact=diagonal.exact,
        per_layer=per_layer,
        seed=diagonal.seed,
        method=diagonal.method,
        notes=(*notes, *diagonal.notes),
        degrees=math.inf if diagonal.stderr is None else diagonal.samples - 1,
        details=details,
    )


def surrogate_diagonal(risk: Risk, matrices: list[WeightMatrix], diagonal: Diagonal | None) -> Diagonal:
    """The exact diagonal for the surrogate loss, or the one handed in if it fits the network."""
    if diagonal is None:
        return hessian_diagonal(risk.like(loss_fn=normalized_softmax_cross_entropy))
    for matrix in matrices:
        shape = tuple(risk.parameters[matrix.name].shape)
        for values in (diagonal.values, diagonal.stderr):
            if values is None:
                continue
            if matrix.name not in values:
                raise ValueError(f"diagonal has no entries for {matrix.name}")
            if tuple(values[matrix.name].shape) != shape:
                raise ValueError(f"diagonal of {matrix.name} has shape {tuple(values[matrix.name].shape)}, not {shape}")
    return diagonal


@dataclass(frozen=True)
class WeightMatrix:
    """The trained weight of one linear or convolution layer.

    Args:
        name: of the weight tensor in `named_parameters()`.
        module: the layer; the first one where several share the weight.
    """

    name: str
    module: nn.Linear | _ConvNd

    def summed(self, values: Tensor) -> Tensor:
        """The sums over each pair of an output and an input channel: (out, in), in float64.

        `values` is shaped like the weight; convolutions are summed over the kernel, and pairs of channels that are
        in different groups hold zeros.
        """
        values = values.double()
        if not isinstance(self.module, _ConvNd):
            return values
        values = values.flatten(2).sum(2)
        if isinstance(self.module, _ConvTransposeNd):
            # (in, out / groups): turned around within each group.
            blocks = values.unflatten(0, (self.module.groups, -1)).transpose(1, 2)
        else:
            blocks = values.unflatten(0, (self.module.groups, -1))
        if self.module.groups == 1:
            return blocks[0]
        groups, rows, columns = blocks.shape
        matrix = values.new_zeros(groups, rows, groups, columns)
        matrix.diagonal(dim1=0, dim2=2).copy_(blocks.permute(1, 2, 0))
        return matrix.reshape(groups * rows, groups * columns)


def weight_matrices(risk: Risk) -> tuple[list[WeightMatrix], str]:
    """The trained weights of linear and convolution layers, each once, and a sentence on what is left out.

    Raises:
        Refused: there are none.
    """
    trained = {parameter: name for name, parameter in risk.parameters.items()}
    matrices: dict[str, WeightMatrix] = {}
    labels: dict[str, str] = {}  # of trained tensors by name: what they are called where they are left out
    frozen = 0
    for module in risk.model.modules():
        kinds_of = (kind for kind in type(module).__mro__ if kind is not nn.Module)
        of_torch = any(kind.__module__.startswith("torch.nn.modules.") for kind in kinds_of)
        for own, parameter in module.named_parameters(recurse=False):
            name = trained.get(parameter)
            if isinstance(module, nn.Linear | _ConvNd) and own == "weight":
                if name is None:
                    frozen += 1
                else:
                    matrices.setdefault(name, WeightMatrix(name, module))
            elif name is not None:
                bias = isinstance(module, nn.Linear | _ConvNd) and own == "bias"
                labels.setdefault(name, "bias" if bias else type(module).__name__ if of_torch else name)
    if not matrices:
        raise Refused("the network has no trained weight matrix of a linear or convolution layer")
    kinds = Counter(labels.get(name, name) for name in risk.names if name not in matrices)
    kinds["matrices that are not trained"] = frozen
    left_out = [kind if count == 1 else f"{kind} ({count})" for kind, count in kinds.items() if count]
    if len(left_out) > 8:
        left_out[7:] = [f"{len(left_out) - 7} more"]
    said = f"{len(matrices)} weight matrices of linear and convolution layers"
    return list(matrices.values()), said + (f"; left out: {', '.join(left_out)}" if left_out else "")
