"""The per-image path: sizes, crops, evaluation, what is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image
from torchvision.transforms import AutoAugmentPolicy, v2
from torchvision.transforms.v2 import functional as tv

from fsbench.config.augment import StandardAugment
from fsbench.data.augment import batch_augment, eval_transform, image_transform, normalize
from fsbench.errors import UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = StandardAugment(flip=True, random_resized_crop=True, resize=256)
IMAGENET128 = StandardAugment(flip=True, resize=128, size=114, color_jitter=0.4)


def photo(width: int = 150, height: int = 100, mode: str = "RGB") -> Image.Image:
    image = torch.randint(0, 256, (3, height // 10, width // 10), generator=torch.Generator().manual_seed(0))
    return tv.to_pil_image(image.to(torch.uint8)).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def seeded(transform, image, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)


@pytest.mark.parametrize(
    ("options", "size", "shape"),
    [
        (StandardAugment(), None, (3, 100, 150)),
        (StandardAugment(), 32, (3, 32, 32)),
        (StandardAugment(flip=True, crop=4, autoaugment="imagenet", cutout=16), None, (3, 100, 150)),
        (StandardAugment(flip=True, crop=4, autoaugment="cifar10", cutout=16), 64, (3, 64, 64)),
        (IMAGENET, 224, (3, 224, 224)),
        (IMAGENET128, 128, (3, 114, 114)),
    ],
    ids=["own-size", "resized", "all-own-size", "all-resized", "imagenet", "imagenet128"],
)
def test_training_and_evaluation_give_the_same_shape(options, size, shape):
    for build in (image_transform, eval_transform):
        transform = pickle.loads(pickle.dumps(build(options, MEAN, STD, size)))
        found = transform(photo())
        assert type(found) is torch.Tensor
        assert found.dtype == torch.float32
        assert found.shape == shape
    assert options.image_size(size) == (None if size is None else shape[1])


def test_none_equals_the_batched_path_bit_for_bit():
    image = photo()
    batched = batch_augment(StandardAugment(), MEAN, STD)(tv.pil_to_tensor(image)[None], torch.Generator())[0]
    for build in (image_transform, eval_transform):
        assert torch.equal(build(StandardAugment(), MEAN, STD, None)(image), batched)


@pytest.mark.parametrize(
    ("options", "size", "geometry"),
    [
        (IMAGENET, 224, [v2.Resize(256), v2.CenterCrop(224)]),
        (IMAGENET128, 128, [v2.Resize((128, 128)), v2.CenterCrop(114)]),
        (StandardAugment(flip=True, crop=4, cutout=8), 40, [v2.Resize((40, 40))]),
    ],
    ids=["imagenet", "imagenet128", "flip-crop"],
)
def test_evaluation_is_the_resized_centre(options, size, geometry):
    expected = v2.Compose([*geometry, v2.PILToTensor()])(photo())
    assert torch.equal(eval_transform(options, MEAN, STD, size)(photo()), normalize(expected, MEAN, STD))


def test_imagenet128_crops_and_flips_the_resized_image():
    plain = IMAGENET128.model_copy(update={"color_jitter": 0.0})
    transform = image_transform(plain, MEAN, STD, 128)
    whole = normalize(tv.pil_to_tensor(photo().resize((128, 128), Image.Resampling.BILINEAR)), MEAN, STD)
    places = whole.unfold(1, 114, 1).unfold(2, 114, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    seen = set()
    for seed in range(40):
        found = seeded(transform, photo(), seed)
        at = [
            (flipped, place)
            for flipped, view in enumerate((found, found.flip(2)))
            for place in (places[:, :, 0, 0] == view[:, 0, 0]).all(1).nonzero().flatten().tolist()
            if torch.equal(places[place], view)
        ]
        assert len(at) == 1
        seen.add(at[0])
    assert {flipped for flipped, _ in seen} == {0, 1}
    assert len({place for _, place in seen}) > 25


def test_jitter_follows_torchvision_and_the_seed():
    options = StandardAugment(color_jitter=0.4)
    reference = v2.Compose([v2.PILToTensor(), v2.ColorJitter(0.4, 0.4, 0.4)])
    transform = image_transform(options, MEAN, STD, None)
    found = seeded(transform, photo(), 3)
    assert torch.equal(found, normalize(seeded(reference, photo(), 3), MEAN, STD))
    assert not torch.equal(found, seeded(transform, photo(), 4))


@pytest.mark.parametrize("first", [False, True], ids=["after the crop", "before it"])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_the_order_is_the_one_asked_for(padding, first):
    options = StandardAugment(flip=True, crop=9, padding=padding, autoaugment="cifar10", autoaugment_first=first)
    mode = "constant" if padding == "zeros" else padding
    moved = [v2.RandomHorizontalFlip(), v2.RandomCrop((100, 150), padding=9, padding_mode=mode)]
    changed = [v2.AutoAugment(AutoAugmentPolicy.CIFAR10)]
    reference = v2.Compose([v2.PILToTensor(), *(changed + moved if first else moved + changed)])
    transform = image_transform(options, MEAN, STD, None)
    for seed in range(10):
        assert torch.equal(seeded(transform, photo(), seed), normalize(seeded(reference, photo(), seed), MEAN, STD))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_converted_to_the_channels_of_the_mean(mode, channels):
    found = image_transform(StandardAugment(), MEAN[:channels], STD[:channels], None)(photo(mode=mode))
    assert found.shape == (channels, 100, 150)


@pytest.mark.parametrize("build", [image_transform, eval_transform], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"random_resized_crop": True}, None, "augment.random_resized_crop=True: needs augment.size"),
        ({"resize": 128}, None, "augment.resize=128: needs augment.size"),
        ({"resize": 100}, 114, "augment.resize=100: must be at least 114, the side of the crop"),
        ({"resize": 100, "random_resized_crop": True}, 224, "augment.resize=100: must be at least 224"),
        ({"cutout": 16}, 8, "augment.cutout=16: must be at most 8, the side of the images"),
        ({"crop": 8, "padding": "reflect"}, 8, "augment.crop=8: must be at most 7 to pad these images by reflection"),
    ],
    ids=["no-size-rrc", "no-size-resize", "small-resize", "small-resize-rrc", "large-hole", "large-reflection"],
)
def test_sizes_that_do_not_fit_are_refused(build, options, size, message):
    with pytest.raises(UsageError) as error:
        build(StandardAugment(**options), MEAN, STD, size)
    assert str(error.value).startswith(message)
