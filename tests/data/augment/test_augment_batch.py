"""The batched path: what goes in, what comes out, what is refused."""

from __future__ import annotations

import pytest
import torch
from pretended_gpu import PretendedGPU
from torchvision.transforms.v2 import functional as tv
from torchvision_steps import ROUNDED, torchvision

from fsbench.config.augment import StandardAugment
from fsbench.data.augment import batch_augment, normalize
from fsbench.data.augment.autoaugment import draw, plan
from fsbench.data.augment.batch import _moments
from fsbench.errors import UsageError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
KIM = {
    "flip": True, "crop": 4, "padding": "reflect", "autoaugment": "cifar10", "autoaugment_first": True, "cutout": 16,
}  # fmt: skip
FULL = StandardAugment(flip=True, crop=4, autoaugment="cifar10", cutout=16)
SHAPES = [(6, 3, 32, 32), (6, 1, 28, 28), (5, 3, 9, 40), (4, 1, 8, 8), (1, 3, 1, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@shapes
def test_none_is_normalisation_exactly(shape):
    images, mean, std = noise(*shape), MEAN[: shape[1]], STD[: shape[1]]
    found = batch_augment(StandardAugment(), mean, std)(images, torch.Generator())
    assert found.dtype == torch.float32
    assert torch.equal(found, normalize(images, mean, std))
    exact = (images.double() / 255 - torch.tensor(mean).double().view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", [False, True], ids=["after the crop", "before it"])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_autoaugment_before_or_after_flip_and_crop_is_torchvisions(padding, first):
    crop, side, batch = 2, 12, 60
    images = noise(batch, 3, side, side)
    options = StandardAugment(flip=True, crop=crop, padding=padding, autoaugment="svhn", autoaugment_first=first)
    found = batch_augment(options, MEAN, STD)(images, torch.Generator().manual_seed(3))

    draws = torch.Generator().manual_seed(3)
    if not first:
        torch.randint(2, (batch, 1), generator=draws), torch.randint(2 * crop + 1, (2, batch, 1), generator=draws)
    prepared = plan("svhn", side, side, torch.device("cpu"))
    exact = 0
    for image, pair, result in zip(images, draw(prepared, batch, draws).tolist(), found, strict=True):
        steps = [prepared.tables.steps[number - 1] for number in pair if number]
        if any(operation in ROUNDED for operation, _ in steps):
            continue

        def changed(image, steps=steps):
            for step in steps:
                image = torchvision(image, step)
            return image

        mode = "constant" if padding == "zeros" else padding
        places = [
            tv.crop(tv.pad(mirrored, [crop], padding_mode=mode), top, left, side, side)
            for mirrored in (lambda image: (image, image.flip(2)))(changed(image) if first else image)
            for top in range(2 * crop + 1)
            for left in range(2 * crop + 1)
        ]
        outcomes = normalize(torch.stack(places if first else [changed(place) for place in places]), MEAN, STD)
        assert (outcomes == result).flatten(1).all(1).any()
        exact += 1
    assert exact > 40


@shapes
def test_same_seed_same_batch_and_the_input_stays(shape):
    images, mean, std = noise(*shape), MEAN[: shape[1]], STD[: shape[1]]
    before, state = images.clone(), torch.get_rng_state()
    options = FULL.model_copy(update={"cutout": min(FULL.cutout, shape[2] // 2)})
    augment = batch_augment(options, mean, std)
    first, again, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    if shape[0] > 1:
        assert not torch.equal(first, other)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state), "draws from the global generator"


@pytest.mark.parametrize(
    "options",
    [
        StandardAugment(flip=True),
        StandardAugment(crop=4),
        StandardAugment(cutout=16),
        StandardAugment(autoaugment="cifar10"),
        StandardAugment(autoaugment="svhn"),
        StandardAugment(autoaugment="imagenet"),
    ],
    ids=["flip", "crop", "cutout", "cifar10", "svhn", "imagenet"],
)
def test_each_image_has_a_draw_of_its_own(options):
    images = noise(1, 3, 32, 32).expand(64, -1, -1, -1)
    found = batch_augment(options, MEAN, STD)(images, torch.Generator().manual_seed(0))
    different = len({image.numpy().tobytes() for image in found})
    assert different == 2 if options == StandardAugment(flip=True) else different > 20


def test_the_hole_is_the_mean_and_comes_last():
    images = torch.full((32, 3, 32, 32), 255, dtype=torch.uint8)
    found = batch_augment(StandardAugment(cutout=16, autoaugment="svhn"), MEAN, STD)
    zero = found(images, torch.Generator().manual_seed(0)).eq(0)
    assert zero.all(1).flatten(1).sum(1).min() >= 8 * 8
    assert zero.all(1).flatten(1).sum(1).max() <= 16 * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_resized_crop": True}, "augment.random_resized_crop=True: works on data sets that are streamed"),
        ({"resize": 128}, "augment.resize=128: works on data sets that are streamed from image files only"),
        ({"size": 114}, "augment.size=114: works on data sets that are streamed from image files only"),
        ({"color_jitter": 0.4}, "augment.color_jitter=0.4: works on data sets that are streamed from image files only"),
    ],
    ids=["random_resized_crop", "resize", "size", "color_jitter"],
)
def test_options_for_image_files_are_refused(options, message):
    with pytest.raises(UsageError) as error:
        batch_augment(StandardAugment(**options), MEAN, STD)
    assert str(error.value).startswith(message)


def test_autoaugment_needs_grey_or_rgb():
    with pytest.raises(UsageError, match=r"augment\.autoaugment=svhn: needs 1 or 3 channels, not 4"):
        batch_augment(StandardAugment(autoaugment="svhn"), (0.5,) * 4, (0.5,) * 4)


def test_a_hole_larger_than_the_images_is_refused():
    message = r"augment\.cutout=16: must be at most 8, the side of the images"
    options = StandardAugment(cutout=16)
    with pytest.raises(UsageError, match=message):
        batch_augment(options, MEAN, STD, size=8)
    with pytest.raises(UsageError, match=message):
        batch_augment(options, MEAN, STD)(noise(2, 3, 8, 9), torch.Generator())
    batch_augment(options, MEAN, STD, size=16)(noise(2, 3, 16, 17), torch.Generator())


def test_a_reflection_larger_than_the_images_is_refused():
    message = r"augment\.crop=8: must be at most 7 to pad these images by reflection"
    options = StandardAugment(crop=8, padding="reflect")
    with pytest.raises(UsageError, match=message):
        batch_augment(options, MEAN, STD, size=8)
    with pytest.raises(UsageError, match=message):
        batch_augment(options, MEAN, STD)(noise(2, 3, 8, 9), torch.Generator())
    batch_augment(options.model_copy(update={"crop": 7}), MEAN, STD, size=8)(noise(2, 3, 8, 9), torch.Generator())


# launches for 128 images of CIFAR-10; before the draws were the host's they were 244 with everything
OPTIONS = {
    "none": ({}, 4),
    "flip": ({"flip": True}, 8),
    "crop": ({"flip": True, "crop": 4}, 9),
    "reflected": ({"flip": True, "crop": 4, "padding": "reflect"}, 8),
    "cutout": ({"cutout": 16}, 7),
    "imagenet": ({"autoaugment": "imagenet"}, 175),
    "svhn": ({"autoaugment": "svhn"}, 175),
    "all": ({"flip": True, "crop": 4, "autoaugment": "cifar10", "cutout": 16}, 175),
    "kim2022": (KIM, 175),
}


@pytest.mark.parametrize(("options", "most"), OPTIONS.values(), ids=OPTIONS)
def test_the_host_waits_for_nothing_on_a_gpu(options, most):
    augment = batch_augment(StandardAugment(**options), MEAN, STD)
    with PretendedGPU() as gpu:
        images = torch.empty(128, 3, 32, 32, dtype=torch.uint8, device="cuda")
        augment(images, torch.Generator().manual_seed(0))  # tables are made once
        gpu.looks.clear(), gpu.launches.clear()
        found = augment(images, torch.Generator().manual_seed(1))
        assert (found.device.type, found.dtype, found.shape) == ("cuda", torch.float32, images.shape)
    _moments.cache_clear(), plan.cache_clear()
    assert gpu.looks == []
    assert gpu.launches.total() <= most


def test_only_uint8_and_float_are_taken():
    with pytest.raises(TypeError, match=r"images must be uint8 or float, not torch\.int64"):
        normalize(torch.zeros(1, 3, 4, 4, dtype=torch.int64), MEAN, STD)


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    images = noise(256, 3, 32, 32)
    for options in (FULL, StandardAugment(**KIM)):
        augment = batch_augment(options, MEAN, STD)
        expected, first, again = (
            augment(where, torch.Generator().manual_seed(5)) for where in (images, images.cuda(), images.cuda())
        )
        assert first.is_cuda
        assert torch.equal(first, again)
        # a level more or less where a blend is rounded, which a second operation may enlarge
        assert ((first.cpu() - expected).abs() > 1e-5).float().mean() < 0.01


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_a_batch_is_made_without_a_look_at_the_gpu():
    images = noise(128, 3, 32, 32).cuda()
    augment = batch_augment(FULL, MEAN, STD)
    augment(images, torch.Generator().manual_seed(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images, torch.Generator().manual_seed(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
