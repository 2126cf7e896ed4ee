"""The images a measure is of: drawn from a split, not augmented, the same whenever they are asked for."""

from __future__ import annotations

from copy import copy
from functools import cached_property

import torch

from fsbench.data import Data, EvalBatches, MemorySplit, Share, StreamingSplit, eval_batches, load_data
from fsbench.data.augment.batch import refuse_streamed
from fsbench.data.seeding import generator
from fsbench.data.share import ALONE
from fsbench.errors import UsageError
from fsbench.measuring.source import Source


def own_data(source: Source, instead: str) -> Data:
    """The data of a source; raises UsageError where they are not what the run was trained on, `instead` beside it."""
    data = load_data(source.dataset, source.data_dir)
    if source.trained_on not in (None, data.provenance["sha256"]):
        root = source.dataset.root
        key, place = ("data_dir", source.data_dir) if root is None else ("dataset.root", root)
        raise UsageError(key, place, f"holds other training images or labels than the run was trained on; {instead}")
    return data


class Images:
    """Batches of a source's images.

    Args:
        split: `train`, with the labels that were trained on, `subset`, those without the confusion set (jia2020,
            scenario I), or `test`.
        samples: how many are drawn, without replacement; None, or more than there are: all.
        seed: of the draw; a smaller draw is part of a larger one.
        share: which of several devices' part the batches are.

    Raises:
        UsageError: the data can't be loaded, is not what the run was trained on, or `augment` can't resize it.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        samples: int | None,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        share: Share = ALONE,
    ) -> None:
        self.data = own_data(source, "to measure on them give model= with model.checkpoint=, and dataset=")
        if isinstance(self.data.train, MemorySplit):
            refuse_streamed(source.augment)
        self._source, self._device, self._dtype = source, device, dtype
        self._split = self.data.test if split == "test" else self.data.train
        if split == "subset":
            self._split = self._split.take(torch.arange(len(self._split) - source.dataset.confusion))
        self.available = len(self._split)
        self.used = self.available if samples is None else min(samples, self.available)
        self._seed, self._share = seed, share
        # The same on one device, for what can't be shared.
        self.unshared: Images = self
        if share.count > 1:
            self.unshared = copy(self)
            self.unshared._share = ALONE

    @cached_property
    def drawn(self) -> EvalBatches:
        """Batches of the images that were drawn."""
        if self.used == self.available:
            return self.whole
        order = torch.randperm(self.available, generator=generator(self._seed, "sharpness", "images"))
        return self._batches(self._split.take(order[: self.used].sort().values))

    @cached_property
    def whole(self) -> EvalBatches:
        """The whole split."""
        return self._batches(self._split)

    @cached_property
    def test(self) -> EvalBatches:
        """The test split."""
        return self._batches(self.data.test)

    def _batches(self, split: MemorySplit | StreamingSplit) -> EvalBatches:
        augment, workers = self._source.augment, self._source.workers
        return eval_batches(split, self.data, augment, self._device, workers, self._share, self._dtype)
