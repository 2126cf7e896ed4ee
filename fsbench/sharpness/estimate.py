"""The results of measures: a number and how far it can be trusted, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fsbench.errors import FsbenchError


class Refused(FsbenchError, ValueError):
    """The measure is not defined here, or would be a wrong figure; the message names what stands in the way."""


@dataclass(frozen=True)
class Estimate:
    """The value of a measure.

    Args:
        value: the measure itself, of the risk that was handed in.
        stderr: standard error of `value` as an estimate of that risk's measure (of probes, sampled classes or
            subsets drawn at random); 0 where `exact`, NaN where a single draw tells nothing of it.
        samples: how many things were averaged: examples where `exact`, else probes, subsets or draws.
        exact: nothing was drawn at random and nothing was left out; up to rounding.
        per_layer: the parts that belong to one weight tensor, by its name in `named_parameters()`.
        seed: what the random draws were seeded with; None where there were none.
        example_stderr: standard error over the examples (sample standard deviation / sqrt(N)): how far the value may
            be from that of the distribution they come from; None where the measure is no mean over examples.
        method: how it was computed, in a word.
        notes: what a reader must know, a sentence each (that it is the Gauss-Newton value, say).
        details: further numbers that came out on the way, by name.
        degrees: degrees of freedom of `stderr`, which say how well it is known itself.

    Example:
        >>> found = Estimate(2.0, stderr=0.5, samples=10, exact=False, degrees=9)
        >>> print(found, float(found), [round(end, 3) for end in found.interval()])
        2 ± 0.5 2.0 [0.869, 3.131]
    """

    value: float
    stderr: float
    samples: int
    exact: bool
    per_layer: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    example_stderr: float | None = None
    method: str = ""
    notes: tuple[str, ...] = ()
    details: dict[str, float] = field(default_factory=dict)
    degrees: float = math.inf

    @classmethod
    def mean_over_examples(cls, values: Tensor, method: str = "exact", **others: Any) -> Estimate:
        """The mean of a value for each example, (N,): exact, with the standard error over the examples."""
        mean, error = float(values.mean()), standard_error(values)
        return cls(mean, 0.0, len(values), exact=True, example_stderr=error, method=method, **others)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """`value` -+ t `stderr`, Student's t: holds the risk's measure in so many of all draws; NaN without a `stderr`.

        Raises:
            ValueError: level not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level}: must lie between 0 and 1")
        from scipy.special import stdtrit

        half = float(stdtrit(self.degrees, (1 + level) / 2)) * self.stderr if self.stderr else 0.0
        return self.value - half, self.value + half

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.6g} ± {self.stderr:.2g}" if self.stderr > 0 else f"{self.value:.6g}"


@dataclass(frozen=True)
class Diagonal:
    """The diagonal of a matrix of the size of all weights.

    Args:
        values: by the name of each trained weight tensor, shaped like it.
        stderr: likewise, the standard error of each entry; None where `exact`.
        samples, exact, seed, method, notes: as in `Estimate`.
    """

    values: dict[str, Tensor]
    stderr: dict[str, Tensor] | None
    samples: int
    exact: bool
    seed: int | None = None
    method: str = ""
    notes: tuple[str, ...] = ()

    @property
    def negative(self) -> int:
        """The number of entries below zero."""
        return sum(int((value < 0).sum()) for value in self.values.values())


def standard_error(draws: Sequence[float] | Tensor) -> float:
    """Sample standard deviation / sqrt(number); NaN for fewer than two draws."""
    values = torch.as_tensor(draws, dtype=torch.float64).flatten()
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
