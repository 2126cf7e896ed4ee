"""What packages have in the place of a paper's perturbation, in words: rho D g / n with another D, or another n."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fsbench.conform.checks import AXES

Tensors = Sequence[Tensor]
Axis = Callable[[Tensor, Tensor], Tensor]


def _matrices(axis: Axis) -> Axis:
    """D of matrices; that of vectors, biases, is 1."""
    return lambda w, g: axis(w, g) if w.dim() > 1 else torch.ones_like(w)


_AXES: Mapping[str, Mapping[str, Axis]] = {
    "sam": {},
    "asam": {
        "biases scaled too": lambda w, g: (w.abs() + 0.01).square(),
        "eta = 0": _matrices(lambda w, g: w.square()),
        "eta = 0, biases scaled too": lambda w, g: w.square(),
        "D = |w| + eta": _matrices(lambda w, g: w.abs() + 0.01),
        "D = |w| + eta, biases scaled too": lambda w, g: w.abs() + 0.01,
        "D = |w|": _matrices(lambda w, g: w.abs()),
        "D = |w|, biases scaled too": lambda w, g: w.abs(),
    },
    "fsam": {
        "D = 1 / (1 + eta |g|)": lambda w, g: 1 / (1 + g.abs()),
        "D = 1 / sqrt(1 + eta g^2)": lambda w, g: 1 / (1 + g.square()).sqrt(),
        "D = 1 / (eta + g^2) of eta = 0.1": lambda w, g: 1 / (0.1 + g.square()),
    },
}
_NORMS: Mapping[str, Callable[[Tensors, Tensors], Sequence[Tensor | float]]] = {
    "": lambda d, g: [_norm([a.sqrt() * b for a, b in zip(d, g, strict=True)])] * len(g),
    "each tensor by its own norm": lambda d, g: [_norm([a.sqrt() * b]) for a, b in zip(d, g, strict=True)],
    "divided by |g|": lambda d, g: [_norm(g)] * len(g),
    "divided by |D g|": lambda d, g: [_norm([a * b for a, b in zip(d, g, strict=True)])] * len(g),
    "not normalised": lambda d, g: [1.0] * len(g),
}


def variants(method: str, w: Tensors, g: Tensors, rho: float) -> Iterator[tuple[str, Tensors]]:
    """Each known one in words, and its eps; those that differ least from the paper's first."""
    everything: dict[str, Axis] = {"": AXES[method], **_AXES[method]}
    if method != "sam":
        everything["D = 1, SAM's"] = AXES["sam"]
    for norm, divisor in _NORMS.items():
        for words, axis in everything.items():
            d = [axis(a, b) for a, b in zip(w, g, strict=True)]
            eps = [rho * a * b / n for a, b, n in zip(d, g, divisor(d, g), strict=True)]
            for sign, direction in ((1, ""), (-1, "down the gradient")):
                if said := ", ".join(filter(None, (words, norm, direction))):
                    yield said, [sign * one for one in eps]


def _norm(tensors: Tensors) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]).norm()
