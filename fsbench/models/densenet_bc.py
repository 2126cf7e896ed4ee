"""DenseNet-BC in the form made for CIFAR."""

from __future__ import annotations

from torch import nn

from fsbench.config.model import DenseNetBC


def build(options: DenseNetBC, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv3(2k) without pooling, three dense blocks of (depth - 4) / 6 bottleneck layers of growth k.

    Transitions halve the channels (compression 0.5). torchvision's DenseNet with the stem replaced.
    Source: Huang et al. 2017, section 3, "Implementation details"; He initialisation.
    """
    from torchvision.models import densenet  # imported late: torchvision takes seconds to load

    stem = 2 * options.growth
    model = densenet.DenseNet(
        growth_rate=options.growth,
        block_config=((options.depth - 4) // 6,) * 3,
        num_init_features=stem,
        drop_rate=options.dropout,
        num_classes=classes,
    )
    model.features.conv0 = nn.Conv2d(shape[0], stem, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.features.conv0.weight)  # as torchvision does
    del model.features.norm0, model.features.relu0, model.features.pool0
    return model
