"""The processes that share a mini-batch or a data set, as optimizers and sharpness measures see them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor


class Processes:
    """One process with all of the data; what several are is said by overriding all of this.

    Where several share a mini-batch, `closure(rows)` gives, on every process alike, loss and gradient of those rows of
    the whole mini-batch, and inside `apart()` those of the rows among them that are the process's own. Of no rows
    both are zero, and `.grad` may stay empty.

    Attributes:
        rank, count: which of how many.
    """

    rank: int = 0
    count: int = 1

    def apart(self) -> AbstractContextManager[None]:
        """Inside, closures see the process's own rows only, and nothing is exchanged."""
        return nullcontext()

    def own(self, rows: range, size: int) -> range:
        """The process's own among these rows of a mini-batch of `size`."""
        return rows

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; called by all of them."""
