"""Chains of layers whose scale passes through, which minimum sharpness is defined for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from fsbench.sharpness.estimate import Refused


@dataclass(frozen=True)
class ChainLayer:
    """A linear or convolution layer, by its own name and the names of its tensors in `named_parameters()`."""

    name: str
    weight: str
    bias: str | None


@dataclass(frozen=True)
class _Call:
    """One call of a module with its input and its output."""

    name: str
    kind: str
    input: Tensor | None
    output: Tensor | None


def layer_chain(model: nn.Module, x: Tensor) -> tuple[list[ChainLayer], dict[str, str]]:
    """The linear and convolution layers in the order of execution; and what becomes of all other trained tensors.

    The second value says of each trained tensor outside of the chain `unused`, or `slope` for that of a PReLU, which
    keeps its own scale as the layers are rescaled.

    Args:
        model: in eval mode.
        x: a few examples.

    Raises:
        Refused: by name: a layer used more than once or sharing its weight, a trained tensor that is neither weight
            nor bias of a layer that is called; no layer at all.
    """
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    called: list[nn.Module] = []
    names: dict[nn.Module, str] = {}
    slopes: set[int] = set()
    handles = []
    try:
        for name, module in model.named_modules():
            names.setdefault(module, name)
            if isinstance(module, nn.PReLU):
                slopes.add(id(module.weight))
            if isinstance(module, nn.Linear | _ConvNd):
                handles.append(module.register_forward_hook(lambda module, *_: called.append(module)))
        # All weights, also those that are not trained: a layer that the logits do not depend on is no part of it.
        values = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        with torch.enable_grad():
            output = functional_call(model, values, (x,))
            found = (
                torch.autograd.grad(output.sum(), list(values.values()), allow_unused=True)
                if output.requires_grad
                else [None] * len(values)
            )
    finally:
        for handle in handles:
            handle.remove()
    used = {name for name, gradient in zip(values, found, strict=True) if gradient is not None}
    layers: list[ChainLayer] = []
    owner: dict[str, str] = {}
    count = Counter(called)
    for module in dict.fromkeys(called):
        tensors = [of.get(id(tensor)) for tensor in (module.weight, module.bias)]
        if not any(tensor in used for tensor in tensors):
            continue
        name = names[module]
        if count[module] > 1:
            raise Refused(f"{name} ({type(module).__name__}) is used {count[module]} times")
        if tensors[0] is None:
            raise Refused(f"the weight of {name} ({type(module).__name__}) is computed from other tensors")
        for tensor in tensors:
            if tensor is not None and owner.setdefault(tensor, name) != name:
                raise Refused(f"{owner[tensor]} and {name} share the tensor {tensor}")
        layers.append(ChainLayer(name, tensors[0], tensors[1]))
    if not layers:
        raise Refused("the network calls no linear or convolution layer")
    others: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if name in owner or not parameter.requires_grad:
            continue
        if name not in used:
            others[name] = "unused"
        elif id(parameter) in slopes:
            others[name] = "slope"
        else:
            owning = type(model.get_submodule(name.rpartition(".")[0])).__name__
            raise Refused(
                f"{name} ({owning}) is trained, but is neither weight nor bias of a linear or convolution layer "
                "that is called"
            )
    return layers, others


def refuse_unscalable(model: nn.Module, layers: list[ChainLayer], x: Tensor) -> None:
    """Tries out the promise that minimum sharpness rests on, for each layer but the last.

    Its weight times 2, its bias and all biases after it but the last layer's times 2, the last layer's weight
    divided by 2: the logits for `x` have to stay the same, up to rounding (powers of two add none of their own).
    Then the same with 1024 in place of 2, as functions such as ReLU6 bend far out.

    Raises:
        Refused: they do not; names the first layer for which, and the module, or the place between two modules,
            at which the scale is lost.
    """
    if len(layers) < 2:
        return
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with _calls(model) as before, torch.no_grad():
        logits = functional_call(model, values, (x,))
    last = layers[-1]
    for (index, layer), factor in itertools.product(enumerate(layers[:-1]), (2, 1024)):
        scaled = dict(values)
        scaled[layer.weight] = values[layer.weight] * factor
        scaled[last.weight] = values[last.weight] / factor
        for following in layers[index:-1]:
            if following.bias is not None:
                scaled[following.bias] = values[following.bias] * factor
        with _calls(model) as after, torch.no_grad():
            again = functional_call(model, scaled, (x,))
        if not _times(again, logits, 1):
            raise Refused(
                f"the logits change when {layer.name} is multiplied and {last.name} divided by {factor} (and the "
                f"biases in between go along): the scale is lost {_where(before, after, layer.name, last.name, factor)}"
            )


def _times(tensor: Tensor, reference: Tensor, factor: float) -> bool:
    """True where tensor = factor * reference, up to rounding."""
    if tensor.shape != reference.shape:
        return False
    off = (tensor.double() - factor * reference.double()).abs().max()
    return bool(off <= 1000 * torch.finfo(tensor.dtype).eps * factor * reference.double().abs().max())


def _where(before: list[_Call], after: list[_Call], first: str, last: str, scale: float) -> str:
    """The module, or the place between two modules, at which the scale given to `first` gets lost."""
    factor, place = 0.0, first
    for old, new in zip(before, after, strict=False):
        if factor and old.input is not None and new.input is not None and not _times(new.input, old.input, factor):
            return f"between {place} and {old.name} (a residual sum, or a function that is no module)"
        if old.name == first:
            factor = scale
        elif old.name == last:
            factor = 1
        if factor and old.output is not None and new.output is not None and not _times(new.output, old.output, factor):
            return f"in {old.name} ({old.kind})"
        place = old.name if factor else place
    return f"after {place} (a sum, or a function that is no module)"


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[_Call]]:
    """Records the calls of all modules without children; copies, as what follows may work in place."""
    calls: list[_Call] = []
    inputs: list[Tensor | None] = []

    def before(module: nn.Module, arguments: tuple) -> None:
        given = arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
        inputs.append(given.clone() if given is not None and given.is_floating_point() else None)

    def after(name: str):
        def hook(module: nn.Module, arguments: tuple, output: object) -> None:
            kept = output.clone() if isinstance(output, Tensor) and output.is_floating_point() else None
            calls.append(_Call(name, type(module).__name__, inputs.pop(), kept))

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(after(name)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()
