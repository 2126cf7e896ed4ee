"""Options of the data sets (`dataset=`): which images, how many of them, with which labels."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field, create_model, model_validator

from fsbench.config.component import Component
from fsbench.config.options import AbsolutePath, Pixels

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Mean = float
Std = Annotated[float, Field(gt=0)]


class ImageCounts(NamedTuple):
    """Images of the training and test splits as a data set comes, classes, and (C, H, W)."""

    train: int
    test: int
    classes: int
    shape: tuple[int, int, int]


class DatasetOptions(Component, group="dataset"):
    """A data set and what is done to its training split, in this order:

    the validation split is set aside, the subset is drawn, labels are changed (noise or random_labels),
    the confusion set joins. Validation and test labels are never changed. Definitions: kim2022 (noise),
    ibayashi2021 and tsuzuku2019 (random_labels), jia2020 (validation, subset, confusion).

    Attributes:
        counts: where they are known beforehand.
        streamed: whether its images, which differ in size, are decoded in every epoch; None: that depends on them.
    """

    node: ClassVar = {"defaults": [{"override /setup@_global_.setup": "standard"}, "_self_"], "seed": "${seed}"}
    counts: ClassVar[ImageCounts | None] = None
    streamed: ClassVar[bool | None] = False
    name: str
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
        if self.root is not None and not isinstance(self, Folder) and "root" not in self.own:
            raise ValueError(
                f"dataset.root={self.root}: only dataset=folder has a root; dataset={self.name} lies under data_dir"
            )
        if self.in_memory is not None and not isinstance(self, Folder):
            raise ValueError(
                f"dataset.in_memory={str(self.in_memory).lower()}: must be null with dataset={self.name}; "
                "only dataset=folder can choose"
            )
        if self.streamed and self.image_size is None:
            raise ValueError(
                f"dataset.image_size=null: must be a number of pixels, such as 224, because the images of "
                f"{self.name} differ in size"
            )
        if (self.mean is None) != (self.std is None):
            key, other = ("mean", "std") if self.mean is None else ("std", "mean")
            raise ValueError(f"dataset.{key}=null: give both dataset.mean and dataset.std, or neither ({other} is set)")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"dataset.std={self.std}: has {len(self.std)} numbers but dataset.mean has {len(self.mean)}; "
                "both need one per channel"
            )
        return self

    @property
    def in_files(self) -> bool:
        """True if images may be decoded in every epoch."""
        return self.streamed is True or (self.streamed is None and not self.in_memory)


class Digits(DatasetOptions, name="digits"):
    """scikit-learn's digits."""

    builder: ClassVar = "fsbench.data.digits:load_digits"
    counts: ClassVar = ImageCounts(1437, 360, 10, (1, 8, 8))


# Those of torchvision: name (of the builder too), title, whether images are streamed, and their counts.
_TORCHVISION: tuple[tuple[str, str, bool, ImageCounts], ...] = (
    ("mnist", "MNIST", False, ImageCounts(60_000, 10_000, 10, (1, 28, 28))),
    ("fashion_mnist", "Fashion-MNIST", False, ImageCounts(60_000, 10_000, 10, (1, 28, 28))),
    ("cifar10", "CIFAR-10", False, ImageCounts(50_000, 10_000, 10, (3, 32, 32))),
    ("cifar100", "CIFAR-100", False, ImageCounts(50_000, 10_000, 100, (3, 32, 32))),
    ("svhn", "SVHN", False, ImageCounts(73_257, 26_032, 10, (3, 32, 32))),
    ("imagenet", "ImageNet", True, ImageCounts(1_281_167, 50_000, 1000, (3, 224, 224))),
    ("stanford_cars", "Stanford Cars", True, ImageCounts(8144, 8041, 196, (3, 224, 224))),
    ("flowers102", "Flowers-102", True, ImageCounts(2040, 6149, 102, (3, 224, 224))),
)
for _name, _title, _streamed, _counts in _TORCHVISION:
    _made = create_model(_title, __base__=DatasetOptions, __cls_kwargs__={"name": _name}, __doc__=f"{_title}.")
    _made.title, _made.streamed, _made.counts = _title, _streamed, _counts
    _made.builder = f"fsbench.data.torchvision_sets:{_name}"


class Folder(DatasetOptions, name="folder"):
    """Anyone's images: root/train/<class>/ and root/test/<class>/."""

    builder: ClassVar = "fsbench.data.folder:load_folder"
    streamed: ClassVar = None

    @model_validator(mode="after")
    def _lies_somewhere(self) -> Folder:
        if self.root is None:
            raise ValueError(
                "dataset.root=null: dataset=folder needs the directory that holds train/<class>/ and test/<class>/"
            )
        return self
