"""Options of the methods (`optimizer=`) and of the optimizers below them (`base=`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fsbench.config.options import Options

LearningRate = Annotated[float, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class PlainOptions(Options):
    """The base optimizer alone."""

    name: Literal["sgd", "adam", "adamw"]
    lr: LearningRate


class SharpnessAwareOptions(Options):
    """What SAM, ASAM and FSAM share: radius, natural-gradient descent, m-sharpness."""

    lr: LearningRate
    rho: NonNegative
    natural: bool
    m: Annotated[int, Field(ge=1)] | None
    perturbation: Literal["global", "local"] = "global"

    @model_validator(mode="after")
    def _local_stands_alone(self) -> SharpnessAwareOptions:
        if self.perturbation == "local" and self.m is not None:
            raise ValueError("optimizer.perturbation=local: not with optimizer.m, whose groups span the devices")
        if self.perturbation == "local" and self.natural:
            raise ValueError("optimizer.perturbation=local: not with optimizer.natural=true, whose metric is global")
        return self


class SAMOptions(SharpnessAwareOptions):
    name: Literal["sam"]


class ASAMOptions(SharpnessAwareOptions):
    name: Literal["asam"]
    eta: NonNegative
    scale: Literal["weights", "all"]


class FSAMOptions(SharpnessAwareOptions):
    name: Literal["fsam"]
    eta: NonNegative
    form: Literal["multiplicative", "additive"]
    fisher: Literal["batch", "per_example", "true"]

    @field_validator("fisher", mode="before")
    @classmethod
    def _true_is_a_word(cls, value: object) -> object:
        """The command line's `true` is a truth value."""
        return "true" if value is True else value

    @model_validator(mode="after")
    def _additive_needs_eta(self) -> FSAMOptions:
        if self.form == "additive" and self.eta == 0:
            raise ValueError("optimizer.eta=0: must be > 0 with optimizer.form=additive")
        return self


class FisherTraceOptions(Options):
    name: Literal["fisher_trace"]
    lr: LearningRate
    alpha: Positive
    beta: NonNegative
    sub_batches: Annotated[int, Field(ge=1)]
    start: Literal["first_drop", "immediately"]
    # Records of runs from before these load without them.
    full_batch: Literal["own", "mean"] = "own"
    together: Literal["auto", True, False] = "auto"


OptimizerOptions = Annotated[
    PlainOptions | SAMOptions | ASAMOptions | FSAMOptions | FisherTraceOptions, Field(discriminator="name")
]


class SGDOptions(Options):
    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: NonNegative

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGDOptions:
        if self.nesterov and self.momentum == 0:
            raise ValueError("base.nesterov=true: needs base.momentum > 0")
        return self


class AdamOptions(Options):
    name: Literal["adam", "adamw"]
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    eps: Positive
    weight_decay: NonNegative


BaseOptions = Annotated[SGDOptions | AdamOptions, Field(discriminator="name")]
