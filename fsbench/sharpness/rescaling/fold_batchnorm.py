"""BatchNorm in eval mode made part of the layer before it."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fsbench.sharpness.estimate import Refused

Layer = nn.Linear | _ConvNd
# Subclasses may do more than normalise: timm's apply an activation function as well.
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fold_batchnorm(model: nn.Module, x: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of the network in which every BatchNorm is folded into the layer before it, and the names of these layers.

        W' = W gamma / sqrt(var + eps),  b' = beta + (b - mean) gamma / sqrt(var + eps)

    W' is trained where W or gamma is, b' where b or beta is. Which layer comes before is found out by running the
    network on `x`: the BatchNorm's input has to be that layer's output itself, unchanged. The network itself is
    returned, and no names, where it has no BatchNorm.

    Args:
        model: in eval mode.
        x: a few examples.

    Raises:
        Refused: a BatchNorm does not follow a linear or convolution layer directly, one of the two is used more than
            once, or the copy does not compute the same; by name.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        return model, ()
    pairs, output = _pairs(model, norms, x)
    for name, norm in norms.items():
        if type(norm) not in _PLAIN:
            raise Refused(f"{name} ({type(norm).__name__}) is no plain BatchNorm and can't be folded")
        if norm not in pairs:
            raise Refused(
                f"{name} ({type(norm).__name__}) can't be folded: it does not follow a linear or convolution layer "
                "directly, each of them used once"
            )
    names = {module: name for name, module in model.named_modules()}
    copied = copy.deepcopy(model)
    twins = dict(zip(model.modules(), copied.modules(), strict=True))
    folded: dict[nn.Module, nn.Module] = {}
    for norm, layer in pairs.items():
        try:
            folded[twins[layer]] = _fused(layer, copy.deepcopy(norm))
        except (RuntimeError, AssertionError) as error:
            raise Refused(f"{names[norm]} can't be folded into {names[layer]}: {error}") from error
        folded[twins[norm]] = nn.Identity()
    for parent in list(copied.modules()):
        for key, child in parent._modules.items():
            if child in folded:
                parent._modules[key] = folded[child]
    with torch.no_grad():
        again = copied(x)
    into = tuple(names[layer] for layer in pairs.values())
    most = float(output.abs().max()) * torch.finfo(output.dtype).eps ** 0.5
    if again.shape != output.shape or not float((again - output).abs().max()) <= most:
        raise Refused(f"the network is not the same with BatchNorm folded into {', '.join(into)}")
    return copied, into


def _pairs(model: nn.Module, norms: dict[str, _BatchNorm], x: Tensor) -> tuple[dict[_BatchNorm, Layer], Tensor]:
    """The layer that each BatchNorm's input is the very output of, where both are called once; and the logits."""
    calls: Counter[nn.Module] = Counter()
    produced: list[tuple[Layer, Tensor, int]] = []
    pairs: dict[_BatchNorm, Layer] = {}

    def after_layer(module: Layer, arguments: tuple, output: Tensor) -> None:
        calls[module] += 1
        # The version tells whether it was changed in place afterwards.
        produced.append((module, output, output._version))

    def before_norm(module: _BatchNorm, arguments: tuple) -> None:
        calls[module] += 1
        for layer, output, version in produced:
            if arguments and arguments[0] is output and output._version == version:
                pairs[module] = layer

    handles = []
    try:
        for module in model.modules():
            if isinstance(module, nn.Linear | _ConvNd):
                handles.append(module.register_forward_hook(after_layer))
        handles += [norm.register_forward_pre_hook(before_norm) for norm in norms.values()]
        with torch.no_grad():
            output = model(x)
    finally:
        for handle in handles:
            handle.remove()
    once = {norm: layer for norm, layer in pairs.items() if calls[norm] == calls[layer] == 1}
    shared = Counter(once.values())
    return {norm: layer for norm, layer in once.items() if shared[layer] == 1}, output


def _fused(layer: Layer, norm: _BatchNorm) -> Layer:
    trained_weight = any(p is not None and p.requires_grad for p in (layer.weight, norm.weight))
    trained_bias = any(p is not None and p.requires_grad for p in (layer.bias, norm.bias))
    if norm.weight is None:
        # Not affine; written out, as not all of torch's functions allow for it.
        norm.weight = nn.Parameter(torch.ones_like(norm.running_mean))
        norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean))
    fused: Layer
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_eval(layer, norm)
    else:
        fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _ConvTransposeNd))
    fused.weight.requires_grad_(trained_weight)
    fused.get_parameter("bias").requires_grad_(trained_bias)
    return fused
