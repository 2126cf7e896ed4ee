"""Backward passes from the logits, with the gradients of every example kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fsbench.sharpness.derivatives.layer_gradients import Dense, LayerGradients
from fsbench.sharpness.derivatives.weight_uses import Call
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.loss_facts import Loss, label_smoothing
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
        rows: where in the pass over the data these examples lie.
    """

    gradients: Iterator[tuple[str, LayerGradients]]
    weights: Tensor | None
    rows: slice

    def weighted(self, values: Tensor) -> Tensor:
        """Values (S, n) times the weights."""
        return values if self.weights is None else values * self.weights


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
    # How many examples, and how many of their vectors, to take at a time.
    width = torch.finfo(risk.weights[0].dtype).bits // 8
    uses = risk.weight_uses
    # Gradients of the layers' outputs, and as much again for those between them.
    per_vector = 2 * width * uses.output_size + width * sum(risk.parameters[name].numel() for name in uses.loose)
    per_example = risk.activation_bytes + width * uses.input_size
    memory = risk.memory if risk.weights[0].is_cuda else min(risk.memory, _CPU_PIECE)
    size = max(1, int(memory / (per_example + count * per_vector)))
    group = count if size > 1 else max(1, min(count, int((risk.memory - per_example) / max(1, per_vector))))
    start = 0
    pieces = risk.pieces(size, what) if examples is None else zip(*(part.split(size) for part in examples), strict=True)
    for x, y in pieces:
        yield from _piece(risk, vectors, x, y, group, slice(start, start + len(y)))
        start += len(y)


def _piece(risk: Risk, vectors: Vectors, x: Tensor, y: Tensor, group: int, rows: slice) -> Iterator[Piece]:
    uses = risk.weight_uses
    with torch.enable_grad(), uses.recorded() as calls:
        logits = risk.model(x)
    if not logits.requires_grad:
        raise Refused("the network's output depends on no trained weight")
    if not logits.isfinite().all():
        raise Refused("the network's output is not finite for some example")
    v, weights = vectors(logits.detach(), y)
    v = v.to(logits.dtype)
    edges = [call.output for call in calls]
    for first in range(0, len(v), group):
        some = slice(first, first + group)
        backward = _backward(logits, edges, v[some], batched=uses.batched, keep=first + group < len(v))
        own = None if weights is None else weights[some]
        yield Piece(_by_tensor(risk, calls, backward, x, v[some]), own, rows)


def _backward(
    logits: Tensor, inputs: Sequence[Tensor] | Sequence[GradientEdge], v: Tensor, *, batched: bool, keep: bool = False
) -> list[Tensor | None]:
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


def _by_tensor(
    risk: Risk, calls: list[Call], backward: list[Tensor | None], x: Tensor, v: Tensor
) -> Iterator[tuple[str, LayerGradients]]:
    """The gradients of each used trained tensor, from those of the layers' outputs."""
    loose = risk.weight_uses.loose
    uses = Counter(name for call in calls for name in call.layer.names)
    shared: dict[str, list[LayerGradients]] = {}
    for call, of_output in zip(calls, backward, strict=True):
        for name, gradients in () if of_output is None else call.gradients(of_output):
            if name in loose:
                continue
            if uses[name] > 1:
                shared.setdefault(name, []).append(gradients)
            else:
                yield name, gradients
    for name, several in shared.items():
        yield name, Dense(torch.stack([use.dense() for use in several]).sum(0))
    if not loose:
        return
    # Of tensors that are used outside the layers we know, an example at a time.
    tensors = [risk.parameters[name] for name in loose]
    rows = []
    for i in range(len(x)):
        with torch.enable_grad():
            logits = risk.model(x[i : i + 1])
        found = _backward(logits, tensors, v[:, i : i + 1], batched=risk.weight_uses.batched)
        pairs = zip(tensors, found, strict=True)
        rows.append([tensor.new_zeros(len(v), *tensor.shape) if part is None else part for tensor, part in pairs])
    for name, parts in zip(loose, zip(*rows, strict=True), strict=True):
        yield name, Dense(torch.stack(parts, dim=1))


def loss_gradients(loss_fn: Loss, power: int, logit_norm: float | None = None) -> Vectors:
    """The vectors d loss_i / d o_i of each example's own loss at length 1 (or 0); their lengths^power as weights.

    A network that is sure of its training examples has gradients down to 1e-12 and below, where 1 - p has lost its
    digits in float32. So this gradient is taken in float64 and its length kept aside.

    Args:
        logit_norm: the loss is of logit_norm o / ||o||, differentiated through this scaling; None: of o.
    """

    def vectors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            o = logits.detach().double().requires_grad_()
            scaled = o if logit_norm is None else logit_norm * o / o.norm(dim=-1, keepdim=True)
            if label_smoothing(loss_fn) == 0 and labels.dim() == 1:
                own = labels[:, None]
                others = scaled.detach().softmax(-1).scatter(1, own, 0.0)
                gradient = others.scatter(1, own, -others.sum(-1, keepdim=True))  # p - e_y, without 1 - p_y
            else:
                loss = loss_fn(scaled, labels) * len(labels)
                (gradient,) = torch.autograd.grad(loss, scaled, retain_graph=True)
            if logit_norm is not None:
                (gradient,) = torch.autograd.grad(scaled, o, gradient)
        lengths = gradient.norm(dim=-1)
        directions = gradient / torch.where(lengths > 0, lengths, torch.ones_like(lengths))[:, None]
        return directions[None], lengths.pow(power)[None]

    return vectors


def squared_gradients(risk: Risk, vectors: Vectors, count: int, what: str) -> dict[str, Tensor]:
    """sum over examples and vectors of weight (J'v)^2, elementwise, by the name of each trained tensor."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in risk.parameters.items()}
    for piece in logit_gradients(risk, vectors, count, what):
        for name, gradients in piece.gradients:
            sums[name] += gradients.weighted_squares(piece.weights)
    risk.over_processes(list(sums.values()))
    return sums


def squared_gradient_norms(risk: Risk, what: str) -> dict[str, Tensor]:
    """||d loss_i / dW||^2 of every example, (N,) in float64, for each trained tensor W; zeros for unused ones."""
    parts: dict[str, list[Tensor]] = {name: [] for name in risk.names}
    for piece in logit_gradients(risk, loss_gradients(risk.loss_fn, power=2), 1, what):
        for name, gradients in piece.gradients:
            parts[name].append(piece.weighted(gradients.squared_norms())[0])
    unused = torch.zeros(risk.examples, dtype=torch.float64)
    return {name: risk.of_all_processes(torch.cat(rows).cpu()) if rows else unused for name, rows in parts.items()}
