"""The operations in autograd's graph of a network, and which of them keep it from being piecewise linear in a weight.

Where there are none, the Gauss-Newton matrix has the diagonal of the Hessian.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import Node

# Operations that are piecewise linear in what they are given, by the name of their backward node without its number.
LINEAR = {
    # arithmetic
    "AccumulateGrad", "Add", "Sub", "Neg", "Sum", "Mean", "Abs", "Where", "MaskedFill",
    # shape and place
    "View", "Reshape", "ReshapeAlias", "UnsafeView", "AsStrided", "Expand", "Squeeze", "Unsqueeze", "Transpose", "T",
    "Permute", "Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Chunk", "Cat", "Stack", "Clone", "ToCopy",
    "Copy", "CopySlices", "Alias", "Narrow", "Index", "IndexSelect", "Gather", "Flip", "Roll", "Repeat", "Contiguous",
    "ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad2D", "PixelShuffle",
    # pieces
    "Relu", "Threshold", "LeakyRelu", "Hardtanh", "Max", "Maximum", "Min", "Minimum", "Amax", "Amin", "Clamp",
    "ClampMin", "ClampMax", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D",
    # averages and interpolation
    "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "MkldnnAdaptiveAvgPool2D", "UpsampleNearest2D",
    "UpsampleBilinear2D",
    "Embedding",
}  # fmt: skip
# Products: linear in each factor, so linear in a weight as long as only one factor depends on it.
BATCHNORM = {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"}
PRODUCTS = BATCHNORM | {
    "Mul", "Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Mv", "Dot", "Convolution", "MkldnnConvolution", "Linear",
    "PreluKernel",
}  # fmt: skip

# The first input of these is what is added to the product.
_AFFINE = {"Addmm", "Baddbmm", "Addbmm"}


def nonlinear_operations(output: Tensor) -> list[str]:
    """Names of the operations in the graph of `output` that keep it from being piecewise linear in each weight.

    Empty where d2 output / dw_i dw_i = 0 for every weight w_i (almost everywhere): ReLU networks with convolutions,
    pooling, residual sums and BatchNorm in eval mode. A product both of whose factors depend on the same weight
    (a weight used twice in a row, gating, attention) is named too.
    """
    if output.grad_fn is None:
        return []
    order = in_order(output.grad_fn)
    below: dict[Node, frozenset[int]] = {}
    found: dict[str, None] = {}
    for node in order:
        if hasattr(node, "variable"):
            below[node] = frozenset({id(node.variable)})
            continue
        depends = [below[parent] if parent is not None else frozenset() for parent, _ in node.next_functions]
        below[node] = frozenset().union(*depends)
        name = operation(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.setdefault(f"{name}, a function of Python")
        elif name in BATCHNORM and getattr(node, "_saved_training", True):
            found.setdefault(f"{name} by the statistics of its input")
        elif name in PRODUCTS:
            # The bias of an affine map is added, and may share weights with what it is added to.
            first, second = depends[1:3] if name in _AFFINE else depends[:2]
            if first & second:
                found.setdefault(f"{name} of two factors that depend on the same weight")
        elif name not in LINEAR and not (name == "Div" and node.next_functions[1][0] is None):
            found.setdefault(name)
    return list(found)


def operation(node: Node) -> str:
    """`AddmmBackward0` and `torch::autograd::AccumulateGrad` as `Addmm` and `AccumulateGrad`."""
    name = node.name().rpartition("::")[2]
    return name.rstrip("0123456789").removesuffix("Backward")


def in_order(root: Node) -> list[Node]:
    """Every node after all that it was computed from."""
    order: list[Node] = []
    done: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
            continue
        if node in done:
            continue
        done.add(node)
        stack.append((node, True))
        stack.extend((parent, False) for parent, _ in node.next_functions if parent is not None and parent not in done)
    return order
