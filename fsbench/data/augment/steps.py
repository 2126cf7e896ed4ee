"""AutoAugment's steps on a batch: images that need the same kind of operation share its calls.

A step is an operation with its signed magnitude. Steps of one family differ only in a row of a table, looked up for
each image: pixel numbers, grey levels or a factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from fsbench.data.overlap import sent


def blend_factors(factor: float) -> Tensor:
    """f and 1 - f, either rounded to float32, as float64 (2,)."""
    return torch.tensor((factor, 1.0 - factor), device="cpu").double()


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the grey image; `images` uint8 (n, C, H, W); one channel stays as it is."""
    if images.shape[1] == 1:
        return images
    return _blend(images, tv.rgb_to_grayscale(images), factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean level of the grey image."""
    grey = images if images.shape[1] == 1 else tv.rgb_to_grayscale(images)
    return _blend(images, grey.float().mean(dim=(1, 2, 3), keepdim=True), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the 3 x 3 mean in which the centre counts five times; the border stays as it is."""
    if min(images.shape[2:]) <= 2:
        return images
    x = images.short()
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    centre = x[:, :, 1:-1, 1:-1]
    weighted = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).add_(centre, alpha=4)
    # 13 is odd: no mean lies half-way between two levels, and rounding it is exact
    difference = weighted.float().div_(13).round_().sub_(centre)
    _, other = _columns(factors)
    sharp = images.clone()
    sharp[:, :, 1:-1, 1:-1] = _levels(torch.addcmul(centre, other, difference))
    return sharp


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    own, other = _columns(factors)
    return _levels(torch.addcmul(images * own.float(), others, other))


def _columns(factors: Tensor) -> tuple[Tensor, Tensor]:
    return factors[:, 0].view(-1, 1, 1, 1), factors[:, 1].view(-1, 1, 1, 1)


def _levels(values: Tensor) -> Tensor:
    return values.float().clamp_(0, 255).to(torch.uint8)


POINTWISE = ("Brightness", "Posterize", "Solarize", "Invert")


def level_table(operation: str, magnitude: float) -> Tensor:
    """The level that torchvision's operation gives to each of the levels 0 to 255: uint8 (256,)."""
    levels = torch.arange(256, dtype=torch.uint8, device="cpu").view(1, 16, 16)
    if operation == "Brightness":
        levels = tv.adjust_brightness(levels, 1.0 + magnitude)
    elif operation == "Posterize":
        levels = tv.posterize(levels, int(magnitude))
    elif operation == "Solarize":
        levels = tv.solarize(levels, 255.0 * magnitude)
    else:
        levels = tv.invert(levels)
    return levels.flatten()


def map_levels(images: Tensor, table: Tensor) -> Tensor:
    """Image b of `images` (n, C, H, W) with every level v replaced by `table[b, v]`; uint8."""
    return table.gather(1, images.flatten(1).long()).view_as(images)


GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def source_pixels(operation: str, magnitude: float, height: int, width: int) -> Tensor:
    """For each output pixel the number of the input pixel it shows, height * width for black: int64 (H * W,)."""
    # counted from 1, so that torchvision's fill of 0 marks what came from outside; float32 counts to 2^24
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32, device="cpu").view(1, height, width)
    source = _torchvision(numbers, operation, magnitude).flatten().long() - 1
    return torch.where(source < 0, height * width, source)


def move(images: Tensor, source: Tensor) -> Tensor:
    """Image b of `images` (n, C, H, W) with pixel i taken from pixel `source[b, i]`, black for H * W."""
    n, channels, height, width = images.shape
    padded = F.pad(images.flatten(2), (0, 1))
    return padded.gather(2, source[:, None, :].expand(n, channels, -1)).view(n, channels, height, width)


def _torchvision(image: Tensor, operation: str, magnitude: float) -> Tensor:
    if operation == "Rotate":
        return tv.rotate(image, magnitude)
    if operation in ("TranslateX", "TranslateY"):
        pixels = int(magnitude)
        translate = [pixels, 0] if operation == "TranslateX" else [0, pixels]
        return tv.affine(image, angle=0.0, translate=translate, scale=1.0, shear=[0.0, 0.0])
    # the magnitude is a slope, torchvision takes degrees; the upper left corner stays
    degrees = math.degrees(math.atan(magnitude))
    shear = [degrees, 0.0] if operation == "ShearX" else [0.0, degrees]
    return tv.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])


Step = tuple[str, float]
"""An operation and its signed magnitude."""


class Family(NamedTuple):
    """Operations that are applied together."""

    operations: tuple[str, ...]
    row: Callable[[str, float, int, int], Tensor] | None
    """(operation, magnitude, height, width) -> what sets the step apart; None where nothing does."""
    apply: Callable[..., Tensor]
    """(images (n, C, H, W), rows (n, ...) if there are any) -> images."""


def _factor(operation: str, magnitude: float, height: int, width: int) -> Tensor:
    return blend_factors(1.0 + magnitude)


FAMILIES = (
    Family(GEOMETRIC, source_pixels, move),
    Family(POINTWISE, lambda operation, magnitude, height, width: level_table(operation, magnitude), map_levels),
    Family(("Color",), _factor, color),
    Family(("Contrast",), _factor, contrast),
    Family(("Sharpness",), _factor, sharpness),
    Family(("AutoContrast",), None, tv.autocontrast),
    Family(("Equalize",), None, tv.equalize),
)


class StepTables(NamedTuple):
    """Steps numbered 1, 2, ... (0: leave the image alone) with what applying them needs."""

    steps: list[Step]
    family: Tensor
    """int64 (1 + steps,) on the CPU: 0 for step 0, else 1 + the index into FAMILIES."""
    row: Tensor
    """int64 (1 + steps,) on the CPU: the row of the step in its family's table."""
    tables: list[Tensor | None]
    """One for each family, on the images' device; None where no step needs it."""


def tabulate(steps: Iterable[Step], height: int, width: int, device: torch.device) -> StepTables:
    """Number the steps and prepare their tables for images of height x width pixels."""
    steps = list(steps)
    family, row = [0], [0]
    rows: list[list[Tensor]] = [[] for _ in FAMILIES]
    for operation, magnitude in steps:
        which = next(i for i, candidate in enumerate(FAMILIES) if operation in candidate.operations)
        family.append(1 + which)
        row.append(len(rows[which]))
        if (of := FAMILIES[which].row) is not None:
            rows[which].append(of(operation, magnitude, height, width))
    return StepTables(
        steps,
        torch.tensor(family),
        torch.tensor(row),
        [torch.stack(some).to(device) if some else None for some in rows],
    )


def apply_in_turn(images: Tensor, numbers: Tensor, tables: StepTables) -> Tensor:
    """Apply to image b the steps `numbers[b, 0]`, `numbers[b, 1]`, ... in turn.

    Images uint8 (B, 1 or 3, H, W), numbers int64 (B, n) on the CPU, 0 for no step. Returns a new tensor. The host knows
    how many images each family gets, and does not wait for the device.
    """
    counts, places = _grouped(numbers, tables)
    *pairs, back = sent(places, images.device)
    for count, order, row in zip(counts, pairs[::2], pairs[1::2], strict=True):
        same, *parts = images.index_select(0, order).split(count)
        _, *rows = row.split(count)
        changed = [
            family.apply(part, *(() if table is None else (table.index_select(0, which),)))
            for family, table, part, which in zip(FAMILIES, tables.tables, parts, rows, strict=True)
            if len(part)
        ]
        images = torch.cat([same, *changed])
    return images.index_select(0, back)


def _grouped(numbers: Tensor, tables: StepTables) -> tuple[list[list[int]], Tensor]:
    """The number of images that each family gets, turn by turn; and index vectors, int64 (2 n + 1, B).

    Two for each turn: where the images, sorted by family, lie after the turn before, and their rows in the tables. The
    last one: where each image lies in the end.
    """
    counts, places = [], []
    lies = torch.arange(len(numbers))
    for number in numbers.T:
        family = tables.family[number]
        order = torch.argsort(family)
        counts.append(torch.bincount(family, minlength=1 + len(FAMILIES)).tolist())
        places += [lies[order], tables.row[number[order]]]
        lies = torch.argsort(order)
    return counts, torch.stack([*places, lies])
