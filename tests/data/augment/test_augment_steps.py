"""Every AutoAugment operation against torchvision's on single images; the grouping of a batch against one by one."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, v2
from torchvision_steps import ROUNDED, torchvision

from fsbench.data.augment.autoaugment import LEVELS, SIGNED, magnitude, plan, sub_policies
from fsbench.data.augment.steps import FAMILIES, Step, apply_in_turn, tabulate

CPU = torch.device("cpu")
OPERATIONS = sorted(operation for family in FAMILIES for operation in family.operations)
WITHOUT_MAGNITUDE = {"AutoContrast", "Equalize", "Invert"}
SIZES = [(32, 32), (28, 28), (17, 33), (2, 5)]


def hard_images(channels: int, height: int, width: int) -> Tensor:
    """Noise, grey, constant, black, white, low contrast, and a two-level image; uint8 (7, C, H, W)."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (7, channels, height, width), generator=generator).to(torch.uint8)
    images[1] = images[1, :1]
    images[2], images[3], images[4] = 77, 0, 255
    images[5] = images[5] // 8 + 100
    images[6] = images[6] // 128 * 200
    return images


def all_steps(operation: str, height: int, width: int) -> list[Step]:
    if operation in WITHOUT_MAGNITUDE:
        return [(operation, 0.0)]
    sizes = [magnitude(operation, level, height, width) for level in range(LEVELS)]
    return [(operation, sign * size) for size in sizes for sign in ((-1, 1) if operation in SIGNED else (1,))]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_step_is_torchvisions_at_every_magnitude_and_sign(operation, channels, size):
    images = hard_images(channels, *size)
    steps = all_steps(operation, *size)
    tables = tabulate(steps, *size, CPU)
    expected = torch.stack([torchvision(image, step) for step in steps for image in images])
    numbers = torch.arange(1, len(steps) + 1).repeat_interleave(len(images))
    found = apply_in_turn(images.repeat(len(steps), 1, 1, 1), numbers[:, None], tables)
    assert found.dtype == torch.uint8
    if operation in ROUNDED:
        difference = (found.int() - expected.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.02
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mixed_batch_gets_each_images_own_steps_in_turn(channels):
    height, width = 32, 24
    steps = [step for operation in OPERATIONS for step in all_steps(operation, height, width)[::3]]
    tables = tabulate(steps, height, width, CPU)
    draw = random.Random(0)
    numbers = [[draw.randrange(len(steps) + 1) for _ in range(2)] for _ in range(300)]
    images = hard_images(channels, height, width)[[draw.randrange(7) for _ in numbers]]
    before = images.clone()
    found = apply_in_turn(images, torch.tensor(numbers), tables)
    off = 0.0
    for image, pair, result in zip(images, numbers, found, strict=True):
        expected, rounded = image, False
        for number in pair:
            if number:
                expected = torchvision(expected, steps[number - 1])
                rounded |= steps[number - 1][0] in ROUNDED
        if rounded:  # a second operation, such as Solarize or Equalize, may enlarge a level of difference
            off = max(off, (result != expected).float().mean().item())
        else:
            assert torch.equal(result, expected)
    assert off < 0.05
    assert torch.equal(images, before)


def test_an_empty_batch_stays_empty():
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert apply_in_turn(empty, torch.zeros(0, 2, dtype=torch.int64), tabulate([], 8, 8, CPU)).shape == empty.shape


@pytest.mark.parametrize("size", [(32, 32), (28, 20), (224, 224)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - WITHOUT_MAGNITUDE))
def test_magnitudes_are_torchvisions(operation, size):
    levels, signed = v2.AutoAugment._AUGMENTATION_SPACE[operation]
    assert [magnitude(operation, level, *size) for level in range(LEVELS)] == levels(LEVELS, *size).tolist()
    assert signed == (operation in SIGNED)


@pytest.mark.parametrize(
    ("policy", "first", "last"),
    [  # Cubuk et al. 2019, appendix A, tables 7 to 9: their levels; torchvision's are one less on a scale from 0
        (
            "cifar10",
            (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
            (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
        ),
        ("svhn", (("ShearX", 0.9, 4), ("Invert", 0.2, None)), (("ShearX", 0.7, 2), ("Invert", 0.1, None))),
        ("imagenet", (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)), (("Equalize", 0.8, None), ("Equalize", 0.6, None))),
    ],
    ids=["cifar10", "svhn", "imagenet"],
)
def test_policies_have_25_sub_policies_of_two(policy, first, last):
    table = sub_policies(policy)
    assert len(table) == 25
    assert (table[0], table[-1]) == (first, last)
    assert table == v2.AutoAugment(AutoAugmentPolicy(policy))._policies
    prepared = plan(policy, 32, 32, CPU)
    assert prepared.chance.shape == (25, 2)
    assert prepared.number.shape == (25, 2, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["cifar10", "svhn", "imagenet"])
def test_steps_on_a_gpu_are_those_on_the_cpu(policy):
    images = hard_images(3, 32, 32)
    on_cpu, on_gpu = (plan(policy, 32, 32, torch.device(kind)).tables for kind in ("cpu", "cuda:0"))
    number = torch.arange(1, len(on_cpu.steps) + 1).repeat_interleave(len(images))[:, None]
    images = images.repeat(len(on_cpu.steps), 1, 1, 1)
    expected = apply_in_turn(images, number, on_cpu).int()
    found = apply_in_turn(images.cuda(), number, on_gpu).cpu().int()
    assert (found - expected).abs().max() <= 1
    assert (found != expected).float().mean() < 0.001
