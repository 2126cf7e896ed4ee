"""A residual shortcut without parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ZeroPadShortcut(nn.Module):
    """(N, in, H, W) -> (N, out, H', W'): `reduce` shrinks the image, zero channels are appended.

    Source: option A of He et al. 2016, section 3.3; also Han et al. 2017, section 3.2.
    """

    def __init__(self, in_channels: int, out_channels: int, reduce: nn.Module) -> None:
        super().__init__()
        self.missing = out_channels - in_channels
        self.reduce = reduce

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # functional.pad counts dimensions from the last: W, W, H, H, then channels before and after
        return functional.pad(self.reduce(x), (0, 0, 0, 0, 0, self.missing))

    def extra_repr(self) -> str:
        return f"zero channels={self.missing}"
