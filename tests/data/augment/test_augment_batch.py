"""The batched path: what goes in, what comes out, what is refused."""

from __future__ import annotations

import pytest
import torch

from fsbench.config.augment import AugmentOptions
from fsbench.data.augment import batch_augment, normalize
from fsbench.errors import UsageError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
FULL = AugmentOptions(flip=True, crop=4, autoaugment="cifar10", cutout=16)
SHAPES = [(6, 3, 32, 32), (6, 1, 28, 28), (5, 3, 9, 40), (4, 1, 8, 8), (1, 3, 1, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@shapes
def test_none_is_normalisation_exactly(shape):
    images, mean, std = noise(*shape), MEAN[: shape[1]], STD[: shape[1]]
    found = batch_augment(AugmentOptions(), mean, std)(images, torch.Generator())
    assert found.dtype == torch.float32
    assert torch.equal(found, normalize(images, mean, std))
    exact = (images.double() / 255 - torch.tensor(mean).double().view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=1e-6)


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
        AugmentOptions(flip=True),
        AugmentOptions(crop=4),
        AugmentOptions(cutout=16),
        AugmentOptions(autoaugment="cifar10"),
        AugmentOptions(autoaugment="svhn"),
        AugmentOptions(autoaugment="imagenet"),
    ],
    ids=["flip", "crop", "cutout", "cifar10", "svhn", "imagenet"],
)
def test_each_image_has_a_draw_of_its_own(options):
    images = noise(1, 3, 32, 32).expand(64, -1, -1, -1)
    found = batch_augment(options, MEAN, STD)(images, torch.Generator().manual_seed(0))
    different = len({image.numpy().tobytes() for image in found})
    assert different == 2 if options == AugmentOptions(flip=True) else different > 20


def test_the_hole_is_the_mean_and_comes_last():
    images = torch.full((32, 3, 32, 32), 255, dtype=torch.uint8)
    found = batch_augment(AugmentOptions(cutout=16, autoaugment="svhn"), MEAN, STD)
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
        batch_augment(AugmentOptions(**options), MEAN, STD)
    assert str(error.value).startswith(message)


def test_autoaugment_needs_grey_or_rgb():
    with pytest.raises(UsageError, match=r"augment\.autoaugment=svhn: needs 1 or 3 channels, not 4"):
        batch_augment(AugmentOptions(autoaugment="svhn"), (0.5,) * 4, (0.5,) * 4)


def test_a_hole_larger_than_the_images_is_refused():
    message = r"augment\.cutout=16: must be at most 8, the side of the images"
    options = AugmentOptions(cutout=16)
    with pytest.raises(UsageError, match=message):
        batch_augment(options, MEAN, STD, size=8)
    with pytest.raises(UsageError, match=message):
        batch_augment(options, MEAN, STD)(noise(2, 3, 8, 9), torch.Generator())
    batch_augment(options, MEAN, STD, size=16)(noise(2, 3, 16, 17), torch.Generator())


def test_only_uint8_is_taken():
    with pytest.raises(TypeError, match=r"images must be uint8, not torch\.float32"):
        normalize(torch.zeros(1, 3, 4, 4), MEAN, STD)


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    images = noise(256, 3, 32, 32).cuda()
    augment = batch_augment(FULL, MEAN, STD)
    first, again = (augment(images, torch.Generator("cuda").manual_seed(5)) for _ in range(2))
    assert first.is_cuda
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()
