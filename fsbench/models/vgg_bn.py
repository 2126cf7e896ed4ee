"""VGG with BatchNorm."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fsbench.config.model import VggBN


def build(options: VggBN, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's VGG-BN; images up to 64 px get one linear classifier after the features.

    Source: Simonyan & Zisserman 2015, table 1 (A, B, D, E); the small classifier is the usual one for
    CIFAR (20.0 M parameters for VGG-19 with 10 classes instead of 140 M).
    """
    from torchvision.models import vgg  # imported late: torchvision takes seconds to load

    configuration = vgg.cfgs[{11: "A", 13: "B", 16: "D", 19: "E"}[options.depth]]
    features = vgg.make_layers(configuration, batch_norm=True)
    if shape[0] != 3:
        features[0] = nn.Conv2d(shape[0], 64, 3, padding=1)
    if max(shape[1:]) > 64:
        return vgg.VGG(features, num_classes=classes)
    model = nn.Sequential(
        OrderedDict(
            features=features,
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(512, classes),
        )
    )
    _torchvision_init(model)
    return model


def _torchvision_init(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
