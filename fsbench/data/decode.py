"""Image files to PIL images, grey or RGB, with one error for whatever can be wrong with them."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, UnidentifiedImageError


class UndecodableImage(ValueError):
    """The file is unreadable, truncated or not an image; the message says which file and why."""


_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


def decoded(path: str | os.PathLike[str]) -> Image.Image:
    """The image in mode L where the file is grey, in RGB otherwise; an alpha channel is dropped.

    Raises:
        UndecodableImage
    """
    try:
        with Image.open(path) as image:
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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as failure:
        what = "is not an image" if isinstance(failure, UnidentifiedImageError) else f"cannot be decoded ({failure})"
        raise UndecodableImage(f"{os.fspath(path)} {what}; replace or remove it") from None


def rgb_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in RGB. Raises UndecodableImage."""
    image = decoded(path)
    return image if image.mode == "RGB" else image.convert("RGB")
