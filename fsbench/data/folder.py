"""Anyone's images: ROOT/train/<class>/ and ROOT/test/<class>/."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fsbench.data.decode import UndecodableImage, decoded
from fsbench.data.raw import RawData
from fsbench.data.splits import MemorySplit, StreamingSplit
from fsbench.errors import UsageError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MEMORY_SIDE = 64  # pixels; larger images are decoded anew in every epoch

_KEY = "dataset.root"


def load_folder(root: str, image_size: int | None, in_memory: bool | None) -> RawData:
    """The images below `root`, classes in alphabetical order of their folders' names.

    In memory (uint8) if all have one size of at most 64 pixels, or `image_size` is at most that: they are then
    resized once, bilinearly. All grey: one channel; some grey: RGB. Otherwise they stream, in RGB.
    Decoded one after the other: for small images threads only wait for each other (60,000 of 32 x 32: 5 s).

    Raises:
        UsageError: naming dataset.root: a directory or its images are missing, the classes of train and test
            differ, an image can't be decoded, sizes differ where they may not.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise _refused(base, "is not a directory" if base.exists() else "there is no such directory")
    train, test = _listed(base, "train"), _listed(base, "test")
    if train.classes != test.classes:
        for one, other, here, there in ((train, test, "train", "test"), (test, train, "test", "train")):
            if lacking := sorted(set(one.classes) - set(other.classes)):
                raise _refused(base, f"class {lacking[0]!r} is in {here}/ but not in {there}/; both need all classes")
    if _goes_into_memory(base, train.items + test.items, image_size, in_memory):
        splits = _into_memory(base, train, test, image_size)
        variant = f"image folder, {' x '.join(map(str, splits[0].images.shape[1:]))} in memory"
    else:
        if image_size is None:
            problem = "must be a number of pixels, such as 224, because the images are streamed"
            raise UsageError("dataset.image_size", "null", problem)
        splits = [StreamingSplit(_KEY, str(base), found.items, torch.tensor(found.labels)) for found in (train, test)]
        variant = "image folder, streamed"
    return RawData(train=splits[0], test=splits[1], class_names=tuple(train.classes), variant=variant)


@dataclass(frozen=True)
class _Listed:
    classes: list[str]
    items: tuple[str, ...]
    labels: list[int]


def _listed(base: Path, part: str) -> _Listed:
    if not (base / part).is_dir():
        raise _refused(base, f"has no directory {part}/; needed are train/<class>/ and test/<class>/")
    try:
        classes = sorted(entry.name for entry in os.scandir(base / part) if entry.is_dir() and entry.name[0] != ".")
        items, labels = [], []
        for label, name in enumerate(classes):
            files = sorted(file for file in os.listdir(base / part / name) if _is_image(file))
            if not files:
                problem = f"{part}/{name}/ has no images; counted are {', '.join(ending[1:] for ending in ENDINGS)}"
                raise _refused(base, problem)
            items += [os.path.join(part, name, file) for file in files]
            labels += [label] * len(files)
    except OSError as failure:
        raise _refused(base, f"cannot be read ({failure.strerror}: {failure.filename})") from None
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no class folders"
        raise _refused(base, f"{part}/ has {found}; at least two are needed, as {part}/<class>/<image>")
    return _Listed(classes, tuple(items), labels)


def _is_image(file: str) -> bool:
    return file.lower().endswith(ENDINGS) and not file.startswith(".")


def _goes_into_memory(base: Path, items: tuple[str, ...], image_size: int | None, in_memory: bool | None) -> bool:
    if in_memory is not None:
        return in_memory
    if image_size is not None and image_size <= MEMORY_SIDE:
        return True
    # A look at a few headers decides; that really all have the same size is seen while decoding.
    sizes = {_size(base, items[i]) for i in range(0, len(items), max(1, len(items) // 100))}
    return len(sizes) == 1 and max(*sizes.pop()) <= MEMORY_SIDE


def _size(base: Path, item: str) -> tuple[int, int]:
    try:
        with Image.open(base / item) as image:
            return image.size
    except OSError:
        return _open(base, item).size  # says what is wrong with it


def _open(base: Path, item: str) -> Image.Image:
    try:
        return decoded(base / item)
    except UndecodableImage as failure:
        raise _refused(base, str(failure)) from None


def _into_memory(base: Path, train: _Listed, test: _Listed, image_size: int | None) -> list[MemorySplit]:
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


def _refused(base: Path, problem: str) -> UsageError:
    return UsageError(_KEY, base, problem)
