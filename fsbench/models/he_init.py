"""He initialisation of a whole network."""

from __future__ import annotations

from torch import nn


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
