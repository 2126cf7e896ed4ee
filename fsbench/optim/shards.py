"""Weights that are sharded over processes (DTensor, as `fully_shard` makes them): shards, and sums over all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor


def is_sharded(tensor: Any) -> bool:
    return hasattr(tensor, "to_local")


def local(tensors: Iterable[Any]) -> list[Tensor]:
    """This process's shards, in the memory of the whole; other tensors are their own."""
    return [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]


def over_shards(total: Callable[..., Tensor], *lists: Sequence[Tensor]) -> Tensor:
    """`total` of lists of shards, a scalar that adds up over tensors and their parts, over all processes.

    One exchange for each way in which the tensors of the first list are sharded.
    """
    ways: dict[Any, list[int]] = defaultdict(list)
    for index, tensor in enumerate(lists[0]):
        ways[_way(tensor)].append(index)
    parts = [_added(total(*(local(some[i] for i in of) for some in lists)), way) for way, of in ways.items()]
    return sum(parts[1:], parts[0])


def _way(tensor: Any) -> Any:
    """The mesh, and along which of its dimensions the parts differ."""
    if not is_sharded(tensor):
        return None
    return tensor.device_mesh, tuple(not placement.is_replicate() for placement in tensor.placements)


def _added(value: Tensor, way: Any) -> Tensor:
    if way is None:
        return value
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, differs = way
    return DTensor.from_local(value, mesh, [Partial() if d else Replicate() for d in differs]).full_tensor()
