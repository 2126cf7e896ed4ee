"""Scopes for the running statistics of BatchNorm and its kin during extra passes over a mini-batch.

Both find the modules as they run, by a global forward pre-hook, so an optimizer that knows only
parameters can use them; any module with a `running_mean` buffer counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _statistics(module: nn.Module) -> list[Tensor]:
    if module._buffers.get("running_mean") is None:
        return []
    return [buffer for name in _BUFFERS if (buffer := module._buffers.get(name)) is not None]


@contextmanager
def unmoved_statistics() -> Iterator[dict[nn.Module, list[Tensor]]]:
    """Put running statistics back as they were on entry, whatever happens inside.

    Yields the snapshots by module: empty after a pass if the network keeps no statistics.
    """
    saved: dict[nn.Module, list[Tensor]] = {}

    def remember(module: nn.Module, _: object) -> None:
        if module.training and module not in saved and (statistics := _statistics(module)):
            saved[module] = [buffer.clone() for buffer in statistics]

    handle = register_module_forward_pre_hook(remember)
    try:
        yield saved
    finally:
        handle.remove()
        with torch.no_grad():
            for module, values in saved.items():
                for buffer, value in zip(_statistics(module), values, strict=True):
                    buffer.copy_(value)


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Normalise by the running statistics (eval mode of those modules only), so that examples are independent."""
    switched: list[nn.Module] = []

    def switch(module: nn.Module, _: object) -> None:
        if module.training and _statistics(module):
            module.training = False
            switched.append(module)

    handle = register_module_forward_pre_hook(switch)
    try:
        yield
    finally:
        handle.remove()
        for module in switched:
            module.training = True
