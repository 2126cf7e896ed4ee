"""Two passes over the whole mini-batch in the place of two over each sub-batch, where the gradients are the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fsbench.optim.descent import Closure, Descent
from fsbench.optim.random_replay import RandomReplay
from fsbench.optim.sub_batch_gradients import SubBatchGradients, obstacle
from fsbench.optim.sub_batch_layers import NotTogether
from fsbench.optim.sub_batches import Part

Gradients = dict[Tensor, Tensor]
# From a closure and a size: the loss, sum_i n_i/N g_i and sum_i n_i/N [g_i - gradient at w + radius g_i].
OneAfterAnother = Callable[[Closure, int], tuple[Any, Gradients, Gradients]]


@dataclass(frozen=True)
class TwoPasses:
    """The mean losses, and the means of the sub-batches' gradients, at w and at w + radius g_i."""

    loss: Tensor
    below: Tensor
    gradient: Gradients
    opposite: Gradients


class PassesTogether:
    """Tries to pass all sub-batches at once, and remembers for which sizes of the mini-batch that does.

    The first time for a size, both gradients are compared with those of one sub-batch after another.

    Args:
        together: True, False, or "auto", where it can be done and is faster.
        model: the network that closures run.
        processes: how many share each mini-batch.

    Attributes:
        known: by size of the mini-batch, once it was tried, whether its sub-batches go together.

    Raises:
        ValueError: `together` is True where it can't be.
    """

    def __init__(self, together: bool | str, model: nn.Module | None, processes: int) -> None:
        if together not in ("auto", True, False):
            raise ValueError(f"together must be 'auto', True or False, got {together!r}")
        reason = "several processes share the mini-batch" if processes > 1 else obstacle(model)
        if together is True and reason is not None:
            raise ValueError(f"together=True: {reason}")
        self.together = together
        self.known: dict[int, bool] = {}
        self._possible = together is not False and reason is None

    def __call__(
        self, optimizer: Descent, closure: Closure, size: int, parts: Sequence[Part], radius: float,
        one_after_another: OneAfterAnother,
    ) -> TwoPasses | None:  # fmt: skip
        """Sub-batch i at w and at w + radius g_i; None, with nothing done, where it can't be.

        Raises:
            NotTogether: it can't be, and `together` is True.
        """
        if not self._possible or not self.known.get(size, True):
            return None
        replay = RandomReplay(optimizer.device)
        try:
            each = SubBatchGradients(_parameters(optimizer), parts, size, if_faster=self.together == "auto")
            found = _passes(optimizer, closure, each, radius, replay)
            if size not in self.known:
                alike = _alike(found, *one_after_another(closure, size)[1:])
                if alike is None:
                    return None
                if not alike:
                    raise NotTogether("passed together they have other gradients than one after another")
                self.known[size] = True
            return found
        except NotTogether as failure:
            if self.together is True:
                raise NotTogether(f"together=True: {failure}") from None
        except RuntimeError:
            # Calls that were followed are made with other arguments than before, which may not do.
            if self.together is True:
                raise
        self.known[size] = False
        replay.rewind()
        return None


def _passes(
    optimizer: Descent, closure: Closure, each: SubBatchGradients, radius: float, replay: RandomReplay
) -> TwoPasses:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise NotTogether("several processes share the mini-batch")
    if not getattr(closure, "followable", True):
        raise NotTogether("the closure does not pass the mini-batch through the network at once, as it is")
    loss = optimizer.one_pass(lambda: _inside(each.at_w(), closure))
    if replay.drawn:
        raise NotTogether("the network draws random numbers")
    gradient = optimizer.kept_gradients()
    below = optimizer.one_pass(lambda: _inside(each.moved(radius), closure))
    return TwoPasses(loss, below, gradient, {p: p.grad for p in optimizer.trained()})


def _alike(found: TwoPasses, expected: Gradients, regulariser: Gradients) -> bool | None:
    """Whether both gradients are, to rounding, what one sub-batch after another gives; None where they can't tell.

    The difference of the two is small beside each of them, and as uncertain as they are.
    """
    gradient, opposite = found.gradient, found.opposite
    if expected.keys() != gradient.keys() or regulariser.keys() != opposite.keys():
        return False
    if not gradient:
        return True
    g, of_g = [gradient[p] for p in gradient], [expected[p] for p in gradient]
    d = torch._foreach_sub([gradient[p] for p in opposite], [opposite[p] for p in opposite])
    of_d = [regulariser[p] for p in opposite]
    length, difference = _norm(of_g), _norm(of_d)
    if not math.isfinite(length + difference):
        return None
    rounding = 256 * torch.finfo(g[0].dtype).eps * length
    return (
        _norm(torch._foreach_sub(g, of_g)) <= rounding
        and _norm(torch._foreach_sub(d, of_d)) <= rounding + 1e-3 * difference
    )


def _norm(tensors: list[Tensor] | tuple[Tensor, ...]) -> float:
    return float(torch.nn.utils.get_total_norm(list(tensors)))


def _parameters(optimizer: Descent) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _inside(scope: AbstractContextManager[None], closure: Closure) -> Tensor:
    with scope:
        return closure()
