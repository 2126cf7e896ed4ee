"""Options of data sets and their yaml files."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError

from fsbench.config.dataset import DatasetOptions, Digits
from fsbench.data import load_data

CONF = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = [
    "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "imagenet", "imagenet128", "stanford_cars",
    "flowers102", "folder",
]  # fmt: skip


def test_there_is_a_file_for_each():
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_yaml_names_every_key_and_is_valid(name):
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    values = OmegaConf.to_container(OmegaConf.create({"seed": 7, "dataset": OmegaConf.create(text)}), resolve=True)
    dataset = values["dataset"]
    dataset.pop("defaults", None)
    assert set(dataset) == set(DatasetOptions.model_fields)
    if name == "folder":
        dataset["root"] = "images"
    options = DatasetOptions.model_validate(dataset)
    assert options.seed == 7
    assert options.name == name.removesuffix("128")


def test_digits_moments_are_those_of_its_training_images(tmp_path):
    computed = load_data(Digits(), tmp_path)
    values = OmegaConf.load(CONF / "digits.yaml")
    assert list(values["mean"]) == pytest.approx(computed.mean, abs=5e-5)
    assert list(values["std"]) == pytest.approx(computed.std, abs=5e-5)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"noise": 0.2, "random_labels": 0.1}, "dataset.random_labels=0.1: cannot be combined with dataset.noise=0.2"),
        ({"confusion": 5}, "dataset.confusion=5: needs dataset.subset"),
        ({"name": "folder"}, "dataset.root=null: dataset=folder needs the directory"),
        ({"root": "/x"}, "dataset.root=/x: only dataset=folder has a root; dataset=digits lies under data_dir"),
        ({"in_memory": False}, "dataset.in_memory=false: must be null with dataset=digits"),
        ({"name": "flowers102"}, "dataset.image_size=null: must be a number of pixels"),
        ({"mean": [0.5]}, "dataset.std=null: give both"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "dataset.std=[0.5, 0.5]: has 2 numbers but dataset.mean has 1"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_go_together(values, problem):
    with pytest.raises(ValidationError) as caught:
        DatasetOptions.model_validate({"name": "digits", **values})
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"noise": 1.1}, {"noise": -0.1}, {"noise": float("nan")}, {"random_labels": 2}, {"std": [0.0], "mean": [0.0]},
        {"validation": -1}, {"subset": 0}, {"confusion": -1}, {"seed": -1}, {"image_size": 0}, {"name": "cifar"},
        {"noise": "much"}, {"subset": 2.5}, {"nose": 0.1}, {"label": ""},
    ],
    ids=str,
)  # fmt: skip
def test_values_out_of_range(values):
    with pytest.raises(ValidationError):
        DatasetOptions.model_validate({"name": "digits", **values})
