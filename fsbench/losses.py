"""The losses of networks that classify: means over the examples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fsbench.config.loss import CrossEntropyOptions, LossOptions
from fsbench.errors import UsageError


class MeanSquaredError(nn.Module):
    """Mean over examples of ||z - e_y||^2 / K: logits (N, K) and class indices (N,) to a scalar.

    Example:
        >>> float(MeanSquaredError()(torch.tensor([[1.0, 0.5]]), torch.tensor([0])))
        0.125
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(logits, one_hot(logits, labels))


class BinaryCrossEntropy(nn.Module):
    """Mean over examples and classes of -ln p, p the sigmoid of a logit or of its negative: one class against the rest.

    Logits (N, K), class indices (N,) to a scalar, in nats.

    Example:
        >>> round(float(BinaryCrossEntropy()(torch.zeros(1, 2), torch.tensor([0]))), 4)
        0.6931
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, one_hot(logits, labels))


class Given(nn.Module):
    """A user's function of logits and labels, with its options."""

    def __init__(self, name: str, function: Callable[..., Tensor], options: dict[str, Any]) -> None:
        super().__init__()
        self._name, self._function, self._options = name, function, options

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = self._function(logits, labels, **self._options)
        if not isinstance(loss, Tensor) or loss.dim() > 0:
            found = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise UsageError("loss", self._name, f"its function returns {found}, not the mean as a tensor without axes")
        return loss


def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """Class indices (N,) as rows of 0 and 1, of the shape and type of the logits (N, K)."""
    # By comparison, which can be mapped over the members of a population.
    return (labels[:, None] == torch.arange(logits.shape[-1], device=labels.device)).to(logits.dtype)


def build_loss(options: LossOptions) -> nn.Module:
    """The mean loss that a run is trained with."""
    return options.built_by()(**options.arguments())


def plain_loss(options: LossOptions) -> nn.Module:
    """The same without label smoothing, as it is evaluated and measured."""
    return nn.CrossEntropyLoss() if isinstance(options, CrossEntropyOptions) else build_loss(options)


def summed(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The sum over the examples of a batch, of a mean loss."""
    if type(loss) is nn.CrossEntropyLoss:
        return nn.CrossEntropyLoss(reduction="sum", label_smoothing=loss.label_smoothing)
    return lambda logits, labels: loss(logits, labels) * len(labels)
