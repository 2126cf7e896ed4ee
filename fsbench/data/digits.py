"""scikit-learn's digits: embedded, so that something trains without any download."""

from __future__ import annotations

from pathlib import Path

import torch

from fsbench.config.dataset import DatasetOptions
from fsbench.data.splits import MemorySplit, RawData
from fsbench.data.stratified import stratified_split

TEST_IMAGES = 360  # 20 % of 1797


def load_digits(options: DatasetOptions, data_dir: Path) -> RawData:
    """1437 + 360 grey images of 8 x 8; the stratified test split is the same at every seed.

    The grey values 0 .. 16 become round(255 v / 16).
    """
    from sklearn import datasets

    found = datasets.load_digits()
    images = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(found.target).long()
    test, train = stratified_split(labels, TEST_IMAGES, classes=10, seed=0, purpose="digits test split")
    whole = MemorySplit(images, labels)
    return RawData(
        train=whole.take(train),
        test=whole.take(test),
        class_names=tuple(str(digit) for digit in range(10)),
        variant="scikit-learn's load_digits, fixed stratified test split of 20 %",
    )
