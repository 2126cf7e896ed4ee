"""Images and labels that a user's function returns, as splits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsbench.data.splits import MemorySplit, RawData
from fsbench.errors import UsageError, first_line


def given_data(given: Any, name: str, classes: Sequence[str] | None) -> RawData:
    """The training and test split out of a pair of `(images, labels)` or of `torch.utils.data.Dataset`s.

    Raises:
        UsageError: they are no such pair, or images and labels of other kinds and shapes.
    """
    if not isinstance(given, tuple) or len(given) != 2:
        raise UsageError("dataset", name, f"its function has to return (train, test), not a {type(given).__name__}")
    train, test = (_split(part, which, name) for part, which in zip(given, ("training", "test"), strict=True))
    if train.images.shape[1:] != test.images.shape[1:] or train.images.dtype != test.images.dtype:
        here, there = (f"{split.images.dtype} {tuple(split.images.shape[1:])}" for split in (train, test))
        raise UsageError("dataset", name, f"its training images are {here}, its test images {there}, not alike")
    count = 1 + max(int(split.labels.max()) for split in (train, test) if len(split))
    names = tuple(classes) if classes is not None else tuple(map(str, range(count)))
    return RawData(train, test, names, variant=f"of a user's function {name}")


def _split(part: Any, which: str, name: str) -> MemorySplit:
    def refusal(problem: str) -> UsageError:
        return UsageError("dataset", name, f"the {which} split of its function {problem}")

    try:
        if not isinstance(part, tuple | list):
            pairs = [part[i] for i in range(len(part))]  # a Dataset need not end its iteration
            part = (np.stack([np.asarray(image) for image, _ in pairs]), [int(label) for _, label in pairs])
        images, labels = part
        images, indices = (
            np.asarray(one.detach().cpu() if isinstance(one, Tensor) else one) for one in (images, labels)
        )
        if indices.dtype.kind not in "iub" or indices.shape != images.shape[:1]:
            found = f"labels {indices.dtype} {indices.shape} for {len(images)} images"
            raise refusal(f"has {found}; one class index each, 0 to K - 1, is needed")
        images = torch.as_tensor(images)
    except (TypeError, ValueError, IndexError) as failure:
        raise refusal(f"is no (images, labels) and no Dataset of such pairs: {first_line(failure)}") from None
    return MemorySplit(_channels_first(images, refusal), torch.as_tensor(indices.astype(np.int64)))


def _channels_first(images: Tensor, refusal: Any) -> Tensor:
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise refusal(f"has images {images.dtype} {tuple(images.shape)}; uint8 or float (N, C, H, W) are needed")
    if images.dtype == torch.uint8:
        return images.contiguous()
    images = images.float().contiguous()
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        reach = f"float images from {float(images.min()):g} to {float(images.max()):g}"
        raise refusal(f"has {reach}; they must lie in [0, 1], and dataset.mean and dataset.std normalise them")
    return images
