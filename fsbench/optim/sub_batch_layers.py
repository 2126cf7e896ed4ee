"""A layer in a pass over several sub-batches: at w, where g_i of each is kept, and with sub-batch i at w + r g_i.

A linear layer's g_i = delta_i^T x_i is known by its factors, the layer's input and the gradient at its output, and

    x' (w + r g_i)^T = x' w^T + r (x' x_i^T) delta_i

is a product with the shared weights and two of the size of the sub-batch (the identity that gives norms of per-example
gradients without the gradients: Goodfellow 2015, "Efficient per-example gradient computations"; Li et al. 2022, section
4). g_i is never formed, and the gradient of the mean loss at those weights is what a backward pass leaves in `.grad`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fsbench.optim.sub_batches import Part

# Functions of a batch and of parameters, in which no row of the batch meets another.
CONVOLUTIONS = {functional.conv1d, functional.conv2d, functional.conv3d}
LAYERS = {functional.linear, functional.layer_norm, functional.group_norm, functional.prelu, *CONVOLUTIONS}
# Where the products with the factors are as small as this, they cost no time.
_SMALL = 2**15
# What gives each row a parameter, or adds it.
SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.expand}


class NotTogether(ValueError):
    """The network's sub-batches can't be passed together; says why."""


class Cut:
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


class Use(ABC):
    """One call in which parameters meet a batch: at w, where g_i is kept, and with each sub-batch moved along it."""

    def __init__(self, func: Callable[..., Tensor], cut: Cut) -> None:
        self.func, self.cut = func, cut

    @abstractmethod
    def at_w(self, *args: Any, **kwargs: Any) -> Tensor:
        """The call at w; its backward pass leaves g_i here."""
        ...

    @abstractmethod
    def moved(self, radius: float, *args: Any, **kwargs: Any) -> Tensor:
        """The call with sub-batch i at w + radius g_i."""
        ...


class FactoredLinear(Use):
    """x_i and delta_i stand for g_i."""

    def __init__(self, cut: Cut, weight: bool, bias: bool) -> None:
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
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, use: FactoredLinear, radius: float
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


class Convolution(Use):
    """g_i is kept; passed in one piece but for what is each sub-batch's own."""

    def __init__(self, func: Callable[..., Tensor], cut: Cut, weight: bool, bias: bool) -> None:
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
    def forward(ctx: Any, use: Convolution, input: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Any:
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
        ctx: Any, use: Convolution, radius: float, input: Tensor, weight: Tensor, bias: Tensor | None, *options: Any
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
            back = torch.cat([_convolution_backward(d, x, w, ctx.options, (True, False, False))[0] for d, x, w in rows])
        sums = _convolution_backward(slope, input, own[0], ctx.options, (False, *use.asks))[1:]
        return None, None, back, *sums, *(None for _ in ctx.options)


class Layer(Use):
    """Sub-batch by sub-batch, each with parameters of its own; g_i is kept."""

    def __init__(self, func: Callable[..., Tensor], cut: Cut, trained: list[Tensor]) -> None:
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


class Sum(Use):
    """Each row gets, or is added, the parameter; g_i, the sum over the rows, is kept."""

    def __init__(self, func: Callable[..., Tensor], cut: Cut, p: Tensor) -> None:
        super().__init__(func, cut)
        self.shape = p.shape
        self.gradients: list[Tensor] | None = None

    def at_w(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self.func(*args, **kwargs)
        spread = len(self.shape) < output.ndim or self.shape[:1] == (1,)
        if kwargs or not spread or output.shape[0] != self.cut.size:
            raise NotTogether("a parameter is added to something else than the rows of the mini-batch")
        output.register_hook(self._keep)
        return output

    def _keep(self, delta: Tensor) -> None:
        self.gradients = [rows.sum_to_size(self.shape) for rows in self.cut.split(delta)]

    def moved(self, radius: float, *args: Any, **kwargs: Any) -> Tensor:
        output = self.func(*args)
        if self.gradients is None:
            return output
        rows = zip(self.cut.split(output), self.gradients, self.cut.shares, strict=True)
        return torch.cat([own.add(gradient, alpha=radius / share) for own, gradient, share in rows])


def use_of(
    func: Callable[..., Any], params: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], cut: Cut
) -> Use:
    batch = args[0] if args and isinstance(args[0], Tensor) else None
    if func in SUMS and len(params) == 1:
        return Sum(func, cut, params[0])
    if func not in LAYERS or batch is None or any(batch is p for p in params):
        raise NotTogether(f"a parameter is used in {getattr(func, '__name__', func)}")
    several = batch.ndim > 1 and (func not in CONVOLUTIONS or batch.ndim == params[0].ndim or params[0].ndim == 1)
    if not several or batch.shape[0] != cut.size:
        raise NotTogether(f"a layer's input has {len(batch) if several else 1} rows, the mini-batch {cut.size}")
    own = [any(p is trained for trained in params) for p in (*args[1:3], None)][:2]
    if sum(own) < len(params):  # some are named, or come later
        return Layer(func, cut, params)
    if func is functional.linear:
        rows, (outputs, inputs) = max(cut.counts) * batch[0, ..., 0].numel(), args[1].shape
        if rows * (inputs + outputs) <= max(inputs * outputs, _SMALL):
            return FactoredLinear(cut, *own)
    if func in CONVOLUTIONS and not any(isinstance(a, str) for a in (*args, *kwargs.values())):  # padding="same"
        return Convolution(func, cut, *own)
    return Layer(func, cut, params)
