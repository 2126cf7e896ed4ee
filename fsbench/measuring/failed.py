"""A measure that could not be computed."""

from __future__ import annotations

from dataclasses import dataclass

from fsbench.measuring.measures import Measure


@dataclass(frozen=True)
class Failed:
    """A measure that ended with an exception."""

    measure: Measure
    reason: str
