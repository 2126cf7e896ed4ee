"""AutoAugment on a batch: every image draws a sub-policy of its own."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from fsbench.data.augment.steps import StepTables, apply_in_turn, tabulate

LEVELS = 10
SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)
"""Operations whose magnitude is taken with either sign, each with probability 1/2."""


def magnitude(operation: str, level: int | None, height: int, width: int) -> float:
    """The magnitude of `operation` at `level`, 0 to 9, on an image of height x width pixels, as torchvision has it.

    Slope of a shear; pixels of a translation (150 of 331 at most); degrees of a rotation; f of the colour factor
    1 + f; bits kept by Posterize; threshold of Solarize relative to white. Operations without magnitude have
    level None and magnitude 0. (Cubuk et al. 2019, appendix A, table 6, with torchvision's ranges.)
    """
    if level is None:
        return 0.0
    if operation == "Posterize":
        return float(8 - round(level * 4 / (LEVELS - 1)))
    first, last = {
        "ShearX": (0.0, 0.3),
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, 150 / 331 * width),
        "TranslateY": (0.0, 150 / 331 * height),
        "Rotate": (0.0, 30.0),
        "Brightness": (0.0, 0.9),
        "Color": (0.0, 0.9),
        "Contrast": (0.0, 0.9),
        "Sharpness": (0.0, 0.9),
        "Solarize": (1.0, 0.0),
    }[operation]
    # float32, as there: int() of a translation and the threshold of Solarize depend on the last digit
    return float(torch.linspace(first, last, LEVELS, device="cpu")[level])


def autoaugment(images: Tensor, policy: str, generator: torch.Generator | None) -> Tensor:
    """Apply a sub-policy of `policy` ("cifar10", "svhn" or "imagenet") to each of the images, uint8 (B, 1 or 3, H, W).

    The operations are those of torchvision's `v2.AutoAugment` on uint8 tensors (nearest neighbour, black outside),
    and so is the distribution; `generator` is one of the CPU. Returns a new tensor; the host does not wait for the
    device. (Cubuk et al. 2019, section 3 and appendix A.)
    """
    prepared = plan(policy, *images.shape[2:], images.device)
    return apply_in_turn(images, draw(prepared, len(images), generator), prepared.tables)


class Plan(NamedTuple):
    """A policy for one size of image; P sub-policies of two operations each, on the CPU."""

    chance: Tensor
    """float32 (P, 2): with what probability an operation is applied."""
    number: Tensor
    """int64 (P, 2, 2): the number of its step, with negative and positive magnitude."""
    tables: StepTables


def draw(plan: Plan, batch: int, generator: torch.Generator | None) -> Tensor:
    """The numbers of each image's two steps, 0 where one is not applied: int64 (batch, 2).

    The sub-policy is uniform; whether an operation is applied and the sign of its magnitude are drawn for each
    operation by itself.
    """
    policy = torch.randint(len(plan.chance), (batch,), generator=generator)
    sign = torch.randint(2, (batch, 2, 1), generator=generator)
    applied = torch.rand(batch, 2, generator=generator) < plan.chance[policy]
    return plan.number[policy].gather(2, sign).squeeze(2) * applied


def sub_policies(policy: str) -> list[tuple[tuple[str, float, int | None], ...]]:
    """torchvision's table of a policy: sub-policies of two (operation, probability, level)."""
    return AutoAugment(AutoAugmentPolicy(policy)).policies


@functools.lru_cache(maxsize=32)
def plan(policy: str, height: int, width: int, device: torch.device) -> Plan:
    """Prepare `policy` for images of height x width pixels on `device`."""
    steps: dict[tuple[str, float], int] = {}
    chance: list[list[float]] = []
    number: list[list[list[int]]] = []
    for sub_policy in sub_policies(policy):
        chance.append([probability for _, probability, _ in sub_policy])
        number.append([])
        for operation, _, level in sub_policy:
            size = magnitude(operation, level, height, width)
            signed = (-size, size) if operation in SIGNED else (size, size)
            number[-1].append([steps.setdefault((operation, each), 1 + len(steps)) for each in signed])
    return Plan(torch.tensor(chance), torch.tensor(number), tabulate(steps, height, width, device))
