"""The graph that autograd keeps of a computation: its operations by name, in order."""

from __future__ import annotations

from torch.autograd.graph import Node


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
