"""Loss and accuracy of a network on a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from fsbench.distributed.devices import Devices
from fsbench.losses import summed
from fsbench.training.memory_format import memory_format_of
from fsbench.training.precision import Precision

_TOP5_FROM = 100


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: Precision,
    loss_fn: nn.Module,
    limit: int | None = None,
    devices: Devices | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield `loss` (the mean of `loss_fn`), `accuracy` in [0, 1], `top5_accuracy` from 100 classes.

    In eval mode; the mode the network was in comes back. `limit`: only so many batches. With several `devices` each
    hands in its share of the batches and gets the values of all.
    """
    was_training = model.training
    model.eval()
    memory_format = memory_format_of(model)
    total = summed(loss_fn)
    loss: Tensor | float = 0.0
    hits: Tensor | float = 0
    top5: Tensor | float = 0
    seen: float = 0
    classes = 0
    try:
        for x, y in islice(batches, limit):
            if not len(y):
                continue
            with precision.autocast():
                logits = model(x.contiguous(memory_format=memory_format))
            logits = logits.float()
            classes = logits.shape[-1]
            loss = loss + total(logits, y).double()
            hits = hits + (logits.argmax(-1) == y).sum()
            if classes >= _TOP5_FROM:
                top5 = top5 + (logits.topk(5).indices == y[:, None]).any(-1).sum()
            seen += len(y)
    finally:
        model.train(was_training)
    if devices is not None:
        loss, hits, top5, seen = devices.total(loss, hits, top5, seen)
        classes = max(devices.gathered(classes))
    yield "loss", float(loss) / seen
    yield "accuracy", float(hits) / seen
    if classes >= _TOP5_FROM:
        yield "top5_accuracy", float(top5) / seen
