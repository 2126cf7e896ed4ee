"""The gradients of all sub-batches of a mini-batch from one pass over it, and one pass with each at weights of its own.

Where no example's output depends on the others, the gradient of the rows of a sub-batch at a layer's output, and the
layer's input, are those of the sub-batch alone. A linear layer's g_i = delta_i^T x_i is therefore known by its factors,
and the same layer at w + r g_i is

    x' (w + r g_i)^T = x' w^T + r (x' x_i^T) delta_i,

a product with the shared weights and one of the size of the sub-batch (the identity that gives per-example norms without
per-example gradients: Goodfellow 2015, "Efficient per-example gradient computations"; Li et al. 2022, section 4). g_i is
never formed, and the gradient of the mean loss at those weights is what the backward pass leaves in `.grad`.
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
from fsbench.optim.sub_batches import Part, sub_batches

# Functions of a batch and of parameters, in which no row of the batch meets another.
_CONVOLUTIONS = {functional.conv1d, functional.conv2d, functional.conv3d}
_LAYERS = {functional.linear, functional.layer_norm, functional.group_norm, functional.prelu, *_CONVOLUTIONS}
# On a CPU, sub-batches whose convolutions give as many numbers as this (1 MiB in fp32) are faster one after another:
# each then stays in the cache from layer to layer. Measured with networks of 4 to 64 filters.
_LARGE = 2**18
# A linear layer of this many rows in a sub-batch (images, or their tokens) is as fast as one of more, so that nothing is
# gained by keeping each g_i.
_MANY = 256
# Where the products with the factors are as small as this, they cost no time.
_SMALL = 2**15
# What gives each row a parameter, or adds it.
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.expand}


class NotTogether(ValueError):
    """The network's sub-batches can't be passed together; says why."""


class SubBatchGradients:
    """g_i of the sub-batches of one mini-batch, kept as the second pass needs them.

    Usage, with a closure that passes the whole mini-batch through the network once:

        with each.at_w():          # `.grad` becomes sum_i n_i/N g_i
            closure()
        with each.moved(radius):   # sub-batch i at w + radius g_i; `.grad` becomes sum_i n_i/N of the gradients there
            closure()

    Each parameter is used once, in a linear layer, a convolution, a normalisation of single examples or a sum. Kept are
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
        self._cut = _Cut(parts, size)
        self._if_faster = if_faster
        self._uses: dict[int, _Use] = {}

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
        use = _use(func, params, args, self._cut)
        self._uses.update(dict.fromkeys(keys, use))
        output = use.at_w(*args, **kwargs)
        if self._if_faster and isinstance(output, Tensor):
            most = max(self._cut.counts)
            if func is functional.linear and isinstance(use, _Layer) and most * output[0, ..., 0].numel() >= _MANY:
                raise NotTogether("a linear layer has many rows in each sub-batch")
            if func in _CONVOLUTIONS and output.device.type == "cpu" and most * output[0].numel() >= _LARGE:
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
        return "BatchNorm gives each sub-batch statistics of its own"
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


class _Cut:
    """Rows of the mini-batch as sub-batches."""

    def __init__(self, parts: Sequence[Part], size: int) -> None:
        self.size = size
        self.counts = [len(range(size)[rows]) for rows, _ in parts]
        self.shares = [share for _, share in parts]
        self.even = len(set(self.counts)) == 1

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.counts)

    def stacked(self, x: Tensor) -> Tensor:
        """(N, ..., D) as (M, rows, D); for an even cut."""
        return x.reshape(len(self.counts), -1, x.shape[-1])


class _Use:
    """One call in which parameters meet a batch: at w, where g_i is kept, and with each sub-batch moved along it."""

    def __init__(self, func: Callable[..., Tensor], cut: _Cut) -> None:
        self.func, self.cut = func, cut

    def at_w(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError

    def moved(self, radius: float, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError


class _FactoredLinear(_Use):
    """x_i and delta_i stand for g_i."""

    def __init__(self, cut: _Cut, weight: bool, bias: bool) -> None:
        super().__init__(functional.linear, cut)
        self.weight, self.bias = weight, bias
        self.delta: Tensor | None = None

    def at_w(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.input = input.detach()
        output = functional.linear(input, weight, bias)
        output.register_hook(self._keep)
        return output

    def _keep(self, delta: Tensor) -> None:
        self.delta = delta

    def moved(self, radius: float, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.delta is None:
            return functional.linear(input, weight, bias)
        return _MovedLinear.apply(input, weight, bias, self, radius)

    def add(self, output: Tensor, input: Tensor, radius: float) -> Tensor:
        """output + radius (input at_w^T + 1) delta / share, the 1 for the bias."""
        output = output.contiguous()
        for out, x, at_w, delta, share in self._blocks(output, input):
            if self.weight:
                within = torch.bmm(x, at_w.mT)
                if self.bias:
                    within += 1.0
            else:
                within = x.new_ones(*x.shape[:2], at_w.shape[1])
            out.baddbmm_(within, delta, alpha=radius / share)
        return output

    def add_back(self, backward: Tensor, slope: Tensor, radius: float) -> Tensor:
        """backward + radius (slope delta^T) at_w / share."""
        backward = backward.contiguous()
        if self.weight:
            for out, d, at_w, delta, share in self._blocks(backward, slope):
                out.baddbmm_(torch.bmm(d, delta.mT), at_w, alpha=radius / share)
        return backward

    def _blocks(self, output: Tensor, input: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, float]]:
        """All sub-batches as one block (M, rows, D) where they are alike, else a block for each."""
        whole = (output, input, self.input, self.delta)
        if self.cut.even:
            yield *(self.cut.stacked(tensor) for tensor in whole), self.cut.shares[0]
            return
        for *tensors, share in zip(*map(self.cut.split, whole), self.cut.shares, strict=True):
            yield *(tensor.reshape(1, -1, tensor.shape[-1]) for tensor in tensors), share


class _MovedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, use: _FactoredLinear, radius: float
    ) -> Tensor:
        ctx.use, ctx.radius = use, radius
        ctx.save_for_backward(input, weight)
        return use.add(functional.linear(input, weight, bias), input, radius)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (input, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
        rows = slope.reshape(-1, slope.shape[-1])
        back = ctx.use.add_back(slope @ weight, slope, ctx.radius) if needs[0] else None
        of_weight = rows.t() @ input.reshape(-1, input.shape[-1]) if needs[1] else None
        return back, of_weight, rows.sum(0) if needs[2] else None, None, None


class _Convolution(_Use):
    """g_i is kept; passed in one piece but for what is each sub-batch's own."""

    def __init__(self, func: Callable[..., Tensor], cut: _Cut, weight: bool, bias: bool) -> None:
        super().__init__(func, cut)
        self.asks = (weight, bias)
        self.gradients: list[tuple[Tensor | None, Tensor | None]] = []

    def at_w(self, *args: Any, **kwargs: Any) -> Tensor:
        return _ConvolutionAtW.apply(self, *_convolution(*args, **kwargs))

    def moved(self, radius: float, *args: Any, **kwargs: Any) -> Tensor:
        if not self.gradients:
            return self.func(*args, **kwargs)
        return _MovedConvolution.apply(self, radius, *_convolution(*args, **kwargs))

    def own(self, radius: float, weight: Tensor, bias: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of each sub-batch, laid out as those at w: that decides how the output is."""
        return [
            tuple(
                p if g is None else torch.add(p, g, alpha=radius / share, out=torch.empty_like(p))
                for p, g in zip((weight, bias), mine, strict=True)
            )
            for mine, share in zip(self.gradients, self.cut.shares, strict=True)
        ]


def _convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments of functional.conv1d to conv3d as aten's convolution has them."""
    spread = [[v] * (input.ndim - 2) if isinstance(v, int) else list(v) for v in (stride, padding, dilation)]
    return input, weight, bias, *spread, False, [0] * (input.ndim - 2), groups


def _convolution_backward(slope: Tensor, input: Tensor, weight: Tensor, options: Any, asks: Sequence[bool]) -> Any:
    bias = [weight.shape[0]] if asks[2] else None
    return torch.ops.aten.convolution_backward(slope, input, weight, bias, *options, list(asks))


class _ConvolutionAtW(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, use: _Convolution, input: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Any:
        ctx.use, ctx.options = use, options
        ctx.save_for_backward(input, weight)
        return torch.ops.aten.convolution(input, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        (input, weight), use = ctx.saved_tensors, ctx.use
        back = None
        if ctx.needs_input_grad[1]:
            back = _convolution_backward(slope, input, weight, ctx.options, (True, False, False))[0]
        rows = zip(use.cut.split(slope), use.cut.split(input), strict=True)
        use.gradients = [_convolution_backward(d, x, weight, ctx.options, (False, *use.asks))[1:] for d, x in rows]
        sums = [torch.stack(own).sum(0) if own[0] is not None else None for own in zip(*use.gradients, strict=True)]
        return None, back, *sums, *(None for _ in ctx.options)


class _MovedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, use: _Convolution, radius: float, input: Tensor, weight: Tensor, bias: Tensor | None, *options: Any
    ) -> Tensor:
        ctx.use, ctx.options = use, options
        own = use.own(radius, weight, bias)
        ctx.save_for_backward(input, *(w for w, _ in own))
        rows = zip(use.cut.split(input), own, strict=True)
        return torch.cat([torch.ops.aten.convolution(x, w, b, *options) for x, (w, b) in rows])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        (input, *own), use = ctx.saved_tensors, ctx.use
        back = None
        if ctx.needs_input_grad[2]:
            rows = zip(use.cut.split(slope), use.cut.split(input), own, strict=True)
            back = torch.cat(
                [_convolution_backward(d, x, w, ctx.options, (True, False, False))[0] for d, x, w in rows]
            )
        sums = _convolution_backward(slope, input, own[0], ctx.options, (False, *use.asks))[1:]
        return None, None, back, *sums, *(None for _ in ctx.options)


class _Layer(_Use):
    """Sub-batch by sub-batch, each with parameters of its own; g_i is kept."""

    def __init__(self, func: Callable[..., Tensor], cut: _Cut, trained: list[Tensor]) -> None:
        super().__init__(func, cut)
        self.trained = {id(p) for p in trained}
        self.gradients: dict[tuple[int, int], Tensor] = {}

    def at_w(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._each(input, args, kwargs, self._alias)

    def moved(self, radius: float, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def own(part: int, p: Tensor) -> Tensor:
            gradient = self.gradients.get((part, id(p)))
            return p if gradient is None else p.add(gradient, alpha=radius / self.cut.shares[part])

        return self._each(input, args, kwargs, own)

    def _alias(self, part: int, p: Tensor) -> Tensor:
        alias = p.view_as(p)
        alias.register_hook(lambda gradient: self.gradients.__setitem__((part, id(p)), gradient))
        return alias

    def _each(
        self, input: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], own: Callable[[int, Tensor], Tensor]
    ) -> Tensor:
        outputs = []
        for part, rows in enumerate(self.cut.split(input)):
            mine = [own(part, a) if id(a) in self.trained else a for a in args]
            named = {key: own(part, a) if id(a) in self.trained else a for key, a in kwargs.items()}
            outputs.append(self.func(rows, *mine, **named))
        return torch.cat(outputs)


class _Sum(_Use):
    """Each row gets, or is added, the parameter; g_i, the sum over the rows, is kept."""

    def __init__(self, func: Callable[..., Tensor], cut: _Cut, p: Tensor) -> None:
        super().__init__(func, cut)
        self.shape = p.shape
        self.gradients: list[Tensor] | None = None

    def at_w(self, *args: Any) -> Tensor:
        output = self.func(*args)
        if output.shape[0] != self.cut.size or (len(self.shape) == output.ndim and self.shape[0] != 1):
            raise NotTogether("a parameter is added to something else than the rows of the mini-batch")
        output.register_hook(self._keep)
        return output

    def _keep(self, delta: Tensor) -> None:
        self.gradients = [rows.sum_to_size(self.shape) for rows in self.cut.split(delta)]

    def moved(self, radius: float, *args: Any) -> Tensor:
        output = self.func(*args)
        if self.gradients is None:
            return output
        rows = zip(self.cut.split(output), self.gradients, self.cut.shares, strict=True)
        return torch.cat([own.add(gradient, alpha=radius / share) for own, gradient, share in rows])


def _use(func: Callable[..., Any], params: list[Tensor], args: tuple[Any, ...], cut: _Cut) -> _Use:
    batch = args[0] if args and isinstance(args[0], Tensor) else None
    if func in _SUMS and len(params) == 1:
        return _Sum(func, cut, params[0])
    if func not in _LAYERS or batch is None or any(batch is p for p in params):
        raise NotTogether(f"a parameter is used in {getattr(func, '__name__', func)}")
    if batch.ndim < 2 or batch.shape[0] != cut.size:
        raise NotTogether(f"a layer's input has {len(batch)} rows, the mini-batch {cut.size}")
    own = [any(p is trained for trained in params) for p in (*args[1:3], None)][:2]
    if sum(own) < len(params):  # some are named, or come later
        return _Layer(func, cut, params)
    if func is functional.linear:
        rows, (outputs, inputs) = max(cut.counts) * batch[0, ..., 0].numel(), args[1].shape
        if rows * (inputs + outputs) <= max(inputs * outputs, _SMALL):
            return _FactoredLinear(cut, *own)
    if func in _CONVOLUTIONS and not any(isinstance(a, str) for a in args):  # padding="same"
        return _Convolution(func, cut, *own)
    return _Layer(func, cut, params)


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
        params = [a for a in _flat((*args, *kwargs.values())) if id(a) in self.trained]
        if not params or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func in _LAYERS or func in _SUMS:
            return self.act(func, params, args, kwargs)
        found = func(*args, **kwargs)
        if any(isinstance(value, Tensor) and value.requires_grad for value in _flat((found,))):
            return self.act(func, params, args, kwargs)
        return found


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value
