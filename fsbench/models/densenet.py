"""DenseNet in the ImageNet form."""

from __future__ import annotations

from torch import nn

from fsbench.config.model import DenseNet


def build(options: DenseNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's DenseNet-121, -169 or -201, its ImageNet stem kept for images of every size.

    Source: Huang et al. 2017, "Densely connected convolutional networks", table 1.
    """
    from torchvision.models import densenet  # imported late: torchvision takes seconds to load

    blocks = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}[options.depth]
    model = densenet.DenseNet(growth_rate=32, block_config=blocks, num_init_features=64, num_classes=classes)
    if shape[0] != 3:
        model.features.conv0 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.features.conv0.weight)  # as torchvision does
    return model
