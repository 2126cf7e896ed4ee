"""From the options of a model to a network that takes the data."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import torch
from torch import nn

from fsbench.config.model import ModelOptions, Timm
from fsbench.errors import UsageError, first_line
from fsbench.models.checkpoint import load_weights


def build_model(options: ModelOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network `options` describe, for images of `shape` (C, H, W) in pixels; logits (N, classes).

    On the CPU, in train mode, initialised from PyTorch's global generator, then loaded from
    `options.checkpoint` where one is named. Raises UsageError where the network can't take the images,
    where it is larger than memory and where the checkpoint isn't its own.
    """
    build, smallest = options.built_by(), options.smallest
    if min(shape[1:]) < smallest:
        least = f"it needs at least {smallest} x {smallest} pixels"
        raise UsageError("model", options, f"can't take {images_text(shape)}; {least}")
    _refuse_too_large(build, options, shape, classes)
    model = build(options, shape, classes)
    try:
        output = output_shape(model, shape)
    except Exception as error:  # whatever a network of timm's or of a user's may raise
        reason = first_line(error)
        raise UsageError("model", options, f"can't take {images_text(shape)} ({reason})") from error
    if output != (2, classes):
        found = f"two of them give an output of shape {output}, not (2, {classes})"
        raise UsageError("model", options, f"can't take {images_text(shape)}; {found}")
    if options.checkpoint is not None:
        load_weights(model, options.checkpoint)
    return model


def _refuse_too_large(
    build: Callable[..., nn.Module], options: ModelOptions, shape: tuple[int, int, int], classes: int
) -> None:
    """Raise UsageError for weights beyond this machine's memory; built without data first, for they may be anything."""
    # Those of timm are of fixed sizes; neither they nor a user's can all be built so.
    if isinstance(options, Timm) or options.source or torch.get_default_device().type == "meta":
        return
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = build(options, shape, classes)
    except (RuntimeError, OverflowError, TypeError) as failure:
        problem = f"can't be built: {first_line(failure)}"
        raise UsageError("model", options, problem) from failure
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        problem = f"its weights take {size / 2**30:,.0f} GiB; this machine has {memory / 2**30:,.0f} GiB of memory"
        raise UsageError("model", options, problem)


def images_text(shape: tuple[int, int, int]) -> str:
    """`images of C x H x W`, as messages name them."""
    return f"images of {shape[0]} x {shape[1]} x {shape[2]}"


def output_shape(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of the network's output for two images (C, H, W), found with next to no computation.

    The forward pass is in eval mode, on a twin on PyTorch's meta device (shapes without data), so it is
    cheap for networks of every size and touches neither parameters, statistics nor random numbers. A
    network that can't run there runs itself, on zeros. Raises what the network raises; leaves it in train
    mode.
    """
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                output = _meta_twin(model)(torch.zeros(2, *shape, device="meta"))
            except Exception:  # the images are refused, or the network has tensors that aren't registered
                if any(parameter.is_meta for parameter in model.parameters()):
                    raise
                output = model(torch.zeros(2, *shape))
    finally:
        model.train()
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"the output is a {type(output).__name__}, not a tensor of logits")
    return tuple(output.shape)


def _meta_twin(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with `model` and in which every parameter and buffer is on the meta device."""
    twins: dict[int, object] = {}
    for parameter in model.parameters():
        twins[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        twins[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, twins)  # deepcopy takes these for what it has copied already


def parameter_count(model: nn.Module) -> int:
    """The number of trainable numbers of a network; shared parameters count once, buffers don't."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
