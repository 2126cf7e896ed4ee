"""The same random draws in two passes: dropout then drops the same units at w and beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RandomReplay:
    """Remembers torch's global random state (of the CPU, and of `device` if that is a GPU) when made.

    While a CUDA graph is being captured the GPU's state can't be read: nothing may be drawn then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._on_gpu = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
        self.start = self._state()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw inside what was drawn since this object was made; go on after as if nothing had been drawn."""
        later = self._state()
        self._set(self.start)
        try:
            yield
        finally:
            self._set(later)

    def rewind(self) -> None:
        """As if nothing had been drawn since."""
        self._set(self.start)

    def _state(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self._on_gpu else None

    def _set(self, state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
        cpu, cuda = state
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, self.device)
