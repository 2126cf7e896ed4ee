"""A GPU that computes nothing, to see what a piece of code asks of one: launches, and where the host would wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PretendedGPU(TorchDispatchMode):
    """Within, tensors on "cuda" have shapes and no values, those of the CPU are real.

    Attributes:
        launches: operations on the device that are neither views nor allocations, by name; copies to it included.
        looks: operations for which the host waits for the device.

    Whatever needs a value that is not there (`item`, `tolist`, `nonzero`, a boolean index) raises an error of torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.looks: list[str] = []
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._pinned: set[int] = set()

    def __enter__(self) -> PretendedGPU:
        self._fake.__enter__()
        return super().__enter__()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._fake.__exit__(*failure)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name == "is_pinned":
            return args[0].data_ptr() in self._pinned
        if name == "_pin_memory":
            with unset_fake_temporarily():
                pinned = args[0].clone()
            self._pinned.add(pinned.data_ptr())
            return pinned
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor) and tensor.dim()]
        to = [leaf.type for leaf in leaves if isinstance(leaf, torch.device)]
        if "cuda" not in to and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if "cpu" in to or (here and not self._is_sent(name, here, kwargs, args)):
            self.looks.append(name)
        found = func(*args, **kwargs)
        returns = func._schema.returns
        view = returns and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        if not view and not name.startswith(("empty", "new_empty", "unsqueeze_", "prim::")):
            self.launches[name] += 1
        return found

    def _is_sent(self, name: str, here: list[Tensor], kwargs: dict[str, Any], args: tuple) -> bool:
        """Whether this is a copy from pinned memory that nobody waits for."""
        waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        return name in ("_to_copy", "copy_") and not waits and all(one.data_ptr() in self._pinned for one in here)
