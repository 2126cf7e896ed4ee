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

from fsbench.data.augment.color_ops import blend_factors, color, contrast, sharpness
from fsbench.data.augment.geometric_ops import GEOMETRIC, move, source_pixels
from fsbench.data.augment.pointwise_ops import POINTWISE, level_table, map_levels
from fsbench.data.overlap import sent

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
    """How many images each family gets, turn by turn; and index vectors, int64 (2 n + 1, B).

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
