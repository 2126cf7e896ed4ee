"""Random vectors of the size of all weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fsbench.sharpness.risk import Risk


def standard_normals(risk: Risk, draws: int, seed: int, what: str) -> Iterator[list[Tensor]]:
    """So many vectors of independent N(0, 1), a tensor for each weight tensor; the same ones for the same seed.

    They are drawn on the CPU, so that every device gets the same, and leave torch's own random state alone. `what`
    names the work on the progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    with risk.bar(what, draws, " draw") as bar:
        for _ in range(draws):
            yield [torch.randn(w.shape, dtype=w.dtype, generator=generator).to(w.device) for w in risk.weights]
            bar.update()
