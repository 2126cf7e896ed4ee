"""The losses (`loss=`): the mean over a mini-batch of a function of logits and labels."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fsbench.config.component import Component


class LossOptions(Component, group="loss"):
    """A loss. Evaluation and measures are of the same loss, without label smoothing."""

    name: str = "cross_entropy"  # records of older runs do not say it


class CrossEntropyOptions(LossOptions, name="cross_entropy"):
    """Cross-entropy, with PyTorch's label smoothing (eps/K on every class)."""

    builder: ClassVar = "torch.nn:CrossEntropyLoss"
    label_smoothing: Annotated[float, Field(ge=0, le=1)] = 0.0


class MeanSquaredErrorOptions(LossOptions, name="mse"):
    """Mean squared error of the logits to one-hot labels: mean over examples of ||z - e_y||^2 / K."""

    builder: ClassVar = "fsbench.losses:MeanSquaredError"


class BinaryCrossEntropyOptions(LossOptions, name="bce"):
    """Binary cross-entropy, one against the rest: the mean over examples and classes."""

    builder: ClassVar = "fsbench.losses:BinaryCrossEntropy"
