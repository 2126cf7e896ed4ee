"""The learning-rate schedules (`schedule=`): each a factor on lr as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fsbench.config.component import Component


@dataclass(frozen=True)
class Span:
    """The length of a training in steps."""

    epochs: int
    steps_per_epoch: int
    warmup: int

    @property
    def total(self) -> int:
        return self.epochs * self.steps_per_epoch

    def progress(self, step: int) -> float:
        """The share of the training after the warm-up that is over at a step, 0 to 1."""
        return min(1.0, max(0, step - self.warmup) / max(1, self.total - self.warmup))


class ScheduleOptions(Component, group="schedule"):
    """A schedule, after a linear warm-up from 0, in epochs (fractions allowed).

    Attributes:
        drops: whether the rate ever falls below its peak.
    """

    drops: ClassVar[bool] = True
    name: str
    warmup_epochs: Annotated[float, Field(ge=0)] = 0

    def at(self, step: int, span: Span) -> float:
        """Factor on lr at a step, the warm-up left aside."""
        return 1.0


class ConstantOptions(ScheduleOptions, name="constant"):
    """The same learning rate throughout."""

    drops: ClassVar = False


class CosineOptions(ScheduleOptions, name="cosine"):
    """Half a cosine from lr to final_factor * lr, step by step (Loshchilov & Hutter 2016)."""

    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0

    def at(self, step: int, span: Span) -> float:
        done = span.progress(step)
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * done)) / 2


class MultistepOptions(ScheduleOptions, name="multistep"):
    """lr * gamma^k after k milestones (epochs, or fractions of the training below 1)."""

    milestones: list[Annotated[float, Field(gt=0)]] = Field(default=[0.5, 0.75])
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    def at(self, step: int, span: Span) -> float:
        edges = [(m * span.epochs if m < 1 else m) * span.steps_per_epoch for m in self.milestones]
        return self.gamma ** sum(step >= edge for edge in edges)


class PlateauOptions(ScheduleOptions, name="plateau"):
    """lr * factor whenever the training loss has not improved by `threshold` (relative) for `patience` epochs."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 10
    threshold: Annotated[float, Field(ge=0)] = 1e-4


class InverseTimeOptions(ScheduleOptions, name="inverse_time"):
    """lr / (1 + decay * step)."""

    decay: Annotated[float, Field(ge=0)] = 1e-4

    def at(self, step: int, span: Span) -> float:
        return 1 / (1 + self.decay * step)
