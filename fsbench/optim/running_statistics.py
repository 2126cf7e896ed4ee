"""Running statistics of BatchNorm and its kin during the passes over a mini-batch.

Where the network is given, its modules are walked; else they are found as they run, by a global forward
pre-hook, so an optimizer that knows only parameters can keep their statistics too. `torch.compile` and
TorchScript run modules without hooks: hand in the network there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _statistics(module: nn.Module) -> list[Tensor]:
    return [buffer for name in _BUFFERS if isinstance(buffer := getattr(module, name, None), Tensor)]


def mixes_examples(model: nn.Module) -> bool:
    """Whether an example's output in train mode depends on the others of its batch (BatchNorm and its kin)."""
    return any(isinstance(module, _BatchNorm) or _statistics(module) for module in model.modules())


@contextmanager
def _each_training_module(act: Callable[[nn.Module], None], model: nn.Module | None) -> Iterator[None]:
    """Call `act` once on every module in train mode that keeps statistics, before it runs in this scope."""
    met: set[nn.Module] = set()

    def meet(module: nn.Module, _: object = None) -> None:
        if module.training and module not in met and _statistics(module):
            met.add(module)
            act(module)

    if model is not None:
        for module in model.modules():
            meet(module)
        yield
        return
    handle = register_module_forward_pre_hook(meet)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def remembered_statistics(model: nn.Module | None = None) -> Iterator[Callable[..., None]]:
    """Remember running statistics as they are on entry; yields a function that puts them back (if a flag says so)."""
    saved: dict[nn.Module, list[Tensor]] = {}

    def remember(module: nn.Module) -> None:
        saved[module] = [buffer.clone() for buffer in _statistics(module)]

    @torch.no_grad()
    def restore(flag: Tensor | None = None) -> None:
        for module, values in saved.items():
            for buffer, value in zip(_statistics(module), values, strict=True):
                buffer.copy_(value if flag is None else torch.where(flag, value, buffer))

    with _each_training_module(remember, model):
        yield restore


@contextmanager
def unmoved_statistics(model: nn.Module | None = None) -> Iterator[None]:
    """Running statistics leave this scope as they entered it, whatever happens inside."""
    with remembered_statistics(model) as restore:
        try:
            yield
        finally:
            restore()


@contextmanager
def frozen_statistics(model: nn.Module | None = None) -> Iterator[None]:
    """Normalise by the running statistics (eval mode of those modules only), so that examples are independent."""
    switched: list[nn.Module] = []

    def switch(module: nn.Module) -> None:
        module.training = False
        switched.append(module)

    try:
        with _each_training_module(switch, model):
            yield
    finally:
        for module in switched:
            module.training = True
