"""The buffers of modules during the passes over a mini-batch.

Every buffer of a module in train mode is state: BatchNorm's running statistics, spectral norm's vectors, observers,
counters and codebooks alike. Put a module that holds large constants in eval mode, and they are left alone.

Where the network is given, its modules are walked; else those of each module that runs are, found by a global forward
pre-hook, so an optimizer that knows only parameters can keep their buffers too. `torch.compile` and
TorchScript run modules without hooks: hand in the network there.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

# Buffers beyond this many bytes are worth a word: they are copied several times in each step.
_MANY_BYTES = 2**30


def _keeps_state(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or any(buffer is not None for buffer in module._buffers.values())


def mixes_examples(model: nn.Module) -> bool:
    """True where an example's output in train mode may depend on the others of its batch, as BatchNorm's does.

    The content of a buffer may come from the whole batch, so every module that has one may mix.
    """
    return any(_keeps_state(module) for module in model.modules())


@contextmanager
def _training_modules(act: Callable[[list[nn.Module]], None], model: nn.Module | None) -> Iterator[None]:
    """Call `act` on modules in train mode before they run in this scope: all at once, or those in one that runs."""
    if model is not None:
        act([module for module in model.modules() if module.training])
        yield
        return

    def meet(module: nn.Module, _: object) -> None:
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            warnings.warn(
                "the network is compiled, and runs uncompiled where its buffers are found by hooks: hand the network "
                "to the optimizer as `model=`",
                stacklevel=2,
            )
        act([each for each in module.modules() if each.training])

    # What is compiled must not trace the hook: it would stumble over modules that it knows from elsewhere.
    untraced = torch.compiler.disable(meet) if "torch._dynamo" in sys.modules else meet
    handle = register_module_forward_pre_hook(untraced)
    try:
        yield
    finally:
        handle.remove()


class _Place(NamedTuple):
    """A buffer, where it is found, and its shape at first."""

    module: nn.Module
    name: str
    buffer: Tensor
    shape: torch.Size


class KeptBuffers:
    """The buffers of modules in train mode as they were before the modules ran.

    Values of one type lie one after another in one tensor, so that a GPU keeps and restores them in a few launches.
    """

    def __init__(self) -> None:
        self._buffers: dict[nn.Module, dict[str, Tensor | None]] = {}
        self._kept: list[tuple[list[_Place], Tensor]] = []

    @torch.no_grad()
    def keep(self, modules: Iterable[nn.Module]) -> None:
        """Remember the buffers of those modules that are not known yet."""
        by_type: dict[object, list[_Place]] = defaultdict(list)
        for module in modules:
            if module in self._buffers:
                continue
            self._buffers[module] = dict(module._buffers)
            for name, buffer in module._buffers.items():
                if buffer is not None and _writable(buffer):
                    by_type[buffer.dtype, buffer.device].append(_Place(module, name, buffer, buffer.shape))
        self._kept += [(places, _flat([place.buffer for place in places])) for places in by_type.values()]
        if sum(values.nbytes for _, values in self._kept) > _MANY_BYTES:
            warnings.warn(
                f"modules in train mode have more than {_MANY_BYTES:,} bytes of buffers, which are copied several "
                "times in each step; put those that hold constants in eval mode",
                stacklevel=2,
            )

    @torch.no_grad()
    def restore(self, flag: Tensor | None = None) -> None:
        """Put all values back, or those of now where `flag` is false; buffers are the tensors they were."""
        # Of tensors that several modules hold, the values that were met first come last.
        for places, values in reversed(self._kept):
            if flag is not None:
                values = torch.where(flag, values, _flat([place.module.get_buffer(place.name) for place in places]))
            parts = values.split([place.shape.numel() for place in places])
            for place in places:
                if place.buffer.shape != place.shape:  # observers begin with a buffer of no values
                    place.buffer.resize_(place.shape)
            torch._foreach_copy_(
                [place.buffer for place in places],
                [part.view(place.shape) for part, place in zip(parts, places, strict=True)],
            )
        for module, buffers in self._buffers.items():
            module._buffers.update(buffers)

    @torch.no_grad()
    def settle(self) -> None:
        """Write values of tensors that modules have put in the place of buffers into the buffers that were there."""
        for module, buffers in self._buffers.items():
            for name, buffer in buffers.items():
                now = module._buffers.get(name)
                if buffer is None or now is None or now is buffer or now.shape != buffer.shape:
                    continue
                if _writable(buffer):
                    module._buffers[name] = buffer.copy_(now)

    def of_now(self) -> KeptBuffers:
        """The same modules' buffers as they are now."""
        now = KeptBuffers()
        now.keep(self._buffers)
        return now


@contextmanager
def kept_buffers(model: nn.Module | None = None) -> Iterator[KeptBuffers]:
    """The buffers of the modules that run inside, as they were before. Buffers stay the tensors they are."""
    kept = KeptBuffers()
    with _training_modules(kept.keep, model):
        yield kept
    kept.settle()


@contextmanager
def unmoved(model: nn.Module | None = None, start: KeptBuffers | None = None) -> Iterator[None]:
    """Buffers leave this scope as they entered it, whatever happens inside; there they are as at `start`."""
    now = KeptBuffers() if start is None else start.of_now()
    try:
        with _training_modules(now.keep, model):
            if start is not None:
                start.restore()
            yield
    finally:
        now.restore()


@contextmanager
def frozen_statistics(model: nn.Module | None = None) -> Iterator[None]:
    """Normalise by the running statistics, which stay: modules that keep any are in eval mode, so examples are apart.

    Raises:
        ValueError: BatchNorm that keeps none.
    """
    switched: list[nn.Module] = []

    def switch(modules: list[nn.Module]) -> None:
        for module in modules:
            if not _keeps_state(module):
                continue
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                raise ValueError(
                    "single examples can't be passed through BatchNorm with track_running_stats=False, which has no "
                    "statistics but those of a batch"
                )
            module.training = False
            switched.append(module)

    with unmoved(model):
        try:
            with _training_modules(switch, model):
                yield
        finally:
            for module in switched:
                module.training = True


def _writable(buffer: Tensor) -> bool:
    """True of a buffer that can be written into; one that repeats its memory (`expand`) can only hold constants."""
    if buffer.layout != torch.strided or buffer.is_inference():
        return False
    return not any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
