"""What several families share: initialisation, the classifier behind the convolutions, a shortcut."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def he_init(model: nn.Module) -> None:
    """Convolutions from N(0, 2 / (k k out_channels)), their biases and those of linear layers zero.

    Linear weights and BatchNorm keep PyTorch's default. Source: He et al. 2015, section 2.2, in the
    fan-out form (eq. 14) of the ResNet, Wide ResNet and PyramidNet authors' code.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


def pooled_classifier(channels: int, classes: int) -> list[tuple[str, nn.Module]]:
    """Named layers from (N, channels, H, W) to (N, classes)."""
    return [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(channels, classes))]


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
