"""Minimum sharpness: the least trace of the Hessian that rescaling the layers can give the same network."""

from __future__ import annotations

import math

from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.rescaling.fold_batchnorm import fold_batchnorm
from fsbench.sharpness.rescaling.homogeneity import ChainLayer, layer_chain, refuse_unscalable
from fsbench.sharpness.rescaling.homogeneous_operations import scale_notes
from fsbench.sharpness.rescaling.scale_problem import least_scales
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.trace import hessian_trace

# Examples on which it is tried out that the scale of a layer passes through the network.
_EXAMPLES = 8


def minimum_sharpness(risk: Risk, *, trace: Estimate | None = None) -> Estimate:
    """min over alpha > 0, prod_d alpha_d = 1, of the trace of the Hessian at W_d alpha_d, b_d prod_{i<=d} alpha_i.

        sum_d Tr H_Wd alpha_d^-2 + sum_d Tr H_bd (prod_{i<=d} alpha_i)^-2;  D (prod_d Tr H_Wd)^(1/D) without biases

    Defined for chains of linear and convolution layers, each used once, with positively homogeneous functions
    (ReLU, pooling) in between: tried out on a few examples by rescaling the layers. BatchNorm in eval mode is folded
    into the layer before it, on a copy: left alone, the scale before it would be free and the minimum zero.

    Only weights that are trained are weights of the risk, so only they are rescaled: a layer that is not trained
    keeps its scale (alpha_d = 1) and passes on that of the layers before it. A bias that is neither trained nor zero
    fixes the scale of its input: the product of the alphas up to it is 1, and the chain falls into two that are
    minimised by themselves. (Were such layers rescaled too, they would cost nothing and the infimum always be zero.)
    Trained tensors that the logits do not depend on have no part in it; the slopes of PReLUs add a constant.

    Args:
        risk: model, loss and examples.
        trace: Tr H of the risk with its parts per layer, where it is known already; not used where BatchNorm is
            folded, as the folded network's is another.

    Returns:
        The minimum; `per_layer` the parts of it by the name of the tensor; in `details` the `trace` that was
        minimised, and `ln_alpha NAME` by the name of the weight: infinite where the infimum is not attained.
        `stderr` is NaN where the trace has one, as that of its parts is not known.

    Raises:
        Refused: the network is no such chain (the layer or module is named), or a part of the trace is negative.
        ValueError: `trace` lacks a trained tensor.

    Source: Ibayashi et al. 2021, theorem 1, and the remark on biases below it; appendices B and C.

    Example:
        >>> print(minimum_sharpness(risk), hessian_trace(risk))
        0.566576 0.587137
    """
    # Several processes have to find out the same, on the same examples.
    x = next(iter(risk.pieces(_EXAMPLES)))[0] if risk.processes.count == 1 else risk.probe
    model, folded = fold_batchnorm(risk.model, x)
    layers, others = layer_chain(model, x)
    refuse_unscalable(model, layers, x)
    notes: tuple[str, ...] = ()
    if folded:
        risk = risk.like(model=model)
        notes += (f"BatchNorm folded into {', '.join(folded)}",)
        if trace is not None:
            notes += ("the trace is that of the folded network, not the one handed in",)
    notes += scale_notes(risk, "minimum sharpness")
    if trace is None or folded:
        trace = hessian_trace(risk)
    parts = _parts(risk, trace)
    per_layer = {name: parts[name] for name in others}
    details = {"trace": trace.value}
    segments, constant, fixed = _segments(risk, layers)
    per_layer |= {name: parts[name] for name in constant}
    for segment in segments:
        held = [math.fsum(parts[name] for name in biases) for _, biases in segment]
        least = least_scales([parts[weight] for weight, _ in segment], held)
        for d, (weight, biases) in enumerate(segment):
            per_layer[weight] = least.weights[d]
            per_layer |= {name: least.biases[d] * (parts[name] / held[d] if held[d] else 0.0) for name in biases}
            details[f"ln_alpha {weight}"] = least.log_scales[d]
        if not least.attained:
            flat = ", ".join(weight for weight, _ in segment if parts[weight] == 0)
            notes += (f"the infimum is approached in the limit only: the trace is zero for {flat}",)
    still = [layer.weight for layer in layers if layer.weight not in risk.parameters]
    if still:
        notes += (f"not trained, and so not rescaled: {', '.join(still)}",)
    if fixed:
        notes += (f"the scale is fixed where a bias that is not zero is not trained: {', '.join(fixed)}",)
    unused = [name for name, why in others.items() if why == "unused"]
    if unused:
        notes += (f"the logits do not depend on {', '.join(unused)}",)
    known = trace.stderr == 0
    if not known:
        notes += ("no standard error: that of the trace is not known layer by layer",)
    return Estimate(
        value=math.fsum(per_layer.values()),
        stderr=0.0 if known else math.nan,
        samples=trace.samples,
        exact=trace.exact,
        per_layer={name: per_layer[name] for name in risk.names if name in per_layer},
        seed=trace.seed,
        method=trace.method,
        notes=(*notes, *trace.notes),
        details=details,
    )


def _parts(risk: Risk, trace: Estimate) -> dict[str, float]:
    """The trace for each trained tensor; zero where it is below zero by rounding alone."""
    missing = [name for name in risk.names if name not in trace.per_layer]
    if missing:
        raise ValueError(f"trace has no part for {missing[0]}")
    largest = max(abs(trace.per_layer[name]) for name in risk.names)
    for name in risk.names:
        if not trace.per_layer[name] >= -1e-12 * largest:
            raise Refused(
                f"the trace for {name} is {trace.per_layer[name]:.3g}: with a negative part there is no minimum"
            )
    return {name: max(0.0, trace.per_layer[name]) for name in risk.names}


def _segments(risk: Risk, layers: list[ChainLayer]) -> tuple[list[list[tuple[str, list[str]]]], list[str], list[str]]:
    """Stretches of the chain that can be rescaled, biases whose scale is 1, and layers whose bias ends a stretch.

    A stretch is a list of trained weights, each with the trained biases that share the scale that the weights up to
    it have together: its own layer's, and those of layers after it that are not trained.
    """
    segments: list[list[tuple[str, list[str]]]] = []
    current: list[tuple[str, list[str]]] = []
    constant: list[str] = []
    fixed: list[str] = []
    tensors = dict(risk.model.named_parameters())
    for layer in layers:
        if layer.weight in risk.parameters:
            current.append((layer.weight, []))
        if layer.bias in risk.parameters:
            (current[-1][1] if current else constant).append(layer.bias)
        elif layer.bias is not None and bool(tensors[layer.bias].count_nonzero()):
            fixed.append(layer.bias)
            if current:
                segments.append(current)
            current = []
    if current:
        segments.append(current)
    return segments, constant, fixed
