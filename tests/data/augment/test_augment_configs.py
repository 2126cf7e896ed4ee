"""The yaml files of the `augment` group."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError

from fsbench.config.augment import AugmentOptions, StandardAugment
from fsbench.data.augment import batch_augment, eval_transform, image_transform

CONF = Path(__file__).parents[3] / "conf" / "augment"
# fmt: off
EXPECTED = {
    "none": {},
    "flip": {"flip": True},
    "crop1_flip": {"flip": True, "crop": 1},
    "crop4_flip": {"flip": True, "crop": 4},
    "autoaugment_cutout": {
        "flip": True, "crop": 4, "padding": "reflect", "autoaugment": "cifar10", "autoaugment_first": True,
        "cutout": 16,
    },
    "imagenet": {"flip": True, "random_resized_crop": True, "resize": 256},
    "imagenet128": {"flip": True, "resize": 128, "size": 114, "color_jitter": 0.4},
}
# fmt: on


def test_every_file_is_expected():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_file_holds_every_key_and_loads(name):
    path = CONF / f"{name}.yaml"
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert list(values) == [key for key in AugmentOptions.model_fields if key != "name"]
    options = AugmentOptions.model_validate(values)
    assert options == StandardAugment(**EXPECTED[name])
    mean = std = (0.5, 0.5, 0.5)
    if not name.startswith("imagenet"):
        batch_augment(options, mean, std)
    image_transform(options, mean, std, 224 if name == "imagenet" else 128)
    eval_transform(options, mean, std, 224 if name == "imagenet" else 128)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop", -1),
        ("crop", 1.5),
        ("cutout", -1),
        ("autoaugment", "mnist"),
        ("flip", 1),
        ("resize", 0),
        ("flop", True),
        ("padding", "edge"),
    ],
)
def test_bad_values_are_refused(key, value):
    with pytest.raises(ValidationError):
        StandardAugment(**{key: value})
