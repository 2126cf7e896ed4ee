"""What stands for a GPU that records steps, and what shows that one could."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Again:
    """Stands for a CUDA graph where there is no GPU: what was recorded is done again, word for word.

    What a recording made lies in memory that others use after it, so nobody may look at it.
    """

    def __init__(self, device: torch.device) -> None:
        self.recordings = 0

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        yield

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        made_by = step.func.__self__

        def replay() -> None:
            step()
            optimizer = made_by.optimizer
            groups = getattr(optimizer, "param_groups", ())
            gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
            for tensor in (*gradients, *(getattr(optimizer, "alignment", None) or ())):
                tensor.fill_(torch.nan)

        return replay

    def random_state(self) -> Tensor:
        return torch.get_rng_state()

    def fits(self) -> bool:
        return True


class Elsewhere(TorchDispatchMode):
    """Notes operations that make tensors outside the device, or bring in some: a graph can't hold that."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.found = device, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given, made = (
            {leaf.device for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)}
            for tree in ((args, kwargs), result)
        )
        if len(given) > 1 or made - {self.device}:
            self.found.append(str(function))
        return result
