"""fp32, bf16 or fp16 autocast, with loss scaling that is right for any number of passes a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast and, for fp16, a dynamic loss scale.

    Every pass scales its loss and divides its gradients by the same power of two, so what reaches `.grad`
    is the true gradient in every pass and nothing needs unscaling later. A step skipped for a non-finite
    gradient halves the scale; `growth_interval` steps without one double it (Micikevicius et al. 2018).
    """

    growth_interval = 2000

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype = _TYPES[name]
        self.device = device
        self.scale = 2.0**16 if name == "fp16" else 1.0
        self.good_steps = 0

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)

    @contextmanager
    def scaled(self, parameters: list[Tensor]) -> Iterator[float]:
        """Yield the factor for losses inside; gradients are the true ones on entry and on leaving."""
        self._multiply(parameters, self.scale)
        yield self.scale
        self._multiply(parameters, 1 / self.scale)

    def _multiply(self, parameters: list[Tensor], factor: float) -> None:
        if factor != 1 and (gradients := [p.grad for p in parameters if p.grad is not None]):
            torch._foreach_mul_(gradients, factor)

    def after_step(self, skipped: bool) -> None:
        if self.dtype != torch.float16:
            return
        self.good_steps = 0 if skipped else self.good_steps + 1
        if skipped:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self.good_steps = state["scale"], int(state["good_steps"])
