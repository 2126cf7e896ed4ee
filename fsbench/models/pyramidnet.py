"""PyramidNet with bottlenecks, in the form made for CIFAR."""

from __future__ import annotations

import torch
from torch import nn

from fsbench.config.model import PyramidNet
from fsbench.models.layers import ZeroPadShortcut, classifier


def build(options: PyramidNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv3(16), N = (depth - 2) / 3 bottlenecks in three stages, average pooling, linear.

    The k-th bottleneck has inner width round(16 + alpha k / N) and four times as many outputs. Source:
    Han et al. 2017, "Deep pyramidal residual networks", eq. 3 and section 3; the stem has no ReLU and
    widths are rounded as in the authors' code; He initialisation.
    """
    blocks = (options.depth - 2) // 3
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)),
        ("bn1", nn.BatchNorm2d(16)),
    ]
    channels, stack = 16, []
    for k in range(1, blocks + 1):
        width = round(16 + options.alpha * k / blocks)
        first_of_stage = (k - 1) % (blocks // 3) == 0
        stack.append(PyramidBottleneck(channels, width, stride=2 if first_of_stage and k > 1 else 1))
        channels = 4 * width
        if k % (blocks // 3) == 0:
            layers.append((f"stage{3 * k // blocks}", nn.Sequential(*stack)))
            stack = []
    layers += [("bn2", nn.BatchNorm2d(channels)), ("relu2", nn.ReLU())]
    return classifier(layers, channels, classes)


class PyramidBottleneck(nn.Module):
    """shortcut(x) + bn(conv1(relu(bn(conv3(relu(bn(conv1(bn(x)))))))), (N, in, H, W) -> (N, 4 width, H', W').

    The first ReLU of a pre-activation block is left out and a BatchNorm ends it (Han et al., section 3.4);
    the shortcut is average-pooled where the stride is 2, and zero-padded.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(4 * width)
        reduce = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.shortcut = ZeroPadShortcut(channels, 4 * width, reduce)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(out)))
        out = self.conv3(self.relu3(self.bn3(out)))
        return self.bn4(out) + self.shortcut(x)
