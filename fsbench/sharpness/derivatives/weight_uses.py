"""The uses of a network's weights, found out by running it once: per-example gradients are made of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fsbench.sharpness.derivatives.layer_gradients import Dense, LayerGradients, OuterProducts


@dataclass
class Call:
    """One call of a layer whose output is linear in its weights: layer, its input, and where its output arose."""

    layer: Layer
    x: Tensor
    output: GradientEdge

    def gradients(self, of_output: Tensor) -> Iterator[tuple[str, LayerGradients]]:
        """Per-example gradients of the layer's trained tensors from those of its output, (S, n, ...)."""
        return self.layer.gradients(self.x, of_output)


@dataclass(frozen=True)
class Layer(ABC):
    """A layer with the names of its trained tensors; None for one that is absent or frozen."""

    module: nn.Module
    weight: str | None
    bias: str | None

    @property
    def names(self) -> list[str]:
        return [name for name in (self.weight, self.bias) if name is not None]

    @abstractmethod
    def gradients(self, x: Tensor, of_output: Tensor) -> Iterator[tuple[str, LayerGradients]]:
        """Per-example gradients of the trained tensors from those of the output, (S, n, ...)."""

    def explains(self, x: Tensor, output: Tensor) -> bool:
        """True where the output is what this description says: a subclass, a hook or an autocast may do otherwise."""
        try:
            with torch.no_grad():
                expected = self.output(x)
        except (RuntimeError, ValueError, TypeError):
            return False
        if expected.shape != output.shape or expected.dtype != output.dtype:
            return False
        tolerance = torch.finfo(output.dtype).eps ** 0.5 * max(1.0, float(output.abs().max()))
        return torch.allclose(expected, output, rtol=0, atol=tolerance)

    @abstractmethod
    def output(self, x: Tensor) -> Tensor:
        """The output for x by this description."""


class MatrixLayer(Layer):
    """z = W a at each position: linear layers (positions: all axes but the first and the last) and convolutions."""

    module: nn.Linear | _ConvNd

    def columns(self, x: Tensor) -> Tensor:
        """a, (n, groups, I, T)."""
        if isinstance(self.module, nn.Linear):
            if x.dim() == 2:
                return x[:, None, :, None]
            return x.reshape(len(x), 1, -1, x.shape[-1]).mT
        return patches(x, self.module)

    def rows(self, of_output: Tensor) -> Tensor:
        """(..., n, channels, positions) of the output's layout as (..., n, groups, O, T)."""
        if isinstance(self.module, nn.Linear):
            return of_output.flatten(2, -2).mT.unsqueeze(2) if of_output.dim() > 3 else of_output[:, :, None, :, None]
        groups = self.module.groups
        return of_output.flatten(3).unflatten(2, (groups, of_output.shape[2] // groups))

    def gradients(self, x: Tensor, of_output: Tensor) -> Iterator[tuple[str, LayerGradients]]:
        rows = self.rows(of_output)
        if self.weight is not None:
            yield self.weight, OuterProducts(self.columns(x), rows, self.module.weight.shape)
        if self.bias is not None:
            yield self.bias, Dense(rows.sum(-1).flatten(2))

    def output(self, x: Tensor) -> Tensor:
        groups = 1 if isinstance(self.module, nn.Linear) else self.module.groups
        weight = self.module.weight
        z = weight.reshape(groups, len(weight) // groups, -1) @ self.columns(x)  # (n, groups, O, T)
        z = z.flatten(1, 2)
        if self.module.bias is not None:
            z = z + self.module.bias[:, None]
        if isinstance(self.module, nn.Linear):
            return z.mT.reshape(*x.shape[:-1], len(weight))
        return z.unflatten(-1, _output_size(x, self.module))


class ScaleLayer(Layer):
    """z = gamma a + beta with a the normalised input: batch (in eval mode), layer and group normalisation."""

    module: _BatchNorm | nn.LayerNorm | nn.GroupNorm

    def normalised(self, x: Tensor) -> Tensor:
        module = self.module
        if isinstance(module, _BatchNorm):
            return functional.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)
        if isinstance(module, nn.LayerNorm):
            return functional.layer_norm(x, module.normalized_shape, eps=module.eps)
        return functional.group_norm(x, module.num_groups, eps=module.eps)

    def gradients(self, x: Tensor, of_output: Tensor) -> Iterator[tuple[str, LayerGradients]]:
        if self.weight is not None:
            yield self.weight, Dense(self._summed(of_output * self.normalised(x)))
        if self.bias is not None:
            yield self.bias, Dense(self._summed(of_output))

    def _summed(self, values: Tensor) -> Tensor:
        """Over all axes that share a scale; values (S, n, ...)."""
        if isinstance(self.module, nn.LayerNorm):
            own = len(self.module.normalized_shape)
            between = values.dim() - own - 2
            return values.flatten(2, 1 + between).sum(2) if between else values
        return values.flatten(3).sum(3) if values.dim() > 3 else values

    def output(self, x: Tensor) -> Tensor:
        a = self.normalised(x)
        weight: Tensor = self.module.weight
        bias: Tensor | None = self.module.bias
        if not isinstance(self.module, nn.LayerNorm):
            axes = (-1, *(1 for _ in range(x.dim() - 2)))
            weight, bias = weight.view(axes), None if bias is None else bias.view(axes)
        return a * weight if bias is None else a * weight + bias


KINDS: tuple[tuple[tuple[type[nn.Module], ...], type[Layer]], ...] = (
    ((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), MatrixLayer),
    ((_BatchNorm, nn.LayerNorm, nn.GroupNorm), ScaleLayer),
)


@dataclass
class WeightUses:
    """The uses of weights that a forward pass of a few examples shows.

    Args:
        layers: by module, those whose per-example gradients come from their input and output.
        loose: trained tensors that are used in some other way; their gradients are taken example by example.
        unused: trained tensors that the output does not depend on.
        at_one_position: weight matrices that are multiplied with one vector for each example.
        batched: whether the backward pass of several vectors can be run at once (every operation has a rule for it).
        output_size: entries of all `layers`' outputs, of one example.
        input_size: entries of what is multiplied with the weights (unfolded for convolutions), of one example.
    """

    layers: dict[nn.Module, Layer] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    at_one_position: set[str] = field(default_factory=set)
    batched: bool = True
    output_size: int = 0
    input_size: int = 0

    @classmethod
    def of(cls, model: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor) -> WeightUses:
        """Run `model` on a few examples `x`, (n, ...), that differ.

        A layer counts as understood where its output is what its kind says, and its factored gradients are those that
        autograd finds of one example after the other.
        """
        names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
        seen: Counter[str] = Counter()
        uses = cls(layers=_candidates(model, names))
        wrong: set[nn.Module] = set()

        def look(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            layer = uses.layers[module]
            # Where the first axis does not count examples (windows of an attention), nor do its gradients' rows.
            if len(arguments) != 1 or not isinstance(output, Tensor) or not len(arguments[0]) == len(output) == len(x):
                wrong.add(module)
                return
            if not layer.explains(arguments[0].detach(), output.detach()):
                wrong.add(module)
                return
            seen.update(name for name in layer.names if output.requires_grad)
            uses.output_size += output.numel() // len(x)
            if layer.weight is not None and isinstance(module, nn.Linear) and arguments[0].dim() == 2:
                uses.at_one_position.add(layer.weight)
            uses.input_size += _factor_size(layer, arguments[0]) // len(x)

        with torch.enable_grad(), _hooks(uses.layers, look):
            output = model(x.clone())
        in_graph = _edges_to_parameters(output, names)
        unexplained = {name for module in wrong for name in uses.layers[module].names}
        for module in wrong:
            del uses.layers[module]
        for name in parameters:
            if in_graph[name] == 0:
                uses.unused.append(name)
            elif in_graph[name] != seen[name] or name in unexplained:
                uses.loose.append(name)
        uses._check(model, parameters, x)
        return uses

    def _check(self, model: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor) -> None:
        """Move to `loose` what is not as it seemed, and find out whether backward passes can be batched."""
        with torch.enable_grad(), self.recorded() as calls:
            output = model(x.clone())
        if not output.requires_grad or not calls:
            return
        self.batched = _can_be_batched(output, [call.output for call in calls])
        factored = sorted({name for call in calls for name in call.layer.names} - set(self.loose) - set(self.unused))
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        for i in range(len(x)):
            alone = torch.zeros_like(v)
            alone[i] = v[i]
            inputs = [*(call.output for call in calls), *(get_gradient_edge(parameters[name]) for name in factored)]
            found = torch.autograd.grad(output, inputs, alone, retain_graph=True, allow_unused=True)
            expected = dict(zip(factored, found[len(calls) :], strict=True))
            sums: dict[str, Tensor] = {}
            for call, of_output in zip(calls, found, strict=False):
                if of_output is None:
                    continue
                for name, gradients in call.gradients(of_output[None]):
                    if name in expected:
                        sums[name] = sums.get(name, 0.0) + gradients.dense()[0]
            for name, gradient in expected.items():
                if name not in self.loose and not _is_of_one(sums.get(name), gradient, i):
                    self.loose.append(name)

    @contextmanager
    def recorded(self) -> Iterator[list[Call]]:
        """The calls of all layers during a forward pass."""
        calls: list[Call] = []

        def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            # The edge, not the tensor: an operation in place may change what the tensor stands for.
            if output.requires_grad:
                calls.append(Call(self.layers[module], arguments[0].detach(), get_gradient_edge(output)))

        with _hooks(self.layers, record):
            yield calls


def _candidates(model: nn.Module, names: dict[Tensor, str]) -> dict[nn.Module, Layer]:
    found: dict[nn.Module, Layer] = {}
    for module in model.modules():
        for types, kind in KINDS:
            if isinstance(module, types) and isinstance(module.weight, Tensor):
                weight = names.get(module.weight)
                bias = names.get(module.bias) if isinstance(module.bias, Tensor) else None
                if weight is not None or bias is not None:
                    found[module] = kind(module, weight, bias)
    return found


@contextmanager
def _hooks(
    layers: dict[nn.Module, Layer], hook: Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _edges_to_parameters(output: Tensor, names: dict[Tensor, str]) -> Counter[str]:
    """The number of times that each parameter enters the graph of `output`."""
    counts: Counter[str] = Counter()
    stack: list[Node] = [output.grad_fn] if output.grad_fn is not None else []
    visited: set[Node] = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            if (leaf := getattr(node, "variable", None)) is not None and leaf in names:
                counts[names[leaf]] += 1
            if node not in visited:
                visited.add(node)
                stack.append(node)
    return counts


def _is_of_one(rows: Tensor | None, gradient: Tensor | None, i: int) -> bool:
    """True where row i of `rows` is the gradient and all others are zero; None stands for zeros."""
    if rows is None or gradient is None:
        return (rows is None or not rows.any()) and (gradient is None or not gradient.any())
    expected = torch.zeros_like(rows)
    expected[i] = gradient
    tolerance = torch.finfo(rows.dtype).eps ** 0.5 * float(gradient.abs().max())
    return torch.allclose(rows, expected, rtol=0, atol=tolerance)


def _can_be_batched(output: Tensor, edges: list[GradientEdge]) -> bool:
    try:
        torch.autograd.grad(
            output,
            edges,
            output.new_ones(2, *output.shape),
            is_grads_batched=True,
            allow_unused=True,
            retain_graph=True,
        )
    except torch.OutOfMemoryError:
        raise
    # Whatever an operation without such a rule may raise.
    except RuntimeError:
        return False
    return True


def _factor_size(layer: Layer, x: Tensor) -> int:
    if isinstance(layer.module, _ConvNd):
        kernel = math.prod(layer.module.kernel_size)
        return x.shape[1] * kernel * math.prod(_output_size(x, layer.module))
    return x.numel()


def _output_size(x: Tensor, module: _ConvNd) -> list[int]:
    padding = module._reversed_padding_repeated_twice
    return [
        (size + padding[2 * back] + padding[2 * back + 1] - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, dilation, back in zip(
            x.shape[2:], module.kernel_size, module.stride, module.dilation,
            reversed(range(len(module.kernel_size))), strict=True,
        )
    ]  # fmt: skip


def patches(x: Tensor, module: _ConvNd) -> Tensor:
    """The patches of x, (n, C, ...), that a convolution multiplies its weights with, (n, groups, I, T)."""
    zeros = module.padding_mode == "zeros"
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode="constant" if zeros else module.padding_mode)
    # Views, written out once at the end: six times as fast as functional.unfold on a CPU.
    axes = len(module.kernel_size)
    for axis, (kernel, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
    ):
        x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    # (n, C, *positions, *kernel) to (n, C, *kernel, *positions)
    order = (0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
    positions = math.prod(x.shape[2 : 2 + axes])
    return x.permute(order).reshape(len(x), module.groups, -1, positions)
