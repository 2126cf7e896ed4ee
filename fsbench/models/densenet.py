"""DenseNet in the ImageNet form, and DenseNet-BC in the form made for CIFAR: torchvision's, with other stems."""

from __future__ import annotations

from typing import Any

from torch import nn

from fsbench.config.model import DenseNet, DenseNetBC


def build(options: DenseNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's DenseNet-121, -169 or -201, its ImageNet stem kept for images of every size.

    Source: Huang et al. 2017, "Densely connected convolutional networks", table 1.
    """
    blocks = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}[options.depth]
    model = _densenet(growth_rate=32, block_config=blocks, num_init_features=64, num_classes=classes)
    if shape[0] != 3:
        _replace_stem(model, nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False))
    return model


def build_bc(options: DenseNetBC, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv3(2k) without pooling, three dense blocks of (depth - 4) / 6 bottleneck layers of growth k.

    Transitions halve the channels (compression 0.5).
    Source: Huang et al. 2017, section 3, "Implementation details"; He initialisation.
    """
    stem = 2 * options.growth
    model = _densenet(
        growth_rate=options.growth,
        block_config=((options.depth - 4) // 6,) * 3,
        num_init_features=stem,
        drop_rate=options.dropout,
        num_classes=classes,
    )
    _replace_stem(model, nn.Conv2d(shape[0], stem, 3, padding=1, bias=False))
    del model.features.norm0, model.features.relu0, model.features.pool0
    return model


def _densenet(**options: Any) -> Any:
    from torchvision.models import densenet  # imported late: torchvision takes seconds to load

    return densenet.DenseNet(**options)


def _replace_stem(model: Any, convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight)  # as torchvision does
    model.features.conv0 = convolution
