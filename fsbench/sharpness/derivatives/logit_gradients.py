"""Backward passes from the logits, with the gradients of every example kept apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fsbench.sharpness.derivatives.layer_gradients import Dense, LayerGradients, Summed
from fsbench.sharpness.refused import Refused
from fsbench.sharpness.risk import Batch, Risk

# Of logits (n, K) and labels: v, (S, n, K), the vectors to send back, and weights, (S, n) or None for ones.
Vectors = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]

# A piece whose gradients fit into a processor's caches is faster than a larger one: 2.5 times, measured on
# the small network of Ibayashi et al. 2021. A GPU wants as much as its memory holds.
_CPU_PIECE = 24 * 2**20


@dataclass(frozen=True)
class Piece:
    """Some examples and some of their vectors.

    Args:
        gradients: of each used trained tensor, by name.
        weights: (S, n) in float64; None where all of them are 1.
        first: index of the first of these vectors among all that `vectors` gave.
        rows: where in the pass over the data these examples lie.
    """

    gradients: Iterator[tuple[str, LayerGradients]]
    weights: Tensor | None
    first: int
    rows: slice


def logit_gradients(
    risk: Risk, vectors: Vectors, count: int, what: str, examples: Batch | None = None
) -> Iterator[Piece]:
    """For all examples, J'v of each vector v that `vectors` gives, per example and per weight tensor, as factors.

    Args:
        count: S, how many vectors there are for each example; what a piece may hold depends on it.
        what: names the work on the progress bar.
        examples: (x, y) to go through; the whole risk where it is None.

    Raises:
        Refused: the loss depends on weights otherwise than through the logits.
    """
    if risk.loss_has_weights:
        raise Refused("loss_fn depends on weights otherwise than through the network's output (weight decay in it?)")
    size, group = _plan(risk, count)
    start = 0
    pieces = risk.pieces(size, what) if examples is None else zip(*(part.split(size) for part in examples), strict=True)
    for x, y in pieces:
        yield from _piece(risk, vectors, x, y, group, start)
        start += len(y)


def _plan(risk: Risk, count: int) -> tuple[int, int]:
    """How many examples, and how many of their vectors, to take at a time."""
    width = torch.finfo(next(iter(risk.parameters.values())).dtype).bits // 8
    uses = risk.weight_uses
    # Gradients of the layers' outputs, and as much again for those between them.
    per_vector = 2 * width * uses.output_size + width * sum(risk.parameters[name].numel() for name in uses.loose)
    per_example = risk.activation_bytes + width * uses.input_size
    memory = risk.memory if risk.weights[0].is_cuda else min(risk.memory, _CPU_PIECE)
    size = max(1, int(memory / (per_example + count * per_vector)))
    group = count if size > 1 else max(1, min(count, int((risk.memory - per_example) / max(1, per_vector))))
    return size, group


def _piece(risk: Risk, vectors: Vectors, x: Tensor, y: Tensor, group: int, start: int) -> Iterator[Piece]:
    with torch.enable_grad(), risk.weight_uses.recorded() as calls:
        logits = risk.model(x)
    if not logits.requires_grad:
        raise Refused("the network's output depends on no trained weight")
    if not logits.isfinite().all():
        raise Refused("the network's output is not finite for some example")
    v, weights = vectors(logits.detach(), y)
    v = v.to(logits.dtype)
    for first in range(0, len(v), group):
        some = slice(first, first + group)
        edges, keep = [call.output for call in calls], first + group < len(v)
        backward = _backward(logits, edges, v[some], batched=risk.weight_uses.batched, keep=keep)
        own = None if weights is None else weights[some]
        yield Piece(_by_tensor(risk, calls, backward, x, v[some]), own, first, slice(start, start + len(y)))


def _backward(logits: Tensor, inputs: Sequence, v: Tensor, *, batched: bool, keep: bool = False) -> list[Tensor | None]:
    """d <v_s, logits> / d input for each of the inputs, (S, ...) each; None where the logits do not depend on it."""
    if not inputs:
        return []
    if batched and len(v) > 1:
        return list(torch.autograd.grad(logits, inputs, v, retain_graph=keep, is_grads_batched=True, allow_unused=True))
    rows = [
        torch.autograd.grad(logits, inputs, one, retain_graph=keep or s + 1 < len(v), allow_unused=True)
        for s, one in enumerate(v)
    ]
    return [None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True)]


def _by_tensor(risk: Risk, calls: list, backward: list[Tensor], x: Tensor, v: Tensor) -> Iterator:
    uses = risk.weight_uses
    shared: dict[str, list[LayerGradients]] = {}
    several = _names_used_twice(calls)
    for call, of_output in zip(calls, backward, strict=True):
        if of_output is None:
            continue
        for name, gradients in call.gradients(of_output):
            if name in uses.loose:
                continue
            if name in several:
                shared.setdefault(name, []).append(gradients)
            else:
                yield name, gradients
    for name, gradients in shared.items():
        yield name, Summed(gradients)
    if uses.loose:
        yield from _one_by_one(risk, x, v)


def _names_used_twice(calls: list) -> set[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for call in calls:
        for name in call.layer.names:
            (twice if name in seen else seen).add(name)
    return twice


def _one_by_one(risk: Risk, x: Tensor, v: Tensor) -> Iterator[tuple[str, LayerGradients]]:
    """Gradients of tensors that are used outside the layers we know, an example at a time."""
    names = risk.weight_uses.loose
    tensors = [risk.parameters[name] for name in names]
    rows = []
    for i in range(len(x)):
        with torch.enable_grad():
            logits = risk.model(x[i : i + 1])
        found = _backward(logits, tensors, v[:, i : i + 1], batched=risk.weight_uses.batched)
        rows.append(
            [
                tensor.new_zeros(len(v), *tensor.shape) if part is None else part
                for tensor, part in zip(tensors, found, strict=True)
            ]
        )
    for name, parts in zip(names, zip(*rows, strict=True), strict=True):
        yield name, Dense(torch.stack(parts, dim=1))
