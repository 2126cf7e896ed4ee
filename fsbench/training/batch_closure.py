"""The closure of a mini-batch: loss and gradient of all of it, or of a slice, in pieces that fit the memory."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from fsbench.data import Share
from fsbench.distributed.devices import Devices
from fsbench.distributed.gradient_sum import GradientSum
from fsbench.distributed.sync_batchnorm import SyncedBatchNorm
from fsbench.training.memory_format import memory_format_of
from fsbench.training.precision import Precision


class BatchClosure:
    """The closure that the training loop hands to `optimizer.step`.

    Called with a slice (or None) it adds the gradient of the mean loss over those rows into `.grad` and
    returns that loss. Rows beyond `micro_batch_size` are passed in pieces whose gradients add up to the
    same mean (gradient accumulation: BatchNorm then sees each piece alone). `hits` remembers for each
    row whether its first answer of this step, the one at w, was right.

    Where several devices share the mini-batch, each loads its own rows of it. A slice is then one of the whole
    mini-batch, and loss and gradient are those of all devices' rows in it (in `devices.apart()`: of this device's).
    On entry `.grad` is empty or zero. With `sync_batchnorm` all devices pass equally many pieces, some of no rows.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        precision: Precision,
        micro_batch_size: int | None = None,
        devices: Devices | None = None,
        sync_batchnorm: bool = False,
    ) -> None:
        self.model = model
        self.loss = loss
        self.precision = precision
        self.micro_batch_size = micro_batch_size
        self.memory_format = memory_format_of(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.devices = devices or Devices(self.parameters[0].device)
        self._gradients = GradientSum(self.parameters) if self.devices.count > 1 else None
        self._synced = sync_batchnorm and self._gradients is not None

    def load(self, x: Tensor, y: Tensor, size: int | None = None) -> None:
        """Take the next mini-batch: this device's rows of it, and how many it has in all."""
        self.x, self.y = x.contiguous(memory_format=self.memory_format), y
        self.size = len(y) if size is None else size
        self._answers = torch.full_like(y, -1)

    @property
    def hits(self) -> Tensor:
        """Number of rows answered rightly at w, on all devices."""
        return (self._answers == 1).sum() if self._gradients is None else self._hits

    def __call__(self, rows: slice | None = None, *, sample_labels: bool | None = None) -> Tensor:
        indices = range(self.size)[rows or slice(None)]
        own = self.devices.own(indices, self.size)
        gradients = self._gradients if self.devices.together else None
        of = len(indices) if self.devices.together else len(own)
        piece = self.micro_batch_size or max(len(indices), 1)
        starts = range(0, self._most(indices) if self._synced and gradients is not None else len(own), piece)
        total = torch.zeros((), device=self.x.device)
        with self.precision.scaled(self.parameters) as scale:
            for start in starts:
                part = own[start : start + piece]
                selected = self.devices.share.held(part, self.size)
                share = len(part) / of
                if gradients is not None and start == starts[-1]:
                    gradients.start()
                with self.precision.autocast(), SyncedBatchNorm() if self._synced else nullcontext():
                    logits = self.model(self.x[selected])
                    # Told either way it is a pass of FSAM's, which takes the log-likelihood.
                    loss_of = self.loss if sample_labels is None else functional.cross_entropy
                    labels = self._labels(logits, selected, bool(sample_labels))
                    loss = loss_of(logits, labels) if part else logits.sum()
                (loss * (share * scale)).backward()
                total += share * loss.detach()
                self._remember(logits.detach(), selected)
            if gradients is not None:
                right = (self._answers == 1).sum()
                total, self._hits = gradients.finish(torch.stack([total.double(), right.double()]))
        return total

    def after_step(self, skipped: bool) -> None:
        """Running statistics become the same on all devices."""
        if not skipped and not self._synced:
            self.devices.merge_statistics(self.model, self.size)

    def _most(self, indices: range) -> int:
        """Rows of the device that has most of these."""
        counts = range(self.devices.count)
        return max(len(Share(rank, self.devices.count).within(indices, self.size)) for rank in counts)

    def _labels(self, logits: Tensor, rows: slice, sampled: bool) -> Tensor:
        if not sampled:
            return self.y[rows]
        return torch.multinomial(logits.detach().float().softmax(-1), 1).squeeze(-1)

    def _remember(self, logits: Tensor, rows: slice) -> None:
        answers = self._answers[rows]
        right = (logits.argmax(-1) == self.y[rows]).to(answers.dtype)
        self._answers[rows] = torch.where(answers < 0, right, answers)
