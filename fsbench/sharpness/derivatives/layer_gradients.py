"""Per-example gradients of one weight tensor, kept as factors as long as that is cheaper than writing them out.

For S scalar functions f_s of the logits of each of n examples, G[s, i] = d f_s(x_i) / dW has the shape of W. Of a
layer z = W a it is the sum over positions t (pixels, tokens) of the outer products (d f_s / d z_t) a_t'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class LayerGradients(Protocol):
    """G of one weight tensor, (S, n, *shape)."""

    def squared_norms(self) -> Tensor:
        """||G[s, i]||_F^2, (S, n)."""

    def weighted_squares(self, weights: Tensor | None) -> Tensor:
        """sum_si weights[s, i] G[s, i]^2, elementwise, shaped like the weight tensor; weights (S, n), None for ones."""

    def dense(self) -> Tensor:
        """G itself, (S, n, *shape)."""


class Dense:
    """G written out, (S, n, *shape)."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients

    def squared_norms(self) -> Tensor:
        # reshape: a weight of its own without axes has no third one to flatten.
        return _squared_norms(self.gradients.reshape(*self.gradients.shape[:2], -1))

    def weighted_squares(self, weights: Tensor | None) -> Tensor:
        return _weighted_sum(weights, self.gradients.square(), 2)

    def dense(self) -> Tensor:
        return self.gradients


class OuterProducts:
    """G[s, i] = sum_t outputs[s, i, :, :, t] inputs[i, :, :, t]', per group of channels.

    Args:
        inputs: a, (n, groups, I, T): what the weights are multiplied with, a column for each position.
        outputs: d f / d z, (S, n, groups, O, T).
        shape: of the weight tensor, groups * O * I entries in this order.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, shape: torch.Size) -> None:
        self.inputs, self.outputs, self.shape = inputs, outputs, shape

    def squared_norms(self) -> Tensor:
        """The norms of the two factors for one position, else the cheaper of these two forms.

        ||G||^2 = ||Z A'||^2, at a cost of O I T, or <Z (A'A), Z>, at a cost of T^2 (O + I / S), per function.
        """
        count, _, _, rows, positions = self.outputs.shape
        columns = self.inputs.shape[2]
        if positions == 1:
            norms = _squared_norms(self.outputs.flatten(3)) * _squared_norms(self.inputs.flatten(2))
            return norms.squeeze(2) if norms.shape[2] == 1 else norms.sum(2)
        if positions**2 * (count * rows + columns) < count * rows * columns * positions:
            metric = self.inputs.mT @ self.inputs  # (n, groups, T, T)
            return torch.stack([((z @ metric) * z).sum((1, 2, 3)) for z in self.outputs])
        return torch.stack([_squared_norms(g.flatten(1)) for g in self._products()])

    def weighted_squares(self, weights: Tensor | None) -> Tensor:
        if self.outputs.shape[-1] == 1:
            squares = self.outputs.squeeze(-1).square()  # (S, n, groups, O)
            squares = squares.sum(0) if weights is None else torch.einsum("sn,sngo->ngo", weights.to(squares), squares)
            return torch.einsum("ngo,ngi->goi", squares, self.inputs.squeeze(-1).square()).reshape(self.shape)
        total: Tensor | float = 0.0
        for s, gradient in enumerate(self._products()):
            total = total + _weighted_sum(None if weights is None else weights[s], gradient.square_(), 1)
        return torch.as_tensor(total).reshape(self.shape)

    def dense(self) -> Tensor:
        return torch.stack(list(self._products())).reshape(*self.outputs.shape[:2], *self.shape)

    def _products(self) -> Iterator[Tensor]:
        """G of one function after the other, (n, groups, O, I), so that they need not all be there at once."""
        transposed = self.inputs.mT
        for z in self.outputs:
            yield z @ transposed


def _squared_norms(rows: Tensor) -> Tensor:
    """||row||^2 along the last axis, without the squares in memory."""
    return torch.linalg.vector_norm(rows, dim=-1).square_()


def _weighted_sum(weights: Tensor | None, values: Tensor, axes: int) -> Tensor:
    """Over the first axes of `values`, which `weights` are shaped like."""
    return values.sum(tuple(range(axes))) if weights is None else torch.tensordot(weights.to(values), values, axes)
