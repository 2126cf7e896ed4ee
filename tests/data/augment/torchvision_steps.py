"""AutoAugment's steps on single images, as torchvision applies them."""

from __future__ import annotations

import math

from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fsbench.data.augment.steps import Step

# rounded once or twice, by processor and place in the vector: at most one level, and rarely
ROUNDED = {"Color", "Contrast", "Sharpness"}


def torchvision(image: Tensor, step: Step) -> Tensor:
    """The step as `v2.AutoAugment` applies it to one uint8 image (C, H, W)."""
    operation, size = step
    slope = math.degrees(math.atan(size))
    return {
        "ShearX": lambda: tv.affine(image, 0.0, [0, 0], 1.0, [slope, 0.0], center=[0, 0]),
        "ShearY": lambda: tv.affine(image, 0.0, [0, 0], 1.0, [0.0, slope], center=[0, 0]),
        "TranslateX": lambda: tv.affine(image, 0.0, [int(size), 0], 1.0, [0.0, 0.0]),
        "TranslateY": lambda: tv.affine(image, 0.0, [0, int(size)], 1.0, [0.0, 0.0]),
        "Rotate": lambda: tv.rotate(image, size),
        "Brightness": lambda: tv.adjust_brightness(image, 1.0 + size),
        "Color": lambda: tv.adjust_saturation(image, 1.0 + size),
        "Contrast": lambda: tv.adjust_contrast(image, 1.0 + size),
        "Sharpness": lambda: tv.adjust_sharpness(image, 1.0 + size),
        "Posterize": lambda: tv.posterize(image, int(size)),
        "Solarize": lambda: tv.solarize(image, 255.0 * size),
        "AutoContrast": lambda: tv.autocontrast(image),
        "Equalize": lambda: tv.equalize(image),
        "Invert": lambda: tv.invert(image),
    }[operation]()
