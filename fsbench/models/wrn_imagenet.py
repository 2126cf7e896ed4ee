"""Wide ResNet in the ImageNet form, with basic blocks."""

from __future__ import annotations

from torch import nn

from fsbench.config.model import WideResNetImageNet


def build(options: WideResNetImageNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """WRN-18-k: ResNet-18 (or 34) with block widths 64k, 128k, 256k, 512k behind the usual stem of 64.

    Source: Zagoruyko & Komodakis 2016, section 3.4 (25.9 M parameters for k = 1.5 and 1000 classes); as
    in the authors' code not pre-activation. He initialisation; the last BatchNorm of a block starts at 1.
    """
    from timm.models.resnet import BasicBlock, ResNet  # imported late: timm takes seconds to load

    return ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm takes the class, and says an instance
        layers=(2, 2, 2, 2) if options.depth == 18 else (3, 4, 6, 3),
        num_classes=classes,
        in_chans=shape[0],
        channels=tuple(round(width * options.width) for width in (64, 128, 256, 512)),
        zero_init_last=False,
    )
