"""ResNet in the ImageNet form, and with a stem for small images."""

from __future__ import annotations

from torch import nn

from fsbench.config.model import ResNet


def build(options: ResNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's ResNet; images up to 64 px get a 3x3 stem of stride 1 and no max-pool.

    Source: He et al. 2016, table 1; the small stem is the usual one for CIFAR (21.3 M parameters for
    ResNet-34 with 10 classes).
    """
    from torchvision.models import resnet  # imported late: torchvision takes seconds to load

    block = resnet.Bottleneck if options.depth == 50 else resnet.BasicBlock
    blocks = [2, 2, 2, 2] if options.depth == 18 else [3, 4, 6, 3]
    model = resnet.ResNet(block, blocks, num_classes=classes)
    small = max(shape[1:]) <= 64
    if small:
        model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif shape[0] != 3:
        model.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    if small or shape[0] != 3:
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    return model
