"""Summing gradients over devices while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 25 * 2**20  # as in DistributedDataParallel


@dataclass
class _Bucket:
    """Parameters whose gradients travel together, in one flat tensor; `views` are their places in it."""

    parameters: list[Tensor]
    flat: Tensor
    views: list[Tensor]
    missing: set[Tensor] = field(default_factory=set)
    work: Any = None


class GradientSum:
    """`.grad` of every parameter becomes its sum over the devices: buckets, each sent as soon as it is full.

    The overlap is that of torch's DistributedDataParallel, which is not used itself: there every device has to run
    every backward pass, and gradients are means over the devices. Here a device may have no rows of a slice of the
    mini-batch (the last batch, a group of m-sharpness, a sub-batch of the regulariser), devices have uneven shares, and
    a two-pass method keeps the gradients of one pass while the next one runs.

    Usage: `start()` before the last backward pass of a closure, on the devices that have one; `finish()` on all.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self._running = False
        self._sent = 0
        # The last layers' gradients come first.
        self._buckets = [_bucket(group) for group in _groups(list(reversed(parameters)))]
        self._place = {
            p: (bucket, view)
            for bucket in self._buckets
            for p, view in zip(bucket.parameters, bucket.views, strict=True)
        }
        # By which parameters have a gradient, the same as numbers on the device, which are sent there once.
        self._flags: dict[tuple[bool, ...], Tensor] = {}
        self._hooks = [p.register_post_accumulate_grad_hook(self._ready) for p in parameters]

    def start(self) -> None:
        """Send buckets as the next backward pass fills them."""
        self._begin()
        self._running = True

    @torch.no_grad()
    def finish(self, numbers: Tensor) -> Tensor:
        """Wait until `.grad` holds the sums; returns the sum of `numbers` (n,), in float64.

        A parameter without gradient on some devices has there one of zero; without one on all it is left alone.
        """
        if not self._running:
            self._begin()
        self._running = False
        has = tuple(p.grad is not None for p in self.parameters)
        if has not in self._flags:
            self._flags[has] = torch.tensor(has, dtype=torch.float64, device=numbers.device)
        extra = torch.cat([numbers.double(), self._flags[has]])
        for bucket in self._buckets[self._sent :]:
            for p in bucket.missing:
                self._put(p)
            bucket.missing.clear()
        self._send_full()
        works = [bucket.work for bucket in self._buckets] + [dist.all_reduce(extra, async_op=True)]
        for work in works:
            work.wait()
        used = None
        for index, p in enumerate(self.parameters):
            view = self._place[p][1]
            if p.grad is not None:
                p.grad.copy_(view)
                continue
            if used is None:
                used = (extra[len(numbers) :] > 0).tolist()
            if used[index]:
                p.grad = view.clone()
        return extra[: len(numbers)]

    def _begin(self) -> None:
        self._sent = 0
        for bucket in self._buckets:
            bucket.missing, bucket.work = set(bucket.parameters), None

    def _ready(self, p: Tensor) -> None:
        bucket = self._place[p][0]
        if self._running and p in bucket.missing:
            self._put(p)
            bucket.missing.discard(p)
            self._send_full()

    def _put(self, p: Tensor) -> None:
        view = self._place[p][1]
        if p.grad is None:
            view.zero_()
        else:
            view.copy_(p.grad)

    def _send_full(self) -> None:
        # In the same order on every device.
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            bucket = self._buckets[self._sent]
            bucket.work = dist.all_reduce(bucket.flat, async_op=True)
            self._sent += 1


def _groups(parameters: list[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one type, up to BUCKET_BYTES."""
    groups: list[list[Tensor]] = []
    held = 0
    for p in parameters:
        size = p.numel() * p.element_size()
        if not groups or groups[-1][0].dtype != p.dtype or held + size > BUCKET_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(p)
        held += size
    return groups


def _bucket(parameters: list[Tensor]) -> _Bucket:
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    parts = flat.split([p.numel() for p in parameters])
    return _Bucket(parameters, flat, [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)])
