"""Batches made on a GPU while the step before them runs, and nothing in it for which the host waits."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; the host does not wait for the copy, as it would from pageable memory."""
    return (drawn.pin_memory() if device.type == "cuda" else drawn).to(device, non_blocking=True)


def one_ahead(batches: Iterator[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches; on a GPU each is made on a stream of its own, before the one ahead of it is used."""
    return batches if device.type != "cuda" else _one_ahead(batches, device)


def _one_ahead(batches: Iterator[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    stream = _stream(device)
    # What the batches are made of was put there by the stream of the steps.
    stream.wait_stream(torch.cuda.current_stream(device))

    def made() -> tuple[Tensor, Tensor] | None:
        with torch.cuda.stream(stream):
            return next(batches, None)

    upcoming = made()
    while upcoming is not None:
        x, y = upcoming
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(stream)
        for tensor in upcoming:
            # Its memory came from the other stream, which may have it back only once the steps are through with it.
            tensor.record_stream(steps)
        upcoming = made()
        yield x, y


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    # One for all batches of the process: memory freed on a stream is used again on that stream only.
    return torch.cuda.Stream(device)
