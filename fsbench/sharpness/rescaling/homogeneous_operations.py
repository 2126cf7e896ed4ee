"""Which operations of a network keep its rows and columns from being rescaled without changing what it computes."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fsbench.sharpness.derivatives.piecewise_linear import BATCHNORM, LINEAR, in_order, operation
from fsbench.sharpness.risk import Risk

# Of the piecewise linear operations these have a bend away from zero, unless their bounds are looked at.
_BOUNDED = frozenset({"Hardtanh", "Clamp", "ClampMin", "ClampMax", "Threshold"})
_HOMOGENEOUS = (frozenset(LINEAR | BATCHNORM) - _BOUNDED) | {
    "MaxPool1D", "AvgPool1D", "MkldnnMaxPool2D", "UpsampleNearest1D", "UpsampleLinear1D", "UpsampleBicubic2D",
    "Embedding", "EmbeddingBag",
}  # fmt: skip
# Where the factors of a product stand among the inputs of its backward node.
_FACTORS = {
    "Mul": (0, 1), "Mm": (0, 1), "Bmm": (0, 1), "Mv": (0, 1), "Dot": (0, 1), "Linear": (0, 1), "Convolution": (0, 1),
    "MkldnnConvolution": (0, 1), "Addmm": (1, 2), "Addbmm": (1, 2), "Baddbmm": (1, 2), "Addmv": (1, 2),
    "PreluKernel": (0, 1),
}  # fmt: skip


class NotInvariantWarning(UserWarning):
    """A measure is not invariant to rescaling the weights of this network, though it is meant to be."""


def scale_notes(risk: Risk, measure: str) -> tuple[str, ...]:
    """A note, and a warning, that names what is not positively homogeneous; empty where everything is."""
    operations = inhomogeneous_operations(risk)
    if not operations:
        return ()
    note = (
        f"{measure} is not invariant to rescaling the weights of this network: "
        f"not known to be positively homogeneous: {', '.join(operations)}"
    )
    warnings.warn(note, NotInvariantWarning, stacklevel=3)
    return (note,)


def inhomogeneous_operations(risk: Risk) -> list[str]:
    """Names of operations between trained weights that do not obey f(c z) = c f(z) for c > 0, channel by channel.

    Read off the autograd graph of one example's output, so that functional calls are seen: `GELU (2 and 3 more)` where
    modules' outputs are those of the operation, else the operation as autograd names it. ReLU, LeakyReLU, PReLU, max-
    and average-pooling, residual sums, biases and BatchNorm in eval mode, whose statistics scale along, obey it.
    Products of two activations (gating, attention), normalisation by the example's own statistics, smooth
    activation functions and whatever is unknown do not. What lies before the first or after the last trained weight
    does not matter.
    """
    x = risk.probe[:1]
    if x.is_floating_point():
        x = x.detach().clone().requires_grad_()
    modules: dict[Node, tuple[str, str]] = {}
    handles = []

    def seen(name: str):
        def hook(module: nn.Module, arguments: object, output: object) -> None:
            if isinstance(output, Tensor) and output.grad_fn is not None:
                modules.setdefault(output.grad_fn, (type(module).__name__, name))

        return hook

    try:
        for name, module in risk.model.named_modules():
            if not any(True for _ in module.children()):
                handles.append(module.register_forward_hook(seen(name)))
        with torch.enable_grad():
            # A copy, as the first operation may work in place.
            output = risk.model(x.clone() if x.requires_grad else x)
    finally:
        for handle in handles:
            handle.remove()
    if output.grad_fn is None:
        return []
    order = in_order(output.grad_fn)
    of_data, of_weights = _origins(order, x)
    before_weights = _before_weights(order, of_data, of_weights)
    found: dict[str, list[str]] = {}
    for node in order:
        if node in of_data and node in of_weights and node in before_weights:
            problem = _problem(node, of_data)
            if problem:
                kind, name = modules.get(node, (problem, "")) if problem == operation(node) else (problem, "")
                found.setdefault(kind, []).append(name)
    return [_named(kind, names) for kind, names in found.items()]


def _named(kind: str, names: list[str]) -> str:
    if not names[0]:
        return kind
    return f"{kind} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"


def _parents(node: Node) -> list[Node]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _origins(order: list[Node], x: Tensor) -> tuple[set[Node], set[Node]]:
    """Nodes that depend on the example, and on trained weights."""
    of_data: set[Node] = set()
    of_weights: set[Node] = set()
    for node in order:
        variable = getattr(node, "variable", None)
        if variable is x or operation(node).startswith("Embedding"):
            of_data.add(node)
        elif variable is not None:
            of_weights.add(node)
        parents = _parents(node)
        if any(parent in of_data for parent in parents):
            of_data.add(node)
        if any(parent in of_weights for parent in parents):
            of_weights.add(node)
    return of_data, of_weights


def _before_weights(order: list[Node], of_data: set[Node], of_weights: set[Node]) -> set[Node]:
    """Nodes whose value meets a trained weight on the way to the output."""
    before: set[Node] = set()
    for node in reversed(order):
        parents = _parents(node)
        joined = any(parent in of_weights and parent not in of_data for parent in parents)
        if node in before or joined:
            before.update(parents)
    return before


def _problem(node: Node, of_data: set[Node]) -> str:
    """The name of an operation that is not positively homogeneous, with the reason if it has one; else empty."""
    name = operation(node)
    inputs = [parent for parent, _ in node.next_functions]
    if name in _FACTORS:
        places = _FACTORS[name]
        if sum(place < len(inputs) and inputs[place] in of_data for place in places) > 1:
            return f"{name} of two activations"
        return ""
    if name == "Div":
        return "Div by an activation" if len(inputs) > 1 and inputs[1] in of_data else ""
    if name in ("Clamp", "ClampMin", "ClampMax"):
        bounds = [getattr(node, f"_saved_{end}", None) for end in ("min", "max")]
        return "" if all(bound is None or (isinstance(bound, int | float) and bound == 0) for bound in bounds) else name
    if name == "Threshold":
        return "" if getattr(node, "_saved_threshold", None) == 0 else name
    if name.endswith("BatchNorm") and getattr(node, "_saved_training", False):
        return f"{name} by the example's own statistics"
    return "" if name in _HOMOGENEOUS else name
