"""The batched and the per-image path draw from one distribution: exact enumerations, and means over many draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from chi_square import excess
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, v2
from torchvision.transforms.v2 import functional as tv

from fsbench.config.augment import AugmentOptions, StandardAugment
from fsbench.data.augment import batch_augment, image_transform
from fsbench.data.augment.autoaugment import SIGNED, draw, magnitude, plan, sub_policies

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CPU = torch.device("cpu")


def both_paths(options: AugmentOptions, image: Tensor, draws: int) -> dict[str, Tensor]:
    """`draws` augmented copies of one uint8 image (C, H, W) by either path: float32 (draws, C, H, W)."""
    channels = len(image)
    many = image.expand(draws, -1, -1, -1)
    batched = batch_augment(options, MEAN[:channels], STD[:channels])(many, torch.Generator().manual_seed(1))
    one: Callable[[Image], Tensor] = image_transform(options, MEAN[:channels], STD[:channels], size=None)
    picture = tv.to_pil_image(image)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        single = torch.stack([one(picture) for _ in range(draws)])
    return {"batched": batched, "per image": single}


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images.contiguous()]


def numbered(channels: int, height: int, width: int) -> Tensor:
    """An image without two equal pixels and without symmetry."""
    return torch.arange(1, channels * height * width + 1, dtype=torch.uint8).view(channels, height, width)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("crop", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 3), (3, 3, 5)], ids=["grey", "colour"])
def test_flips_and_crops_are_uniform_over_all_places(shape, flip, crop, padding):
    image = numbered(*shape)
    options = StandardAugment(flip=flip, crop=crop, padding=padding)
    mode = "constant" if padding == "zeros" else padding
    normal = batch_augment(StandardAugment(), MEAN[: shape[0]], STD[: shape[0]])
    outcomes = [
        tv.crop(tv.pad(mirrored, [crop], padding_mode=mode), top, left, *shape[1:])
        for mirrored in ([image, tv.horizontal_flip(image)] if flip else [image])
        for top in range(2 * crop + 1)
        for left in range(2 * crop + 1)
    ]
    places = keys(normal(torch.stack(outcomes), torch.Generator()))
    assert padding == "reflect" or len(set(places)) == len(places)
    probability = {place: places.count(place) / len(places) for place in places}
    for name, images in both_paths(options, image, 1500).items():
        if len(probability) == 1:
            assert set(keys(images)) == set(places), name
        else:
            assert excess(keys(images), probability) < 4, name


@pytest.mark.parametrize("side", [1, 3, 4, 5])
def test_cutout_centres_are_uniform_and_the_hole_is_clipped(side):
    height, width = 7, 5
    image = torch.full((3, height, width), 255, dtype=torch.uint8)
    whole = batch_augment(StandardAugment(), MEAN, STD)(image[None], torch.Generator())[0]
    probability: dict[bytes, float] = {}
    for y in range(height):
        for x in range(width):
            hole = whole.clone()
            top, left = y - side // 2, x - side // 2
            hole[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
            [key] = keys(hole[None])
            probability[key] = probability.get(key, 0.0) + 1 / (height * width)
    for name, images in both_paths(StandardAugment(cutout=side), image, 2000).items():
        assert excess(keys(images + 0.0), probability) < 4, name  # + 0.0: -0 is 0


class Recorder(v2.AutoAugment):
    """torchvision's AutoAugment, which notes its steps rather than applying them."""

    def _apply_image_or_video_transform(self, image, transform_id, magnitude, interpolation, fill):
        self.noted.append((transform_id, magnitude))
        return image


def torchvision_draws(policy: str, draws: int, height: int, width: int) -> list[tuple]:
    recorder, image, found = Recorder(AutoAugmentPolicy(policy)), torch.zeros(3, height, width, dtype=torch.uint8), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for _ in range(draws):
            recorder.noted = []
            recorder(image)
            found.append(tuple(recorder.noted))
    return found


def exact_draws(policy: str, height: int, width: int) -> dict[tuple, float]:
    """The probability of each sequence of applied (operation, signed magnitude)."""
    probability: dict[tuple, float] = {}
    for sub_policy in sub_policies(policy):
        sequences = {(): 1 / 25}
        for operation, chance, level in sub_policy:
            size = magnitude(operation, level, height, width)
            signs = (-1, 1) if operation in SIGNED else (1,)
            longer: dict[tuple, float] = {}
            for sequence, p in sequences.items():
                longer[sequence] = longer.get(sequence, 0) + p * (1 - chance)
                for sign in signs:
                    key = (*sequence, (operation, sign * size))
                    longer[key] = longer.get(key, 0) + p * chance / len(signs)
            sequences = longer
        for sequence, p in sequences.items():
            if p > 0:
                probability[sequence] = probability.get(sequence, 0) + p
    return probability


@pytest.mark.parametrize("policy", ["cifar10", "svhn", "imagenet"])
def test_sub_policies_signs_and_chances_are_drawn_as_published(policy):
    exact = exact_draws(policy, 32, 28)
    prepared = plan(policy, 32, 28, CPU)
    drawn = draw(prepared, 40000, torch.Generator().manual_seed(4)).tolist()
    steps = prepared.tables.steps
    assert abs(excess([tuple(steps[n - 1] for n in pair if n) for pair in drawn], exact)) < 4
    assert abs(excess(torchvision_draws(policy, 6000, 32, 28), exact)) < 4


@pytest.mark.parametrize(
    "options",
    [
        StandardAugment(autoaugment="cifar10"),
        StandardAugment(autoaugment="svhn"),
        StandardAugment(flip=True, crop=4, autoaugment="cifar10", cutout=16),
        StandardAugment(flip=True, crop=4, padding="reflect", autoaugment="cifar10", autoaugment_first=True, cutout=16),
    ],
    ids=["cifar10", "svhn", "flip-crop-cifar10-cutout", "kim2022"],
)
def test_mean_images_agree_within_standard_errors(options):
    height = width = 24
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    image = torch.stack((200 * y, 40 + 150 * x, 120 + 60 * torch.sin(9 * x * y))).to(torch.uint8)
    draws = 1500
    paths = both_paths(options, image, draws)
    for moment in (1, 2):
        batched, single = (images.double() ** moment for images in paths.values())
        error = ((batched.var(0) + single.var(0)) / draws).sqrt()
        z = (batched.mean(0) - single.mean(0)) / error
        # 1728 correlated pixels; |z| > 4.5 has probability 7e-6 for one
        assert z.abs().max() < 4.5
        assert z.square().mean() < 2.5
