"""The methods (`optimizer=`) and the optimizers below them (`base=`), with their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fsbench.config.component import Component
from fsbench.geometries import EUCLIDEAN, FORMS, SCALES

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

_ADAPTIVE, _INVERSE_FISHER = SCALES["weights"].defaults, FORMS["multiplicative"].defaults


class OptimizerOptions(Component, group="optimizer"):
    """A method; the base brings its learning rate.

    Attributes:
        passes: forward-backward passes over the mini-batch that a step takes.
        stackable: whether a population can train it; each method says so for itself.
        not_stackable: else why not.
        recordable: whether its step makes no decision on the host, so that a CUDA graph can hold it.
        search: the range of each option that `fsbench compare` searches, drawn log-uniformly.
    """

    passes: ClassVar[float] = 1
    stackable: ClassVar[bool] = False
    recordable: ClassVar[bool] = True
    not_stackable: ClassVar[str] = "it does not say that it can be stacked"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {}
    name: str
    lr: NonNegative


class PlainOptions(OptimizerOptions):
    """The base optimizer alone."""

    builder: ClassVar = "fsbench.optim:Descent"
    stackable: ClassVar = True


class PlainSGD(PlainOptions, name="sgd"):
    """SGD alone."""

    title: ClassVar = "SGD"


class PlainAdam(PlainOptions, name="adam"):
    """Adam alone."""

    node: ClassVar = {"defaults": [{"override /base@_global_.base": "adam"}, "_self_"]}


class PlainAdamW(PlainOptions, name="adamw"):
    """AdamW alone."""

    node: ClassVar = {"defaults": [{"override /base@_global_.base": "adamw"}, "_self_"]}


class SharpnessAwareOptions(OptimizerOptions):
    """The options that all methods have which perturb the weights before a second pass."""

    passes: ClassVar[float] = 2
    rho: NonNegative = EUCLIDEAN.defaults["rho"]
    """Radius of the neighbourhood (kim2022: gamma)."""
    natural: bool = False
    """Descend along D g instead of g."""
    m: Annotated[int, Field(ge=1)] | None = None
    """m-sharpness: sub-batches of this size, each with its own perturbation."""
    perturbation: Literal["global", "local"] = "global"
    """With several devices the whole batch's gradient perturbs, or (local) on each device its own rows'."""
    start: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training after which the weights are perturbed; before, the base optimizer is alone."""
    stop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training up to which they are."""

    @model_validator(mode="after")
    def _starts_before_it_stops(self) -> SharpnessAwareOptions:
        if self.start >= self.stop:
            raise ValueError(f"optimizer.start={self.start}: must be below optimizer.stop={self.stop}")
        return self

    @model_validator(mode="after")
    def _local_stands_alone(self) -> SharpnessAwareOptions:
        if self.perturbation == "local" and self.m is not None:
            raise ValueError("optimizer.perturbation=local: not with optimizer.m, whose groups span the devices")
        if self.perturbation == "local" and self.natural:
            raise ValueError("optimizer.perturbation=local: not with optimizer.natural=true, whose metric is global")
        return self


class SAMOptions(SharpnessAwareOptions, name="sam"):
    """SAM: sharpness-aware minimisation (Foret et al. 2021)."""

    title: ClassVar = "SAM"
    builder: ClassVar = "fsbench.optim:SAM"
    stackable: ClassVar = True
    search: ClassVar = {"rho": (0.01, 0.5)}


class ASAMOptions(SharpnessAwareOptions, name="asam"):
    """ASAM: adaptive SAM, T^2 g / ||T g|| (Kwon et al. 2021)."""

    title: ClassVar = "ASAM"
    builder: ClassVar = "fsbench.optim:ASAM"
    stackable: ClassVar = True
    search: ClassVar = {"rho": (0.1, 5.0), "eta": (1e-3, 0.1)}
    rho: NonNegative = _ADAPTIVE["rho"]
    eta: NonNegative = _ADAPTIVE["eta"]
    """T = |w| + eta."""
    scale: Literal["weights", "all"] = "weights"
    """Tensors that are scaled: those whose name contains "weight", or every one."""


class FSAMOptions(SharpnessAwareOptions, name="fsam"):
    """FSAM: Fisher SAM (Kim et al. 2022); not Friendly SAM, which shares the letters."""

    title: ClassVar = "FSAM"
    builder: ClassVar = "fsbench.optim:FSAM"
    stackable: ClassVar = True
    search: ClassVar = {"rho": (0.01, 1.0), "eta": (1e-3, 10.0)}
    rho: NonNegative = _INVERSE_FISHER["rho"]
    eta: NonNegative = _INVERSE_FISHER["eta"]
    """D = 1 / (1 + eta f)."""
    form: Literal["multiplicative", "additive"] = "multiplicative"
    """Additive: D = 1 / (f + eta)."""
    fisher: Literal["batch", "per_example", "true"] = "batch"
    """f: g*g of the mini-batch (eq. 12), of each example (eq. 11), or of labels drawn from the model."""

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


class GSAMOptions(SharpnessAwareOptions, name="gsam"):
    """GSAM: surrogate gap guided SAM (Zhuang et al. 2022)."""

    title: ClassVar = "GSAM"
    builder: ClassVar = "fsbench.optim:GSAM"
    not_stackable: ClassVar = "it takes the gradients of both passes together"
    search: ClassVar = {"rho": (0.01, 0.5), "alpha": (0.01, 1.0)}
    perturbation: Literal["global"] = "global"
    """The whole batch's gradient perturbs."""
    alpha: NonNegative = 0.4
    """Weight of what of the gradient at w is orthogonal to that at w + eps; 0 is SAM."""
    rho_min: NonNegative | None = None
    """Radius at the learning rate lr_min: it follows the rate between rho_min and rho. null: rho throughout."""
    lr_min: NonNegative = 0.0
    """Least learning rate of the schedule, at which the radius is rho_min."""

    @model_validator(mode="after")
    def _radii_are_a_range(self) -> GSAMOptions:
        if self.rho_min is not None and self.rho_min > self.rho:
            raise ValueError(f"optimizer.rho_min={self.rho_min}: must be at most optimizer.rho={self.rho}")
        if self.lr_min and (self.rho_min is None or self.lr_min >= self.lr):
            raise ValueError(
                f"optimizer.lr_min={self.lr_min}: must be below optimizer.lr={self.lr}, with optimizer.rho_min given"
            )
        return self


class FriendlySAMOptions(SharpnessAwareOptions, name="friendly_sam"):
    """Friendly SAM: perturbs along g less the mean of past gradients (Li et al. 2024); not fsam, Fisher SAM."""

    title: ClassVar = "Friendly SAM"
    builder: ClassVar = "fsbench.optim:FriendlySAM"
    not_stackable: ClassVar = "it keeps a mean of past gradients"
    search: ClassVar = {"rho": (0.01, 0.5)}
    perturbation: Literal["global"] = "global"
    """The whole batch's gradient perturbs."""
    sigma: NonNegative = 1.0
    """Share of the mean that is taken away; 0 is SAM."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the mean (lambda)."""


class FisherTraceOptions(OptimizerOptions, name="fisher_trace"):
    """Fisher-trace regulariser (Jia & Su 2020, algorithm 1)."""

    title: ClassVar = "Fisher trace"
    builder: ClassVar = "fsbench.optim:FisherTrace"
    passes: ClassVar[float] = 3
    not_stackable: ClassVar = "gradients of several sub-batches"
    search: ClassVar = {"beta": (0.1, 100.0)}
    alpha: Positive = 1e-4
    """Finite-difference step."""
    beta: NonNegative = 10.0
    """Strength."""
    sub_batches: Annotated[int, Field(ge=1)] = 8
    """M."""
    start: Literal["first_drop", "immediately"] = "first_drop"
    """Active once the rate is below its peak (cosine: from step 2 on), or always."""
    full_batch: Literal["own", "mean"] = "own"
    """Gradient of the whole batch with its own BatchNorm statistics, or the mean of the sub-batches', a pass less."""


class BaseOptions(Component, group="base"):
    """An optimizer of torch.optim.

    Attributes:
        search: ranges of its own options, and of `lr`, that `fsbench compare` searches with every method on it.
    """

    search: ClassVar[Mapping[str, tuple[float, float]]] = {"lr": (1e-4, 1e-2), "weight_decay": (1e-5, 1e-2)}
    name: str
    weight_decay: NonNegative

    def arguments(self) -> dict[str, Any]:
        return self.model_dump(exclude={"name"})


class SGDOptions(BaseOptions, name="sgd"):
    """SGD."""

    builder: ClassVar = "torch.optim:SGD"
    search: ClassVar = {"lr": (0.01, 0.3), "weight_decay": (1e-5, 5e-3)}
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGDOptions:
        if self.nesterov and self.momentum == 0:
            raise ValueError("base.nesterov=true: needs base.momentum > 0")
        return self


class AdamOptions(BaseOptions, name="adam"):
    """Adam (Kingma & Ba 2015)."""

    builder: ClassVar = "torch.optim:Adam"
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    eps: Positive

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "betas": tuple(self.betas)}


class AdamWOptions(AdamOptions, name="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    builder: ClassVar = "torch.optim:AdamW"
    search: ClassVar = {"lr": (1e-4, 1e-2), "weight_decay": (1e-3, 0.5)}
