"""Augmentation of one image file at a time, with torchvision's transforms; randomness from torch's global generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import AutoAugmentPolicy, v2

from fsbench.config.augment import AugmentOptions
from fsbench.data.augment.batch import Padding, check_channels, check_crop, check_side, cutout_, normalize
from fsbench.errors import UsageError


def image_transform(
    options: AugmentOptions, mean: Sequence[float], std: Sequence[float], size: int | None
) -> Callable[[Image], Tensor]:
    """The training transform: an image to a normalised float32 tensor (C, S, S), S = `options.image_size(size)`.

    Resize, flip, crop, AutoAugment (or it before them), colour jitter, normalise, Cutout, each as asked for. `size` is
    the data set's side in pixels; None leaves images their own. The image is converted to grey or RGB by the length of
    `mean`.

    Raises UsageError where `resize` or `random_resized_crop` lack a size or `resize` is smaller than it, for
    AutoAugment on other than 1 or 3 channels, and for a Cutout or a reflection larger than the image.
    """
    side = _check(options, mean, size)
    steps: list[nn.Module] = []
    if options.random_resized_crop:
        steps.append(v2.RandomResizedCrop(side))
    elif options.resize:
        steps += [v2.Resize((options.resize, options.resize)), v2.RandomCrop(side)]
    elif side:
        steps.append(v2.Resize((side, side)))
    # from here on uint8 tensors, on which torchvision computes what the batched path does
    steps.append(v2.PILToTensor())
    policy = [v2.AutoAugment(AutoAugmentPolicy(options.autoaugment))] if options.autoaugment else []
    if options.autoaugment_first:
        steps += policy
    if options.flip:
        steps.append(v2.RandomHorizontalFlip())
    if options.crop:
        steps.append(PadAndCrop(options.crop, options.padding))
    if not options.autoaugment_first:
        steps += policy
    if options.color_jitter:
        steps.append(v2.ColorJitter(options.color_jitter, options.color_jitter, options.color_jitter))
    if options.builder:
        own = options.built_by()(options)
        steps.append(v2.Lambda(lambda image: own(image.unsqueeze(0), None).squeeze(0)))
    steps.append(Normalize(mean, std))
    if options.cutout:
        steps.append(Cutout(options.cutout))
    return v2.Compose([_channels(mean), *steps])


def eval_transform(
    options: AugmentOptions, mean: Sequence[float], std: Sequence[float], size: int | None
) -> Callable[[Image], Tensor]:
    """The evaluation transform that belongs to `image_transform`: nothing random, the centre where that crops.

    With `random_resized_crop` the shorter side is resized to `resize` (null: S) before the crop. Raises as there.
    """
    side = _check(options, mean, size)
    steps: list[nn.Module] = []
    if options.random_resized_crop:
        steps += [v2.Resize(options.resize or side), v2.CenterCrop(side)]
    elif options.resize:
        steps += [v2.Resize((options.resize, options.resize)), v2.CenterCrop(side)]
    elif side:
        steps.append(v2.Resize((side, side)))
    return v2.Compose([_channels(mean), *steps, v2.PILToTensor(), Normalize(mean, std)])


class PadAndCrop(nn.Module):
    """Pad by `crop` pixels on each side, crop back to the image's own size at a random place."""

    def __init__(self, crop: int, padding: Padding) -> None:
        super().__init__()
        self.crop, self.padding = crop, padding
        self.mode = "constant" if padding == "zeros" else padding

    def forward(self, image: Tensor) -> Tensor:
        check_crop(self.crop, self.padding, min(image.shape[1:]))
        return v2.RandomCrop(image.shape[1:], padding=self.crop, padding_mode=self.mode)(image)


class Normalize(nn.Module):
    """`normalize` as a transform."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, image: Tensor) -> Tensor:
        return normalize(image, self.mean, self.std)


class Cutout(nn.Module):
    """`cutout_` as a transform."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        return cutout_(image[None], self.side, generator=None)[0]


def _channels(mean: Sequence[float]) -> nn.Module:
    return v2.Grayscale() if len(mean) == 1 else v2.RGB()


def _check(options: AugmentOptions, mean: Sequence[float], size: int | None) -> int | None:
    check_channels(options, mean)
    side = options.image_size(size)
    for key in ("random_resized_crop", "resize"):
        value = getattr(options, key)
        if value and side is None:
            raise UsageError(f"augment.{key}", value, "needs augment.size, as this data set has no size of its own")
    if options.resize and side is not None and options.resize < side:
        raise UsageError("augment.resize", options.resize, f"must be at least {side}, the side of the crop")
    if side is not None:
        check_side(options.cutout, side)
        check_crop(options.crop, options.padding, side)
    return side
