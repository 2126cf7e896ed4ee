"""Options of the learning-rate schedules (`schedule=`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fsbench.config.options import Options


class ScheduleOptions(Options):
    """What all schedules share: a linear warm-up from 0, in epochs (fractions allowed)."""

    warmup_epochs: Annotated[float, Field(ge=0)]


class ConstantOptions(ScheduleOptions):
    name: Literal["constant"]


class CosineOptions(ScheduleOptions):
    """Half a cosine from lr to final_factor * lr, step by step (Loshchilov & Hutter 2016)."""

    name: Literal["cosine"]
    final_factor: Annotated[float, Field(ge=0, le=1)]


class MultistepOptions(ScheduleOptions):
    """lr * gamma^k after k milestones; a milestone below 1 is a fraction of the epochs."""

    name: Literal["multistep"]
    milestones: list[Annotated[float, Field(gt=0)]]
    gamma: Annotated[float, Field(gt=0, le=1)]


class PlateauOptions(ScheduleOptions):
    """lr * factor whenever the training loss has not improved by `threshold` (relative) for `patience` epochs."""

    name: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=0)]
    threshold: Annotated[float, Field(ge=0)]


class InverseTimeOptions(ScheduleOptions):
    """lr / (1 + decay * step)."""

    name: Literal["inverse_time"]
    decay: Annotated[float, Field(ge=0)]


AnySchedule = Annotated[
    ConstantOptions | CosineOptions | MultistepOptions | PlateauOptions | InverseTimeOptions,
    Field(discriminator="name"),
]
