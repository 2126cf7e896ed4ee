"""Images and labels of one split, in memory or as files that are decoded when asked for, and of a data set."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from fsbench.data.decode import UndecodableImage, rgb_image
from fsbench.errors import UsageError


@dataclass(frozen=True)
class MemorySplit:
    """Small images: `images` uint8 (N, C, H, W), or float where a user brings them so, `labels` int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> MemorySplit:
        return MemorySplit(self.images[indices], self.labels[indices])

    def with_labels(self, labels: Tensor) -> MemorySplit:
        return replace(self, labels=labels)

    def sha256(self) -> str:
        """Of the images' shape, their bytes and the labels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class StreamingSplit:
    """Large images: the paths of N files, `labels` int64 (N,); `split[i]` is (PIL image in RGB, label).

    Args:
        key: the config key that led to the files, for messages.
        base: the directory below which the files lie; `items` are relative to it.
    """

    key: str
    base: str
    items: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Raises UsageError where the file can't be decoded."""
        try:
            return rgb_image(os.path.join(self.base, self.items[index])), int(self.labels[index])
        except UndecodableImage as failure:
            raise UsageError(self.key, self.base, str(failure)) from None

    def take(self, indices: Tensor) -> StreamingSplit:
        return replace(self, items=tuple(self.items[i] for i in indices.tolist()), labels=self.labels[indices])

    def with_labels(self, labels: Tensor) -> StreamingSplit:
        return replace(self, labels=labels)

    def sha256(self) -> str:
        """Of the file names, their sizes in bytes and the labels; the pixels are not read."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(
                f"{item}\0{os.path.getsize(os.path.join(self.base, item))}\n".encode(errors="surrogateescape")
            )
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


Split = MemorySplit | StreamingSplit


@dataclass(frozen=True)
class RawData:
    """Training and test split with true labels.

    Args:
        variant: one line on where the images come from and how they were divided, for the run's record.
        files: `files_digest` of a folder of images, for the run's record.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    variant: str
    files: str | None = None

    def problem(self) -> str | None:
        """A line about what is inconsistent in it, or None."""
        for name, split in (("training", self.train), ("test", self.test)):
            if len(split) == 0:
                return f"the {name} split is empty"
            if isinstance(split, MemorySplit) and len(split.images) != len(split.labels):
                return f"the {name} split has {len(split.images)} images but {len(split.labels)} labels"
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.class_names):
                return f"the {name} labels reach from {low} to {high}, allowed are 0 to {len(self.class_names) - 1}"
        return None
