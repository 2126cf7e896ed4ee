"""Options of the data sets (`dataset=`): which images, how many of them, with which labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fsbench.config.options import AbsolutePath, Options, Pixels

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Mean = float
Std = Annotated[float, Field(gt=0)]

STREAMED = ("imagenet", "stanford_cars", "flowers102")


class DatasetOptions(Options):
    """One data set and what is done to its training split, in this order:

    the validation split is set aside, the subset is drawn, labels are changed (noise or random_labels),
    the confusion set joins. Validation and test labels are never changed. Definitions: kim2022 (noise),
    ibayashi2021 and tsuzuku2019 (random_labels), jia2020 (validation, subset, confusion).
    """

    name: Literal[
        "digits",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "svhn",
        "imagenet",
        "stanford_cars",
        "flowers102",
        "folder",
    ]
    # What tables and captions call it; null: the folder's name, or `name`.
    label: Annotated[str, Field(min_length=1)] | None = None
    # Per channel, of pixels in [0, 1]; null: those of the training images (ImageNet's where images are streamed).
    mean: Annotated[list[Mean], Field(min_length=1)] | None = None
    std: Annotated[list[Std], Field(min_length=1)] | None = None
    # Side of the square the network sees; null: the images' own size.
    image_size: Pixels | None = None
    # The directory with train/<class>/ and test/<class>/ (folder only). EXIF does not turn images.
    root: AbsolutePath | None = None
    validation: Count = 0
    subset: Annotated[int, Field(ge=1)] | None = None
    noise: Share = 0.0
    noise_includes_self: bool = False
    random_labels: Share = 0.0
    permute_labels: bool = False
    confusion: Count = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    # Folder only: keep the images in memory as uint8, or decode them anew in every epoch; null: decide.
    in_memory: bool | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> DatasetOptions:
        if self.noise > 0 and self.random_labels > 0:
            raise ValueError(
                f"dataset.random_labels={self.random_labels}: cannot be combined with dataset.noise={self.noise}; "
                "one of the two must be 0"
            )
        if self.confusion > 0 and self.subset is None:
            raise ValueError(
                f"dataset.confusion={self.confusion}: needs dataset.subset, because the confusion set is drawn from "
                "the training images outside the subset"
            )
        if self.name == "folder" and self.root is None:
            raise ValueError(
                "dataset.root=null: dataset=folder needs the directory that holds train/<class>/ and test/<class>/"
            )
        if self.name != "folder" and self.root is not None:
            raise ValueError(
                f"dataset.root={self.root}: only dataset=folder has a root; dataset={self.name} lies under data_dir"
            )
        if self.name != "folder" and self.in_memory is not None:
            raise ValueError(
                f"dataset.in_memory={str(self.in_memory).lower()}: must be null with dataset={self.name}; "
                "only dataset=folder can choose"
            )
        if self.name in STREAMED and self.image_size is None:
            raise ValueError(
                f"dataset.image_size=null: must be a number of pixels, such as 224, because the images of "
                f"{self.name} differ in size"
            )
        if (self.mean is None) != (self.std is None):
            key, other = ("mean", "std") if self.mean is None else ("std", "mean")
            raise ValueError(f"dataset.{key}=null: give both dataset.mean and dataset.std, or neither ({other} is set)")
        if self.mean is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"dataset.std={self.std}: has {len(self.std)} numbers but dataset.mean has {len(self.mean)}; "
                "both need one per channel"
            )
        return self
