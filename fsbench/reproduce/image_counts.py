"""How many images a data set has and how large they are, without reading them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fsbench.config.dataset import DatasetOptions
from fsbench.errors import UsageError
from fsbench.image_folder import FORMATS, folder_parts


@dataclass(frozen=True)
class ImageCounts:
    """Images of the training and test splits as the data set comes, classes, and (C, H, W)."""

    train: int
    test: int
    classes: int
    shape: tuple[int, int, int]


_KNOWN = {
    "digits": ImageCounts(1437, 360, 10, (1, 8, 8)),
    "mnist": ImageCounts(60_000, 10_000, 10, (1, 28, 28)),
    "fashion_mnist": ImageCounts(60_000, 10_000, 10, (1, 28, 28)),
    "cifar10": ImageCounts(50_000, 10_000, 10, (3, 32, 32)),
    "cifar100": ImageCounts(50_000, 10_000, 100, (3, 32, 32)),
    "svhn": ImageCounts(73_257, 26_032, 10, (3, 32, 32)),
    "imagenet": ImageCounts(1_281_167, 50_000, 1000, (3, 224, 224)),
    "stanford_cars": ImageCounts(8144, 8041, 196, (3, 224, 224)),
    "flowers102": ImageCounts(2040, 6149, 102, (3, 224, 224)),
}


def image_counts(options: DatasetOptions) -> ImageCounts | None:
    """None for a folder that is not there, or not whole."""
    found = _KNOWN.get(options.name) or _of_folder(Path(options.root or ""))
    if found is None or options.image_size is None:
        return found
    return replace(found, shape=(found.shape[0], options.image_size, options.image_size))


def trained_on(options: DatasetOptions, counts: ImageCounts) -> int:
    """How many images an epoch has."""
    rest = counts.train - options.validation
    return (rest if options.subset is None else min(options.subset, rest)) + options.confusion


def _of_folder(root: Path) -> ImageCounts | None:
    from PIL import Image

    try:
        train, test = folder_parts(root)
        with Image.open(root / train.items[0], formats=FORMATS) as image:
            shape = (1 if image.mode in ("1", "L", "LA", "I", "I;16") else 3, image.height, image.width)
    except (UsageError, OSError, Image.DecompressionBombError):
        return None
    return ImageCounts(len(train.items), len(test.items), len(train.classes), shape)
