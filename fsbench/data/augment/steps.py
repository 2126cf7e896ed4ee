"""AutoAugment's steps on a batch: images that need the same kind of operation share its calls.

A step is an operation with its signed magnitude. Steps of one family differ only in a row of a table, looked up for
each image: pixel numbers, grey levels or a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fsbench.data.augment.color_ops import color, contrast, sharpness
from fsbench.data.augment.geometric_ops import GEOMETRIC, move, source_pixels
from fsbench.data.augment.pointwise_ops import POINTWISE, level_table, map_levels

Step = tuple[str, float]
"""An operation and its signed magnitude."""


class Family(NamedTuple):
    """Operations that are applied together."""

    operations: tuple[str, ...]
    row: Callable[[str, float, int, int], Tensor]
    """(operation, magnitude, height, width) -> what sets the step apart."""
    apply: Callable[[Tensor, Tensor], Tensor]
    """(images (n, C, H, W), rows (n, ...)) -> images."""


def _factor(operation: str, magnitude: float, height: int, width: int) -> Tensor:
    return torch.tensor(1.0 + magnitude, dtype=torch.float64, device="cpu")


def _nothing(operation: str, magnitude: float, height: int, width: int) -> Tensor:
    return torch.zeros((), device="cpu")


FAMILIES = (
    Family(GEOMETRIC, source_pixels, move),
    Family(POINTWISE, lambda operation, magnitude, height, width: level_table(operation, magnitude), map_levels),
    Family(("Color",), _factor, color),
    Family(("Contrast",), _factor, contrast),
    Family(("Sharpness",), _factor, sharpness),
    Family(("AutoContrast",), _nothing, lambda images, rows: tv.autocontrast(images)),
    Family(("Equalize",), _nothing, lambda images, rows: tv.equalize(images)),
)


class StepTables(NamedTuple):
    """Steps numbered 1, 2, ... (0: leave the image alone) with what applying them needs, on the images' device."""

    steps: list[Step]
    family: Tensor
    """int64 (1 + steps,): 0 for step 0, else 1 + the index into FAMILIES."""
    row: Tensor
    """int64 (1 + steps,): the row of the step in its family's table."""
    tables: list[Tensor | None]
    """One for each family, None where no step needs it."""


def tabulate(steps: Iterable[Step], height: int, width: int, device: torch.device) -> StepTables:
    """Number the steps and prepare their tables for images of height x width pixels."""
    steps = list(steps)
    family, row = [0], [0]
    rows: list[list[Tensor]] = [[] for _ in FAMILIES]
    for operation, magnitude in steps:
        which = next(i for i, candidate in enumerate(FAMILIES) if operation in candidate.operations)
        family.append(1 + which)
        row.append(len(rows[which]))
        rows[which].append(FAMILIES[which].row(operation, magnitude, height, width))
    return StepTables(
        steps,
        torch.tensor(family, device=device),
        torch.tensor(row, device=device),
        [torch.stack(some).to(device) if some else None for some in rows],
    )


def apply_in_turn(images: Tensor, numbers: Tensor, tables: StepTables) -> Tensor:
    """Apply to image b the steps `numbers[b, 0]`, `numbers[b, 1]`, ... in turn.

    Images uint8 (B, 1 or 3, H, W), numbers int64 (B, n) on the same device, 0 for no step.
    Returns a new tensor. The host waits for the device once, to learn how many images each family gets.
    """
    family = tables.family[numbers]
    each = torch.arange(1 + len(FAMILIES), device=images.device)
    counts = (family[:, :, None] == each).sum(0).tolist()
    for position, count in enumerate(counts):
        order = torch.argsort(family[:, position])
        row = tables.row[numbers[order, position]]
        grouped = images.index_select(0, order)
        start = count[0]
        for (_, _, apply), table, n in zip(FAMILIES, tables.tables, count[1:], strict=True):
            if n:
                part = slice(start, start + n)
                grouped[part] = apply(grouped[part], table[row[part]])
                start += n
        images = grouped.index_select(0, torch.argsort(order))
    return images
