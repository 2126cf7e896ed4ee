"""Tables and figures that need no training run: the toy problem, timings, exact values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Context:
    """Where and how a computed artefact is computed, beside its options.

    Args:
        data_dir: where data sets lie, or are downloaded to.
        device: to compute on.
        say: shows a line of progress.
        cuts: what differs from the artefact as published, a sentence each, for the caption.
    """

    data_dir: Path
    device: torch.device
    say: Callable[[str], None]
    cuts: tuple[str, ...] = ()
