"""How long runs and measures may take on this machine: roughly, and how that was arrived at."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fsbench.config.model import ModelOptions
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.measuring.measures import Measure, chosen_measures
from fsbench.reproduce.image_counts import ImageCounts, image_counts, trained_on
from fsbench.runs.provenance import cpu_name
from fsbench.runs.read import Unreadable, read_json
from fsbench.runs.records import run_directories

# Forward-backward passes over the batch in a step.
_PASSES = {"sam": 2, "asam": 2, "fsam": 2, "fisher_trace": 3}
_FAST_DEV_STEPS = 2


@dataclass(frozen=True)
class Speed:
    """What is assumed of a device: operations and activations a second, and the least time of a layer.

    Of one thread of a 2020s server CPU the times of eleven networks follow within a third (all layers leave their
    activations in memory, and small networks are slow by that); a GPU waits for Python at every layer.
    """

    flops: float
    activations: float
    layer: float

    def seconds(self, network: Network, images: int, factor: float) -> float:
        """Of one forward-backward pass, three times the work of a forward pass."""
        work = 3 * network.flops / self.flops + network.activations / self.activations
        return max(work * images / factor, network.layers * self.layer)


CPU_THREAD = Speed(flops=100e9, activations=0.25e9, layer=0.0)
GPU = Speed(flops=20e12, activations=30e9, layer=100e-6)


@dataclass(frozen=True)
class Network:
    """Of one image's forward pass: floating-point operations (two for a multiply-add), numbers that layers put out."""

    flops: float
    activations: float
    layers: int


@dataclass(frozen=True)
class Cost:
    """Of one run: steps, and seconds; `measured` of finished runs, or assumed. NaN where nothing can be said."""

    steps: int
    seconds: float
    measured: bool


class Estimator:
    """Costs on this machine.

    Args:
        device: auto, cpu or cuda, as runs are told.
        runs_dir: finished runs here tell how long a step takes.
    """

    def __init__(self, device: str, runs_dir: Path) -> None:
        self._device, self._runs_dir = device, runs_dir
        self._networks: dict[tuple[str, Any], Network] = {}

    def training(self, config: TrainConfig) -> Cost:
        """Training and the evaluations on the way."""
        counts = image_counts(config.dataset)
        if counts is None:
            return Cost(0, math.nan, False)
        options = config.trainer
        images = trained_on(config.dataset, counts)
        whole, rest = divmod(images, options.batch_size)
        steps = (whole + (rest > 1)) * options.epochs
        steps = min(steps, _FAST_DEV_STEPS if options.fast_dev_run else options.max_steps or steps)
        seconds, measured = self._pass(config, counts)
        evaluated = options.epochs // options.eval_every * (counts.test + config.dataset.validation) + images
        if options.fast_dev_run:
            evaluated = 0
        # Of a pass forward and backward, forward is a third.
        evaluations = evaluated / options.batch_size / 3
        return Cost(steps, (steps * passes(config.optimizer) + evaluations) * seconds, measured)

    def measuring(self, config: TrainConfig, sharpness: SharpnessConfig) -> float:
        """Seconds of all measures, by how many passes of how many images each takes."""
        counts = image_counts(config.dataset)
        if counts is None:
            return math.nan
        seconds, _ = self._pass(config, counts)
        confusion = config.dataset.confusion if sharpness.split == "subset" else 0
        images = counts.test if sharpness.split == "test" else trained_on(config.dataset, counts) - confusion
        total = sum(_image_passes(one, sharpness, images, counts) for one in chosen_measures(sharpness.measures))
        return total * seconds / config.trainer.batch_size

    def basis(self) -> str:
        """What was assumed where nothing was measured, in a sentence."""
        speed, threads = (GPU, 0) if self._cuda else (CPU_THREAD, _threads())
        where = f"on {self._gpu or 'a GPU'}" if self._cuda else f"for each of {threads} CPU threads"
        least = f", at least {speed.layer * 1e6:g} us for each layer" if speed.layer else ""
        rates = f"{speed.flops / 1e9:,g} GFLOP/s and {speed.activations / 1e9:g} billion activations a second"
        return f"assumed: {rates} {where}{least}"

    def _pass(self, config: TrainConfig, counts: ImageCounts) -> tuple[float, bool]:
        """Seconds of one forward-backward pass over a batch, and whether that was measured."""
        found = self._measured.get(_key(config.model_dump(mode="json")))
        return (found, True) if found is not None else (self._assumed(config, counts), False)

    def _assumed(self, config: TrainConfig, counts: ImageCounts) -> float:
        shape = counts.shape
        if (side := config.augment.image_size(None)) is not None:
            shape = (shape[0], side, side)
        key = (config.model.model_dump_json(exclude={"checkpoint"}), (shape, counts.classes))
        if key not in self._networks:
            self._networks[key] = operations(config.model, shape, counts.classes)
        speed = GPU if self._cuda else CPU_THREAD
        half = 1 if config.trainer.precision == "fp32" else 2
        factor = half if self._cuda else _threads()
        return speed.seconds(self._networks[key], config.trainer.batch_size, factor)

    @cached_property
    def _cuda(self) -> bool:
        # Looked up without torch, which takes seconds to import.
        return self._device == "cuda" or (self._device == "auto" and Path("/dev/nvidiactl").exists())

    @cached_property
    def _gpu(self) -> str | None:
        if not self._cuda:
            return None
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None

    @cached_property
    def _measured(self) -> Mapping[str, float]:
        """Seconds of a pass by network, data and batch size, of the runs that were trained on this machine."""
        found: dict[str, float] = {}
        for directory in run_directories(self._runs_dir) if self._runs_dir.is_dir() else ():
            try:
                summary = read_json(directory / "summary.json")
                hardware = read_json(directory / "provenance.json")["hardware"]
                config, per_step = summary["config"], float(summary["results"]["seconds_per_step"])
                cpu = hardware["device"] == "cpu" and (hardware["cpu"], hardware["cores"]) == (
                    cpu_name(),
                    os.cpu_count(),
                )
                here = hardware.get("gpu") == self._gpu if self._cuda else cpu
                if here and int(summary["results"]["steps"]) > 5:
                    found[_key(config)] = per_step / _passes(config["optimizer"])
            except (FileNotFoundError, Unreadable, ValueError, KeyError, TypeError, AttributeError):
                continue
        return found


def passes(optimizer: Any) -> float:
    """Forward-backward passes over the batch that a step takes."""
    return _passes(optimizer.model_dump(mode="json"))


def _passes(optimizer: Mapping[str, Any]) -> float:
    # Gradients of single examples, or of sampled labels, are a pass of their own.
    more = 1 if optimizer.get("fisher", "batch") != "batch" else 0
    return _PASSES.get(optimizer["name"], 1) + more


def operations(model: ModelOptions, shape: tuple[int, int, int], classes: int) -> Network:
    """Count one image's forward pass through a network without data."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fsbench.models import build_model

    plain: dict[str, Any] = {"checkpoint": None} | ({"pretrained": False} if hasattr(model, "pretrained") else {})
    sizes: list[int] = []

    def count(_: Any, __: Any, output: Any) -> None:
        sizes.append(output.numel() if isinstance(output, torch.Tensor) else 0)

    # Shapes without data: a network of any size takes no memory.
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = build_model(model.model_copy(update=plain), shape, classes).eval()
        for module in network.modules():
            if not list(module.children()):
                module.register_forward_hook(count)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *shape))
    return Network(counter.get_total_flops(), sum(sizes), len(sizes))


def _image_passes(one: Measure, config: SharpnessConfig, images: int, counts: ImageCounts) -> float:
    """Images times forward-backward passes of each."""
    drawn = images if one.whole else min(config.samples or images, images)
    subsets = config.subsets * config.subset_size
    return {
        "trace": drawn * (config.classes or counts.classes),
        "minimum": drawn * counts.classes,
        "matrix_normalized": drawn * counts.classes,
        "normalized": drawn * counts.classes,
        "trace_hutchinson": drawn * 2 * config.probes,
        "fisher_determinant": subsets * counts.classes,
        "frobenius_fisher": subsets,
        "spectral": subsets,
        "robustness": drawn * counts.classes,
        "worst_case": drawn * (config.ascent_steps + 1),
        "adversarial": drawn + len(config.alphas) * counts.test / 3,
        "eigenvalues": drawn * 2 * 50 * config.eigenvalues,
    }.get(one.name, drawn * 2)


def duration(seconds: float) -> str:
    """`3.2 h`, `12 min`, `40 s`; `?` where nothing is known."""
    if math.isnan(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def total(seconds: Iterable[float]) -> float:
    """The sum of what is known; NaN if nothing is."""
    known = [one for one in seconds if not math.isnan(one)]
    return math.fsum(known) if known else math.nan


def _key(config: Mapping[str, Any]) -> str:
    model = {key: value for key, value in config["model"].items() if key not in ("checkpoint", "pretrained")}
    dataset = {key: config["dataset"][key] for key in ("name", "image_size", "root")}
    augment = {key: config["augment"].get(key) for key in ("random_resized_crop", "size")}
    trainer = {key: config["trainer"][key] for key in ("batch_size", "precision")}
    return json.dumps([model, dataset, augment, trainer], sort_keys=True)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
