"""AutoAugment's magnitudes: what the ten levels of each operation mean."""

from __future__ import annotations

import torch

LEVELS = 10
SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)
"""Operations whose magnitude is taken with either sign, each with probability 1/2."""


def magnitude(operation: str, level: int | None, height: int, width: int) -> float:
    """The magnitude of `operation` at `level`, 0 to 9, on an image of height x width pixels, as torchvision has it.

    Slope of a shear; pixels of a translation (150 of 331 at most); degrees of a rotation; f of the colour factor
    1 + f; bits kept by Posterize; threshold of Solarize relative to white. Operations without magnitude have
    level None and magnitude 0. (Cubuk et al. 2019, appendix A, table 6, with torchvision's ranges.)
    """
    if level is None:
        return 0.0
    if operation == "Posterize":
        return float(8 - round(level * 4 / (LEVELS - 1)))
    first, last = {
        "ShearX": (0.0, 0.3),
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, 150 / 331 * width),
        "TranslateY": (0.0, 150 / 331 * height),
        "Rotate": (0.0, 30.0),
        "Brightness": (0.0, 0.9),
        "Color": (0.0, 0.9),
        "Contrast": (0.0, 0.9),
        "Sharpness": (0.0, 0.9),
        "Solarize": (1.0, 0.0),
    }[operation]
    # float32, as there: int() of a translation and the threshold of Solarize depend on the last digit
    return float(torch.linspace(first, last, LEVELS, device="cpu")[level])
