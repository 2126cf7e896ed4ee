"""Image files to PIL images, grey or RGB, with one error for whatever can be wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from fsbench.image_folder import FORMATS


class UndecodableImage(ValueError):
    """The file is unreadable, truncated or not an image; the message says which file and why."""


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The image before it is decoded, of one of `FORMATS`; whatever goes wrong within is an UndecodableImage."""
    problem = None
    try:
        if not os.path.isfile(path):
            problem = "is not a file"
        else:
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except UnidentifiedImageError:
        problem = f"is not an image in one of the formats {', '.join(FORMATS)}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as failure:
        problem = f"cannot be decoded ({failure})"
    if problem is not None:
        raise UndecodableImage(f"{os.fspath(path)} {problem}; replace or remove it")


_GREY = ("1", "LA")


def decoded(path: str | os.PathLike[str]) -> Image.Image:
    """The image in mode L where the file is grey, in RGB otherwise; an alpha channel is dropped.

    Raises:
        UndecodableImage
    """
    with opened(path) as image:
        if image.mode in ("L", "RGB"):
            image.load()
            return image
        if image.mode.startswith("I"):
            # 16-bit grey: PIL's own conversion clips at 255 instead of scaling.
            return Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
        if image.mode in _GREY:
            return image.convert("L")
        if image.mode == "P" and "transparency" in image.info:
            return image.convert("RGBA").convert("RGB")
        return image.convert("RGB")


def rgb_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in RGB. Raises UndecodableImage."""
    image = decoded(path)
    return image if image.mode == "RGB" else image.convert("RGB")
