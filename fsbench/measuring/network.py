"""The network of a source, with its weights, in eval mode."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fsbench.config.model import Timm
from fsbench.data import Data, load_data
from fsbench.measuring.source import Source
from fsbench.models import build_model
from fsbench.runs.read import Unreadable, read_json


@dataclass(frozen=True)
class TrainingImages:
    """The images that a run's network was made for: (C, H, W), classes, and mean and std per channel."""

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, source: Source) -> TrainingImages:
        """As the run recorded them; runs of earlier releases did not, and have their images read."""
        try:
            found = read_json(source.directory.provenance)["data"]
            channels, height, width = map(int, found["shape"])
            mean, std = (tuple(map(float, found[key])) for key in ("mean", "std"))
            return cls((channels, height, width), int(found["classes"]), mean, std)
        except (FileNotFoundError, Unreadable, KeyError, TypeError, ValueError):
            data = load_data(source.dataset, source.data_dir)
            return cls(data.shape, data.classes, data.mean, data.std)


def build_network(
    source: Source, data: Data | TrainingImages, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, list[str]]:
    """The network, and what a reader must know of its weights.

    Raises:
        UsageError: the network can't take the images, or the file holds other weights.
    """
    # As in training: a cropping augmentation may have the network see less than the data set's own size.
    side = source.augment.image_size(None)
    shape = data.shape if side is None else (data.shape[0], side, side)
    torch.manual_seed(source.seed)
    with _messages() as notes:
        model = build_model(source.model, shape, data.classes)
    if source.model.checkpoint is None:
        if isinstance(source.model, Timm) and source.model.pretrained and source.model.name:
            import timm  # imported late: timm takes seconds to load

            published = timm.get_pretrained_cfg(source.model.name)
            if published is not None and published.num_classes not in (None, data.classes):
                classes = f"{data.classes} classes is initial: the published one has {published.num_classes}"
                notes.append(f"the classifier for {classes}")
        else:
            seed = source.seed
            notes.append(f"the weights are the initial ones, of seed {seed}: no model.checkpoint, not pretrained")
    return model.to(device=device, dtype=dtype).eval(), notes


@contextmanager
def _messages() -> Iterator[list[str]]:
    """The messages logged inside: that a classifier stays as initialised, say."""
    heard: list[str] = []
    log, handler = logging.getLogger("fsbench"), logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield heard
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
