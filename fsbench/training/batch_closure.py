"""The closure of a mini-batch: loss and gradient of all of it, or of a slice, in pieces that fit the memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fsbench.training.memory_format import memory_format_of
from fsbench.training.precision import Precision


class BatchClosure:
    """What the training loop hands to `optimizer.step`.

    Called with a slice (or None) it adds the gradient of the mean loss over those rows into `.grad` and
    returns that loss. Rows beyond `micro_batch_size` are passed in pieces whose gradients add up to the
    same mean (gradient accumulation: BatchNorm then sees each piece alone). `hits` remembers for each
    row whether its first answer of this step, the one at w, was right.
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module, precision: Precision, micro_batch_size: int | None = None
    ) -> None:
        self.model = model
        self.loss = loss
        self.precision = precision
        self.micro_batch_size = micro_batch_size
        self.memory_format = memory_format_of(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def load(self, x: Tensor, y: Tensor) -> None:
        """Take the next mini-batch."""
        self.x, self.y = x.contiguous(memory_format=self.memory_format), y
        self._answers = torch.full_like(y, -1)

    @property
    def hits(self) -> Tensor:
        """Number of rows answered rightly at w."""
        return (self._answers == 1).sum()

    def __call__(self, rows: slice | None = None, *, sample_labels: bool = False) -> Tensor:
        indices = range(len(self.y))[rows or slice(None)]
        piece = self.micro_batch_size or max(len(indices), 1)
        total = torch.zeros((), device=self.x.device)
        with self.precision.scaled(self.parameters) as scale:
            for start in range(0, len(indices), piece):
                part = indices[start : start + piece]
                selected = slice(part.start, part.stop, part.step)
                share = len(part) / len(indices)
                with self.precision.autocast():
                    logits = self.model(self.x[selected])
                    loss = self.loss(logits, self._labels(logits, selected, sample_labels))
                (loss * (share * scale)).backward()
                total += share * loss.detach()
                self._remember(logits.detach(), selected)
        return total

    def _labels(self, logits: Tensor, rows: slice, sampled: bool) -> Tensor:
        if not sampled:
            return self.y[rows]
        return torch.multinomial(logits.detach().float().softmax(-1), 1).squeeze(-1)

    def _remember(self, logits: Tensor, rows: slice) -> None:
        answers = self._answers[rows]
        right = (logits.argmax(-1) == self.y[rows]).to(answers.dtype)
        self._answers[rows] = torch.where(answers < 0, right, answers)
