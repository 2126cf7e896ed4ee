"""The layout in memory of a convolutional network's tensors."""

from __future__ import annotations

import torch
from torch import nn

from fsbench.training.precision import Precision


def chosen_memory_format(name: str, model: nn.Module, precision: Precision) -> torch.memory_format:
    """The format `trainer.memory_format` asks for.

    `auto` is channels_last for networks with 2-d convolutions on a CPU, where it was measured to be faster in fp32 and
    bf16, and on a GPU in every precision but fp32; contiguous else. What holds for a GPU is assumed: cuDNN's kernels
    for matrix units (tf32, bf16, fp16) read NHWC and convert NCHW on the way in and out (NVIDIA, "Convolutional layers
    user's guide", tensor layouts), those for plain fp32 are tuned for NCHW.
    """
    if name != "auto":
        return {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[name]
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    faster = precision.device.type == "cpu" or precision.name != "fp32"
    return torch.channels_last if convolutional and faster else torch.contiguous_format


def memory_format_of(model: nn.Module) -> torch.memory_format:
    """The format the network's convolutions are in; images should come in the same."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Conv2d) and weight is not None and weight.ndim == 4 and not weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format
