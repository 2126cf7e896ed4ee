"""The sums of an epoch over its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsbench.optim import Descent


@dataclass
class EpochTotals:
    """Sums over the steps of the epoch in progress; they travel with the checkpoint."""

    lr: float | None = None
    seen: int = 0
    steps: int = 0
    skipped: int = 0
    seconds: float = 0.0
    loss: Tensor | float = 0.0
    hits: Tensor | float = 0.0
    compared: int = 0
    cosine: float = 0.0
    length_ratio: float = 0.0
    penalised: int = 0
    penalty: Tensor | float = 0.0
    sampled: int = 0
    digits: Tensor | float = 0.0

    def add(self, optimizer: Descent, loss: Tensor, hits: Tensor, size: int, skipped: bool) -> None:
        """One step that `optimizer` made; a skipped step counts as skipped only."""
        self.steps += 1
        if skipped:
            self.skipped += 1
            return
        self.seen += size
        self.loss = self.loss + loss.double() * size
        self.hits = self.hits + hits
        alignment = getattr(optimizer, "alignment", None)
        if alignment is not None:
            cosine, ratio = (float(value) for value in alignment)
            if math.isfinite(cosine):
                self.compared += 1
                self.cosine += cosine
                self.length_ratio += ratio
        penalty = getattr(optimizer, "penalty", None)
        if penalty is not None:
            self.penalised += 1
            self.penalty = self.penalty + penalty.double()
        digits = getattr(optimizer, "difference_digits", None)
        if digits is not None:
            self.sampled += 1
            self.digits = self.digits + digits.double()

    def row(self) -> dict[str, Any]:
        """Means over the epoch; what was not measured is left out."""
        row: dict[str, Any] = {
            "lr": self.lr,
            "train_loss": float(self.loss) / self.seen if self.seen else None,
            "train_accuracy": float(self.hits) / self.seen if self.seen else None,
            "skipped_steps": self.skipped,
        }
        if self.compared:
            row["eps_cosine_to_sam"] = self.cosine / self.compared
            row["eps_length_over_sam"] = self.length_ratio / self.compared
        if self.penalised:
            row["penalty"] = float(self.penalty) / self.penalised
        if self.sampled:
            row["difference_digits"] = float(self.digits) / self.sampled
        return row

    def state_dict(self) -> dict[str, float]:
        return {name: float(value) if torch.is_tensor(value) else value for name, value in vars(self).items()}
