"""The trace of the Hessian of the loss."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from fsbench.sharpness.derivatives.hessian_operator import HessianOperator, signs
from fsbench.sharpness.derivatives.logit_gradients import logit_gradients
from fsbench.sharpness.derivatives.logit_hessian import factor_count, factors, gauss_newton_notes, sampled_factors
from fsbench.sharpness.diagonal import hessian_diagonal
from fsbench.sharpness.estimate import Estimate, Refused, standard_error
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.xtrace import xtrace

# The standard error of fewer probes is itself too uncertain to stop by; it is looked at after each further ten.
BETWEEN_TESTS = 10


def hessian_trace(
    risk: Risk,
    method: Literal["exact", "hutchinson", "xtrace", "baseline"] = "exact",
    *,
    classes: int | None = None,
    probes: int = 100,
    tolerance: float = 0.0,
    seed: int = 0,
) -> Estimate:
    """Tr H, H = d2 L / dw dw, whole and per weight tensor; in nats per squared unit of weight.

    Args:
        method: `exact`: K backward passes, Tr H_d = mean over examples of sum_l p_l ||d o_l / dW_d||^2
            - ||d ln Z / dW_d||^2 for cross-entropy (Ibayashi et al. 2021, proposition 1, with the squares that its
            derivation has), and the trace of (do/dW)' (d2 loss / do do) (do/dW) for any loss on logits (n, K). It is
            the Hessian's for networks piecewise linear in each weight (ReLU, convolution, pooling, BatchNorm in eval
            mode, residual sums). Elsewhere it is the Gauss-Newton trace: `method` of the result, a note and a
            warning say so, and `exact` is False.
            `hutchinson`: random probes, for any network that is twice differentiable.
            `xtrace`: the same with an error that is smaller where few eigenvalues are large, as they are; its vectors
            are held in memory.
            `baseline`: one derivative for each weight, for comparison.
        classes: for `exact`: instead of all K, so many classes drawn for each example from the network's own
            prediction (another loss: eigenvectors of its logit Hessian); unbiased, with a standard error from two on.
            K or more: all of them, exactly.
        probes: Hessian-vector products, for `hutchinson` and `xtrace`.
        tolerance: for `hutchinson`, see `hutchinson_trace`.
        seed: of whatever is drawn.

    Raises:
        Refused: the output is not (n, K) (`exact`), or an operation has no second derivative (the others); `classes`
            where several processes share the examples.
        ValueError: an argument out of its range.

    Example:
        >>> print(hessian_trace(risk))
        0.587137
        >>> hessian_trace(risk, "hutchinson", probes=50).exact
        False
    """
    if method == "hutchinson":
        return hutchinson_trace(risk, probes=probes, tolerance=tolerance, seed=seed)
    if method == "xtrace":
        return xtrace(risk, products=probes, seed=seed)
    if method == "baseline":
        diagonal = hessian_diagonal(risk, "baseline")
        parts = {name: float(value.sum(dtype=torch.float64)) for name, value in diagonal.values.items()}
        value = math.fsum(parts.values())
        return Estimate(value, 0.0, diagonal.samples, exact=True, per_layer=parts, method="baseline")
    if method != "exact":
        raise ValueError(f"method={method}: must be one of exact, hutchinson, xtrace, baseline")
    if classes is not None and classes < 1:
        raise ValueError(f"classes={classes}: must be at least 1")
    notes = gauss_newton_notes(risk)
    name = "gauss-newton" if notes else "exact"
    frozen = len(list(risk.model.parameters())) - len(risk.parameters)
    if frozen:
        notes += (f"{frozen} weight tensors are not trained and left out",)
    if classes is not None and classes >= risk.classes:
        notes += (f"all {risk.classes} classes were taken, exactly: {classes} draws would cost more",)
        classes = None
    if classes is not None and risk.processes.count > 1:
        raise Refused(
            f"classes={classes}: what is drawn follows the order of the examples; use one process, or all classes"
        )
    layers, squares, variances = _sums(risk, classes, seed)
    n = risk.examples
    per_layer = {layer: part / n for layer, part in layers.items()}
    value = math.fsum(per_layer.values())
    spread = max(0.0, squares / n - value**2)
    estimate = Estimate(
        value=value,
        stderr=0.0,
        samples=n,
        exact=name == "exact",
        per_layer=per_layer,
        example_stderr=math.sqrt(spread / (n - 1)) if n > 1 else None,
        method=name,
        notes=notes,
    )
    if classes is None:
        return estimate
    stderr, degrees = _of_draws(variances / n**2, classes)
    sampled = f"{classes} sampled {'class' if classes == 1 else 'classes'} an example"
    return replace(
        estimate,
        stderr=stderr,
        samples=classes,
        exact=False,
        degrees=degrees,
        seed=seed,
        method=sampled if name == "exact" else f"gauss-newton, {sampled}",
    )


def _sums(risk: Risk, classes: int | None, seed: int) -> tuple[dict[str, float], float, Tensor]:
    """Over the examples: the trace of each tensor; the square of the whole one; its variances, (N,), of the draws."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        if classes is None:
            return factors(risk.loss_fn, logits, labels)
        return sampled_factors(risk.loss_fn, logits, labels, classes, generator)

    passes = classes or factor_count(risk.loss_fn, risk.classes)
    layers: dict[str, list[Tensor]] = {name: [] for name in risk.names}
    squares: list[Tensor] = []
    variances: list[Tensor] = []
    for _, pieces in groupby(logit_gradients(risk, vectors, passes, "trace"), key=lambda piece: piece.rows):
        draws: list[Tensor] = []  # (S, n), S of them together
        for piece in pieces:
            whole = torch.zeros((), dtype=torch.float64)
            for name, gradients in piece.gradients:
                norms = piece.weighted(gradients.squared_norms()).double()
                layers[name].append(norms.sum(0).sum())
                whole = whole + norms
            draws.append(whole)
        drawn = torch.cat(draws)
        squares.append(drawn.sum(0).square().sum())
        if classes is not None:
            variances.append(classes * drawn.var(0, correction=min(1, classes - 1)).cpu())
    zero = torch.zeros_like(squares[0])
    sums = [torch.stack(parts).sum() if parts else zero for parts in (*layers.values(), squares)]
    *of_layers, of_squares = risk.over_processes([torch.stack(sums)])[0].tolist()
    return dict(zip(layers, of_layers, strict=True)), of_squares, torch.cat(variances or [zero[None]])


def _of_draws(variances: Tensor, classes: int) -> tuple[float, float]:
    """Standard error of a sum of the examples' parts, and its degrees of freedom (Welch 1947).

    The draws of different examples are independent, so the variance of the sum is that of its parts, (n,), each of
    which the spread of the example's own draws estimates without bias.
    """
    if classes == 1:
        return math.nan, 0.0
    variance, square = float(variances.sum()), float(variances.square().sum())
    return math.sqrt(variance), (classes + 1) * variance**2 / square - 2 if square else math.inf


def hutchinson_trace(risk: Risk, *, probes: int = 100, tolerance: float = 0.0, seed: int = 0) -> Estimate:
    """Tr H = E[v' H v], v with independent entries +1 and -1; per weight tensor d: E[v_d . (H v)_d].

    One probe has the variance 2 sum_{i != j} H_ij^2: least among all distributions with independent entries, and
    none where H is diagonal. The cost is about two gradients a probe; `probes` and their results are held in blocks
    that fit into `risk.memory`, which changes nothing but the rounding of the result.

    Args:
        probes: how many at most.
        tolerance: stop as soon as the standard error is <= tolerance * |value|, looked at after each ten probes;
            0: never.
        seed: of the probes.

    Returns:
        value, and stderr from the spread of the probes (NaN for a single one); samples: probes used; per_layer; in
        details, "stderr of NAME" for each weight tensor.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
        ValueError: probes < 1 or tolerance < 0.

    Source: Hutchinson 1990; Ibayashi et al. 2021 compare with it.
    """
    if probes < 1:
        raise ValueError(f"probes={probes}: must be at least 1")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance={tolerance}: must be a finite number >= 0")
    operator = HessianOperator(risk)
    generator = torch.Generator().manual_seed(seed)
    itemsize = max(p.element_size() for p in risk.weights)
    fit = risk.piece(2 * operator.size * itemsize)
    forms: list[Tensor] = []  # of each probe: v_d . (H v)_d, (D,)
    reached = False
    while len(forms) < probes and not reached:
        block = min(fit, probes - len(forms))
        if tolerance > 0:
            block = min(block, BETWEEN_TESTS - len(forms) % BETWEEN_TESTS)
        vectors = [operator.cut(signs(operator.size, generator)) for _ in range(block)]
        what = f"Hutchinson probes {len(forms) + 1} to {len(forms) + block}"
        forms += operator.quadratic_forms(vectors, what).cpu().unbind()
        if tolerance > 0 and len(forms) % BETWEEN_TESTS == 0:
            totals = torch.stack(forms).sum(1)
            reached = standard_error(totals) <= tolerance * abs(float(totals.mean()))
    table = torch.stack(forms)
    totals = table.sum(1)
    notes: tuple[str, ...] = ()
    if tolerance > 0 and not reached:
        notes = (f"The standard error is still above {tolerance:g} of the value after {probes} probes.",)
    return Estimate(
        value=float(totals.mean()),
        stderr=standard_error(totals),
        samples=len(forms),
        exact=False,
        degrees=len(forms) - 1,
        per_layer=dict(zip(risk.names, table.mean(0).tolist(), strict=True)),
        seed=seed,
        method="hutchinson",
        notes=notes,
        details={f"stderr of {name}": standard_error(table[:, d]) for d, name in enumerate(risk.names)},
    )
