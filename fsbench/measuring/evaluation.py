"""Loss and accuracy of a finished run's network, on its own images or on others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fsbench.config.evaluate import EvaluateConfig
from fsbench.config.sharpness import MovedDataset
from fsbench.data import Data, MemorySplit, eval_batches, load_data
from fsbench.data.augment.batch import refuse_streamed
from fsbench.errors import UsageError
from fsbench.losses import plain_loss
from fsbench.measuring.images import own_data
from fsbench.measuring.measure import device_named
from fsbench.measuring.network import TrainingImages, build_network
from fsbench.measuring.source import Source, trained_as
from fsbench.training.evaluate import evaluate
from fsbench.training.memory_format import chosen_memory_format
from fsbench.training.precision import Precision, arithmetic


def evaluated(source: Source, config: EvaluateConfig, *, own_moments: bool) -> dict[str, Any]:
    """Loss and accuracy in [0, 1] of a run's network on a split, and what they are of.

    Computed as in training, so that on the run's own images they are the numbers that it recorded. A run that was
    trained in TF32 is evaluated in fp32 on a CPU.

    Args:
        source: the run, as `find_run` gives it.
        own_moments: the data set that is chosen says with which mean and standard deviation it is normalised, not the
            run.

    Raises:
        UsageError: the images can't be used; they have other classes, or another size.
    """
    trainer = trained_as(source.directory).trainer
    device = device_named(config.device)
    if isinstance(config.dataset, MovedDataset):
        data = own_data(source, "dataset= evaluates on others")
    else:
        data = load_data(config.dataset, source.data_dir)
        trained = TrainingImages.of(source)
        _refuse_others(config.dataset.name, data, source.title, trained)
        if not own_moments:
            data = replace(data, mean=trained.mean, std=trained.std)
    split = {"test": data.test, "train": data.train, "validation": data.validation}[config.split]
    if split is None:
        raise UsageError("split", "validation", "there is none, dataset.validation is 0; allowed here: test, train")
    if isinstance(split, MemorySplit):
        refuse_streamed(source.augment)
    name = "fp32" if trainer.precision == "tf32" and device.type == "cpu" else trainer.precision
    precision = Precision(name, device)
    with arithmetic(name, device):
        model, _ = build_network(source, data, device, torch.float32)
        model.to(memory_format=chosen_memory_format(trainer.memory_format, model, precision))
        batches = eval_batches(split, data, source.augment, device, config.workers)
        found = dict(evaluate(model, batches, precision, plain_loss(source.loss)))
    return {
        "run": config.run,
        "dataset": data.provenance["label"],
        "split": config.split,
        "images": len(split),
        **found,
        "mean": list(data.mean),
        "std": list(data.std),
        "precision": name,
        "device": device.type,
    }


def _refuse_others(name: str, data: Data, run: str, trained: TrainingImages) -> None:
    """Raise UsageError unless a network that was made for the one kind of images can take the other."""
    if data.classes != trained.classes:
        raise UsageError("dataset", name, f"has {data.classes} classes; {run} was trained for {trained.classes}")
    if data.shape != trained.shape:
        theirs, ours = (" x ".join(map(str, shape)) for shape in (data.shape, trained.shape))
        channels, height, width = trained.shape
        resized = f"; dataset.image_size={width} resizes them" if (data.shape[0], width) == (channels, height) else ""
        raise UsageError("dataset", name, f"has images of {theirs}; {run} was trained for {ours}{resized}")
