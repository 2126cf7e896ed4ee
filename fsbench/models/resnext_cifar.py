"""ResNeXt in the form made for CIFAR."""

from __future__ import annotations

from torch import nn

from fsbench.config.model import ResNextCifar
from fsbench.models.layers import classifier


def build(options: ResNextCifar, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv3(64), three stages of (depth - 2) / 9 of torchvision's grouped bottlenecks, average pooling, linear.

    Stage s has `cardinality` groups of 2^s base_width channels and 256 * 2^s outputs; shortcuts are
    projections where the shape changes. Source: Xie et al. 2017, section 5.3; He initialisation.
    """
    from torchvision.models import resnet  # imported late: torchvision takes seconds to load

    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)),
        ("bn1", nn.BatchNorm2d(64)),
        ("relu1", nn.ReLU()),
    ]
    channels = 64
    for stage, planes in enumerate((64, 128, 256), start=1):
        stack = []
        for index in range((options.depth - 2) // 9):
            stride = 2 if stage > 1 and index == 0 else 1
            project = None
            if index == 0:
                project = nn.Sequential(
                    nn.Conv2d(channels, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
                )
            groups, base_width = options.cardinality, options.base_width
            stack.append(resnet.Bottleneck(channels, planes, stride, project, groups=groups, base_width=base_width))
            channels = 4 * planes
        layers.append((f"stage{stage}", nn.Sequential(*stack)))
    return classifier(layers, channels, classes)
