"""Anyone's images: ROOT/train/<class>/ and ROOT/test/<class>/."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fsbench.config.dataset import DatasetOptions
from fsbench.data.decode import UndecodableImage, decoded, opened
from fsbench.data.splits import MemorySplit, RawData, Split, StreamingSplit
from fsbench.errors import UsageError
from fsbench.image_folder import KEY, FolderPart, files_digest, folder_parts, list_of, refused

log = logging.getLogger("fsbench")

MEMORY_SIDE = 64  # pixels; larger images are decoded anew in every epoch


def load_folder(options: DatasetOptions, data_dir: Path) -> RawData:
    """The images below `options.root`, classes in alphabetical order of their folders' names.

    In memory (uint8) if all have one size of at most 64 pixels, or `image_size` is at most that: they are then
    resized once, bilinearly. All grey: one channel; some grey: RGB. Otherwise they stream, in RGB. What lies there and
    is not taken is logged in one line. EXIF's orientation is not applied: pixels are as they are stored.
    Decoded one after the other: for small images threads only wait for each other (60,000 of 32 x 32: 5 s).

    Raises:
        UsageError: naming dataset.root: a directory or its images are missing, the classes of train and test
            differ, an image can't be decoded, sizes differ where they may not.
    """
    image_size, in_memory = options.image_size, options.in_memory
    base = Path(options.root or "")
    train, test = folder_parts(base)
    passed_over = {kind: [*train.passed_over[kind], *test.passed_over[kind]]
                   for kind in sorted(train.passed_over.keys() | test.passed_over.keys())}  # fmt: skip
    if passed_over:
        log.warning("%s=%s: passed over are %s", KEY, base, list_of(passed_over))
    splits: Sequence[Split]
    if _goes_into_memory(base, train.items + test.items, image_size, in_memory):
        splits = both = _into_memory(base, train, test, image_size)
        variant = f"image folder, {' x '.join(map(str, both[0].images.shape[1:]))} in memory"
    else:
        if image_size is None:
            problem = "must be a number of pixels, such as 224, because the images are streamed"
            raise UsageError("dataset.image_size", "null", problem)
        splits = [
            StreamingSplit(KEY, str(base), tuple(found.items), torch.tensor(found.labels)) for found in (train, test)
        ]
        variant = "image folder, streamed"
    return RawData(splits[0], splits[1], tuple(train.classes), variant, files=files_digest(train, test))


def _goes_into_memory(base: Path, items: Sequence[str], image_size: int | None, in_memory: bool | None) -> bool:
    if in_memory is not None:
        return in_memory
    if image_size is not None and image_size <= MEMORY_SIDE:
        return True
    # A look at a few headers decides; that really all have the same size is seen while decoding.
    sizes = {_size(base, items[i]) for i in range(0, len(items), max(1, len(items) // 100))}
    return len(sizes) == 1 and max(*sizes.pop()) <= MEMORY_SIDE


def _size(base: Path, item: str) -> tuple[int, int]:
    try:
        with opened(base / item) as image:
            return image.size
    except UndecodableImage as failure:
        raise refused(base, str(failure)) from None


def _open(base: Path, item: str) -> Image.Image:
    try:
        return decoded(base / item)
    except UndecodableImage as failure:
        raise refused(base, str(failure)) from None


def _into_memory(base: Path, train: FolderPart, test: FolderPart, image_size: int | None) -> list[MemorySplit]:
    # Where all images have one small size they are kept as they are, and resized batch by batch if at all.
    items = train.items + test.items
    first = _size(base, items[0])
    resize = None if image_size is None or max(first) <= MEMORY_SIDE else (image_size, image_size)
    arrays: list[np.ndarray] = []
    for item in items:
        image = _open(base, item)
        if resize is None and image.size != first:
            if image_size is None:
                sizes = f"{items[0]} is {first[0]} x {first[1]}, {item} is {image.width} x {image.height}"
                raise UsageError(
                    "dataset.image_size", "null", f"must be a number, because images differ in size: {sizes}"
                )
            resize = (image_size, image_size)
            arrays = [np.asarray(Image.fromarray(array).resize(resize, Image.Resampling.BILINEAR)) for array in arrays]
        if resize is not None and image.size != resize:
            image = image.resize(resize, Image.Resampling.BILINEAR)
        arrays.append(np.asarray(image))
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in arrays]
    images = torch.from_numpy(np.stack(arrays))
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    cut = len(train.items)
    return [
        MemorySplit(images[:cut].clone(), torch.tensor(train.labels)),
        MemorySplit(images[cut:].clone(), torch.tensor(test.labels)),
    ]
