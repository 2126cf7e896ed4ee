"""The look at whether a network takes the data, before training starts."""

from __future__ import annotations

import copy

import torch
from torch import nn


def images(shape: tuple[int, int, int]) -> str:
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
