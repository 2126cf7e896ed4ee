"""The header and size of an idx file (LeCun's MNIST format); torchvision reads it without looking."""

from __future__ import annotations

import math
import struct
from pathlib import Path

IMAGES, LABELS = 2051, 2049


def idx_problem(path: Path, magic: int, image_shape: tuple[int, ...] = ()) -> str | None:
    """What is wrong with the file, or None.

    The form: magic number, then one big-endian uint32 per dimension (N first), then N x image_shape bytes.
    """
    header = 4 * (2 + len(image_shape))
    with path.open("rb") as file:
        start = file.read(header)
    if len(start) < header:
        return f"truncated: {len(start)} bytes, the header alone has {header}"
    found, count, *shape = struct.unpack(f">{len(start) // 4}I", start)
    if found != magic:
        return f"not the expected idx file: magic number {found} instead of {magic}"
    if tuple(shape) != image_shape:
        return f"images of {' x '.join(map(str, shape))} instead of {' x '.join(map(str, image_shape))}"
    expected, size = header + count * math.prod(image_shape), path.stat().st_size
    if size != expected:
        return f"{'truncated' if size < expected else 'too long'}: {size} bytes instead of {expected}"
    return None


def idx_count(path: Path) -> int:
    """N, the number of examples that the header announces."""
    with path.open("rb") as file:
        return struct.unpack(">2I", file.read(8))[1]
