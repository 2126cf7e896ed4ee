"""From the options of a data set to its splits, ready for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsbench.config.dataset import DatasetOptions
from fsbench.data.labels import confusion_set, random_labels, symmetric_noise
from fsbench.data.splits import MemorySplit, RawData, Split
from fsbench.data.stratified import stratified_split
from fsbench.errors import UsageError

_CHUNK = 4096


def channel_moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of uint8 images (N, C, H, W), as shares of 255.

    Exact: the sums are integers. A channel that never varies gets the deviation 1. Images that are float are taken as
    they are.
    """
    if images.is_floating_point():
        values = images.double().transpose(0, 1).flatten(1)
        deviations = values.std(1, correction=0).tolist()
        return tuple(values.mean(1).tolist()), tuple(deviation or 1.0 for deviation in deviations)
    first = second = torch.zeros(images.shape[1], dtype=torch.int64)
    for chunk in images.split(_CHUNK):
        pixels = chunk.int()
        first = first + pixels.sum(dim=(0, 2, 3))
        second = second + (pixels * pixels).sum(dim=(0, 2, 3))
    count = images.numel() // images.shape[1]
    mean, std = [], []
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        mean.append(one / count / 255)
        std.append((two * count - one * one) ** 0.5 / count / 255 or 1.0)
    return tuple(mean), tuple(std)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Data:
    """The splits of one run.

    Args:
        train: with the labels that are trained on; a confusion set, if any, comes last.
        shape: (C, H, W) as the network sees it.
        mean, std: per channel, of pixels in [0, 1].
        provenance: for the run's record: label, variant, sizes, classes, shape, mean, std, changed labels, sha256 of
            the training split (of the names and sizes of all files, too, where they lie in a folder).
    """

    train: Split
    validation: Split | None
    test: Split
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    provenance: dict[str, Any]


def load_data(options: DatasetOptions, data_dir: Path) -> Data:
    """Load (downloading on first use), cut the splits, change labels as asked.

    Order: validation split, subset, noise or random labels, confusion set; every draw has its own stream of
    `options.seed`. The data set last read stays in memory, so that a sweep decodes it once.

    Raises:
        UsageError: absent or corrupt data; sizes that the data set can't fill.
    """
    raw = _raw(options, Path(data_dir).expanduser())
    channels, native = 3, list[int]()
    if isinstance(raw.train, MemorySplit):
        channels, *native = raw.train.images.shape[1:]
    mean, std = _moments(options, raw, channels)
    train, validation, changes = _prepared(options, raw)
    name = options.name if options.root is None else Path(options.root).expanduser().resolve().name
    height, width = native if options.image_size is None else (options.image_size, options.image_size)
    return Data(
        train=train,
        validation=validation,
        test=raw.test,
        classes=len(raw.class_names),
        shape=(channels, height, width),
        mean=mean,
        std=std,
        class_names=raw.class_names,
        provenance={
            "label": options.label or name,
            "variant": raw.variant,
            "train": len(train),
            "validation": 0 if validation is None else len(validation),
            "test": len(raw.test),
            "classes": len(raw.class_names),
            "shape": [channels, height, width],
            "mean": list(mean),
            "std": list(std),
            **changes,
            "sha256": train.sha256(),
            **({} if raw.files is None else {"files": raw.files}),
        },
    )


@dataclass
class _Memo:
    key: tuple | None = None
    raw: RawData | None = None
    moments: tuple | None = None


_memo = _Memo()


def _raw(options: DatasetOptions, data_dir: Path) -> RawData:
    key = (options.name, str(data_dir.resolve()), options.root, options.image_size, options.in_memory,
           options.source, repr(options.arguments()))  # fmt: skip
    if _memo.key == key and _memo.raw is not None:
        return _memo.raw
    # Let go of the old one first: two data sets need not fit into memory together.
    _memo.key = _memo.raw = _memo.moments = None
    raw: RawData = options.built_by()(options, data_dir)
    if (problem := raw.problem()) is not None:
        if options.source:
            raise UsageError("dataset", options.name, f"what its function returns can't be used: {problem}")
        raise UsageError("data_dir", data_dir, f"{options.label or options.name} there is corrupt: {problem}")
    _memo.key, _memo.raw = key, raw
    return raw


def _moments(options: DatasetOptions, raw: RawData, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if options.mean is not None and options.std is not None:
        for key, values in (("mean", options.mean), ("std", options.std)):
            if len(values) != channels:
                problem = f"needs {channels} number{'s' * (channels > 1)}, one per channel of the images"
                raise UsageError(f"dataset.{key}", values, problem)
        return tuple(options.mean), tuple(options.std)
    if not isinstance(raw.train, MemorySplit):
        return IMAGENET_MEAN, IMAGENET_STD
    if _memo.moments is None:
        _memo.moments = channel_moments(raw.train.images)
    return _memo.moments


def _prepared(options: DatasetOptions, raw: RawData) -> tuple[Split, Split | None, dict[str, int]]:
    """Training split, validation split, and how many labels were changed how."""
    train, validation = raw.train, None
    classes, seed = len(raw.class_names), options.seed
    if options.validation > 0:
        if options.validation >= len(train):
            problem = f"must be smaller than the {len(train)} training images"
            raise UsageError("dataset.validation", options.validation, problem)
        chosen, rest = stratified_split(train.labels, options.validation, classes, seed, "validation")
        validation, train = train.take(chosen), train.take(rest)
    pool, chosen, rest = train, torch.arange(len(train)), torch.arange(0)
    if options.subset is not None:
        if options.subset > len(train):
            left = " left beside the validation split" if options.validation > 0 else ""
            raise UsageError(
                "dataset.subset", options.subset, f"must be at most the {len(train)} training images{left}"
            )
        chosen, rest = stratified_split(train.labels, options.subset, classes, seed, "subset")
        train = pool.take(chosen)

    labels = train.labels
    if options.noise > 0:
        labels = symmetric_noise(labels, options.noise, classes, seed, includes_self=options.noise_includes_self)
    if options.random_labels > 0:
        labels = random_labels(labels, options.random_labels, classes, seed, permute=options.permute_labels)
    changes = {
        "noisy_labels": _changed(train.labels, labels) if options.noise > 0 else 0,
        "random_labels": round(options.random_labels * len(train)),
        "random_labels_changed": _changed(train.labels, labels) if options.random_labels > 0 else 0,
        "confusion_images": options.confusion,
        "confusion_labels_changed": 0,
    }
    train = train.with_labels(labels)

    if options.confusion > 0:
        if options.confusion > len(rest):
            problem = f"must be at most {len(rest)}, the training images outside the subset"
            raise UsageError("dataset.confusion", options.confusion, problem)
        drawn, wrong = confusion_set(len(rest), options.confusion, classes, seed)
        extra = rest[drawn]
        changes["confusion_labels_changed"] = _changed(pool.labels[extra], wrong)
        train = pool.take(torch.cat([chosen, extra])).with_labels(torch.cat([labels, wrong]))
    return train, validation, changes


def _changed(before: Tensor, after: Tensor) -> int:
    return int(torch.count_nonzero(before != after))
