"""From the options of a model to a network that takes the data."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from fsbench.config.model import ModelOptions
from fsbench.errors import UsageError
from fsbench.models import (
    cnn,
    densenet,
    densenet_bc,
    from_timm,
    lenet,
    lenet_ibayashi,
    mlp,
    pyramidnet,
    resnet,
    resnet_cifar,
    resnext_cifar,
    small_cnn,
    vgg_bn,
    wrn,
    wrn_imagenet,
)
from fsbench.models.checkpoint import load_checkpoint
from fsbench.models.choice import choice, images
from fsbench.models.input_check import output_shape


class Family(NamedTuple):
    """How a family is built, and the smallest height and width of its images in pixels."""

    build: Callable[..., nn.Module]
    smallest: int = 1


FAMILIES = {
    "resnet_cifar": Family(resnet_cifar.build),
    "resnet": Family(resnet.build),
    "wrn": Family(wrn.build),
    "wrn_imagenet": Family(wrn_imagenet.build),
    "pyramidnet": Family(pyramidnet.build),
    "densenet": Family(densenet.build, smallest=29),
    "densenet_bc": Family(densenet_bc.build, smallest=4),
    "vgg_bn": Family(vgg_bn.build, smallest=32),
    "resnext_cifar": Family(resnext_cifar.build),
    "cnn": Family(cnn.build, smallest=4),
    "mlp": Family(mlp.build),
    "lenet": Family(lenet.build, smallest=12),
    "lenet_ibayashi": Family(lenet_ibayashi.build, smallest=28),
    "small_cnn": Family(small_cnn.build, smallest=16),
    "timm": Family(from_timm.build),
}


def build_model(options: ModelOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network `options` describe, for images of `shape` (C, H, W) in pixels; logits (N, classes).

    On the CPU, in train mode, initialised from PyTorch's global generator, then loaded from
    `options.checkpoint` where one is named. Raises UsageError where the network can't take the images,
    where it is larger than memory and where the checkpoint isn't its own.
    """
    family = FAMILIES[options.family]
    if min(shape[1:]) < family.smallest:
        least = f"it needs at least {family.smallest} x {family.smallest} pixels"
        raise UsageError("model", choice(options), f"can't take {images(shape)}; {least}")
    _refuse_too_large(family, options, shape, classes)
    model = family.build(options, shape, classes)
    try:
        output = output_shape(model, shape)
    except Exception as error:  # whatever a network of timm's may raise
        reason = from_timm.first_line(error)
        raise UsageError("model", choice(options), f"can't take {images(shape)} ({reason})") from error
    if output != (2, classes):
        found = f"two of them give an output of shape {output}, not (2, {classes})"
        raise UsageError("model", choice(options), f"can't take {images(shape)}; {found}")
    if options.checkpoint is not None:
        load_checkpoint(model, options.checkpoint)
    return model


def _refuse_too_large(family: Family, options: ModelOptions, shape: tuple[int, int, int], classes: int) -> None:
    """Raise UsageError for weights beyond this machine's memory; built without data first, for they may be anything."""
    # Those of timm are of fixed sizes, and not all of them can be built so.
    if family.build is from_timm.build or torch.get_default_device().type == "meta":
        return
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = family.build(options, shape, classes)
    except (RuntimeError, OverflowError, TypeError) as failure:
        problem = f"can't be built: {from_timm.first_line(failure)}"
        raise UsageError("model", choice(options), problem) from failure
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        problem = f"its weights take {size / 2**30:,.0f} GiB; this machine has {memory / 2**30:,.0f} GiB of memory"
        raise UsageError("model", choice(options), problem)
