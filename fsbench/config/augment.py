"""The `augment` group: what is drawn anew for every training image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fsbench.config.component import Component
from fsbench.config.options import Pixels


class AugmentOptions(Component, group="augment"):
    """Random changes of a training image, in the order in which they are applied unless `autoaugment_first`; sizes in
    pixels.

    The keys of the second block are for data sets that are streamed from image files. There `size` is the side of the
    image a network sees (null: the data set's own), and how an image gets it, in training | in evaluation:

        random_resized_crop     random resized crop to `size` | shorter side to `resize`, centre crop of `size`
        resize alone            `resize` x `resize`, random crop of `size` | the same, centre crop of `size`
        neither                 `size` x `size` | the same
    """

    name: str = "standard"  # records of older runs do not say it
    flip: bool = False
    """Mirror left and right with probability 1/2."""
    crop: int = Field(default=0, ge=0, le=10_000)
    """Pixels added on each side before a random crop back to the size; 0: none."""
    padding: Literal["zeros", "reflect"] = "zeros"
    """The padding: black, or the image mirrored at its outermost pixels."""
    autoaugment: Literal["cifar10", "svhn", "imagenet"] | None = None
    """The AutoAugment policy found on this data set."""
    autoaugment_first: bool = False
    """Apply it before flip and crop, so that Invert, Equalize and AutoContrast see no padding."""
    cutout: int = Field(default=0, ge=0, le=10_000)
    """Side of the square hole, which the border may clip; 0: none."""

    random_resized_crop: bool = False
    resize: Pixels | None = None
    size: Pixels | None = None
    color_jitter: float = Field(default=0.0, ge=0)
    """s: brightness, contrast and saturation each times a factor uniform in [max(0, 1 - s), 1 + s]; 0: none."""

    def image_size(self, dataset_size: int | None) -> int | None:
        """The side of the image a network sees; None where every image keeps its own."""
        return self.size or dataset_size


class StandardAugment(AugmentOptions, name="standard"):
    """These changes and no other."""
