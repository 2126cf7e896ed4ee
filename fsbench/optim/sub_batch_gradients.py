"""The gradients of all sub-batches of a mini-batch from one pass over it, and one pass with each at weights of its own.

Where no example's output depends on the others, a layer's input and the gradient at its output give the gradients of
all sub-batches; `sub_batch_layers` says how each kind of layer keeps and uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fsbench.optim.random_replay import RandomReplay
from fsbench.optim.running_statistics import mixes_examples
from fsbench.optim.sub_batch_layers import CONVOLUTIONS, LAYERS, SUMS, Cut, Layer, NotTogether, Use, use_of
from fsbench.optim.sub_batches import Part, sub_batches

# On a CPU, sub-batches whose convolutions give as many numbers as this (1 MiB in fp32) are faster one after another:
# each then stays in the cache from layer to layer. Measured with networks of 6 to 64 filters.
_LARGE = 2**18
# A linear layer of this many rows in a sub-batch (images, or their tokens) is as fast as one of more: nothing is gained
# by keeping each g_i.
_MANY = 256


class SubBatchGradients:
    """g_i of the sub-batches of one mini-batch, kept as the second pass needs them.

    Usage, with a closure that passes the whole mini-batch through the network once:

        with each.at_w():          # `.grad` becomes sum_i n_i/N g_i
            closure()
        with each.moved(radius):   # sub-batch i at w + radius g_i; `.grad` becomes sum_i n_i/N of the gradients there
            closure()

    Each parameter is used once, in a linear layer, a convolution, a normalisation of single examples or a sum, and each
    of their inputs has the mini-batch's rows as its first dimension. Kept are
    a linear layer's input and the gradient at its output or, where a sub-batch has many rows (tokens) and for all other
    layers, the g_i.

    Args:
        params: those that are trained.
        parts: sub-batches, as `sub_batches` cuts them.
        size: of the mini-batch.
        if_faster: raise NotTogether where passing sub-batches one after another is expected to be faster.
    """

    def __init__(self, params: Iterable[Tensor], parts: Sequence[Part], size: int, if_faster: bool = False) -> None:
        self._trained = {id(p): p for p in params if p.requires_grad}
        self._cut = Cut(parts, size)
        self._if_faster = if_faster
        self._uses: dict[int, Use] = {}

    @contextmanager
    def at_w(self) -> Iterator[None]:
        """Raises NotTogether, also on leaving."""
        with self.following():
            yield
        self.check([p.grad for p in self._trained.values()])

    def following(self) -> TorchFunctionMode:
        """Where parameters meet a batch inside is remembered, and with the backward pass the gradients there."""
        return _Calls(self._trained, self._meet)

    def check(self, gradients: Iterable[Tensor | None]) -> None:
        """Raises NotTogether where a gradient came on a way that was not seen."""
        pairs = zip(self._trained, gradients, strict=True)
        if any(gradient is not None and key not in self._uses for key, gradient in pairs):
            raise NotTogether("a parameter is used where it can't be followed")

    @contextmanager
    def moved(self, radius: float) -> Iterator[None]:
        """Raises NotTogether where the network runs another way than it did at w."""
        left = set(self._uses)

        def call(func: Callable[..., Any], params: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            keys = [id(p) for p in params]
            if not left.issuperset(keys):
                raise NotTogether("a parameter is used in another way in the second pass")
            left.difference_update(keys)
            return self._uses[keys[0]].moved(radius, *args, **kwargs)

        with _Calls(self._trained, call):
            yield

    def _meet(
        self, func: Callable[..., Any], params: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if torch.is_autocast_enabled(params[0].device.type):
            raise NotTogether("autocast changes the precision on the way")
        keys = [id(p) for p in params]
        if self._uses.keys() & keys:
            raise NotTogether("a parameter is used twice")
        use = use_of(func, params, args, kwargs, self._cut)
        self._uses.update(dict.fromkeys(keys, use))
        output = use.at_w(*args, **kwargs)
        if self._if_faster and isinstance(output, Tensor):
            most = max(self._cut.counts)
            if func is functional.linear and isinstance(use, Layer) and most * output[0, ..., 0].numel() >= _MANY:
                raise NotTogether("a linear layer has many rows in each sub-batch")
            if func in CONVOLUTIONS and output.device.type == "cpu" and most * output[0].numel() >= _LARGE:
                raise NotTogether("a convolution gives many numbers in each sub-batch")
        return output


def obstacle(model: nn.Module | None, images: Tensor | None = None) -> str | None:
    """Why the sub-batches of this network can't be passed together; None where nothing is seen that forbids it.

    Args:
        images: a mini-batch to try it with.
    """
    if model is None:
        return "the network is not known: hand in `model`"
    if mixes_examples(model):
        known = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        return f"{'BatchNorm' if known else 'a module with buffers'} gives each sub-batch statistics of its own"
    if hasattr(model, "_orig_mod"):
        return "the network is compiled"
    if images is None:
        return None
    params = [p for p in model.parameters() if p.requires_grad]
    each = SubBatchGradients(params, sub_batches(len(images), 2), len(images))
    replay = RandomReplay(images.device)
    try:
        with each.following(), torch.enable_grad():
            found = torch.autograd.grad(model(images).sum(), params, allow_unused=True)
            each.check(found)
        return "the network draws random numbers, as dropout does" if replay.drawn else None
    except NotTogether as failure:
        return str(failure)
    finally:
        replay.rewind()


class _Calls(TorchFunctionMode):
    """Hands every call that involves a trained parameter, and can pass a gradient to it, to `act`."""

    def __init__(
        self,
        trained: dict[int, Tensor],
        act: Callable[[Callable[..., Any], list[Tensor], tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        super().__init__()
        self.trained, self.act = trained, act

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        params = self._trained_among((*args, *kwargs.values()) if kwargs else args)
        if not params or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func in LAYERS or func in SUMS:
            return self.act(func, params, args, kwargs)
        found = func(*args, **kwargs)
        several = found if isinstance(found, (list, tuple)) else (found,)
        if any(isinstance(value, Tensor) and value.requires_grad for value in several):
            return self.act(func, params, args, kwargs)
        return found

    def _trained_among(self, values: Sequence[Any]) -> list[Tensor]:
        params = [value for value in values if id(value) in self.trained]
        for value in values:
            if isinstance(value, (list, tuple)):
                params += self._trained_among(value)
        return params
