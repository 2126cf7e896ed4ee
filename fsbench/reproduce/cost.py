"""The time that runs and measures may take, guessed from runs of the like kind or from the operations of a pass."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fsbench.config.component import components
from fsbench.config.dataset import DatasetOptions
from fsbench.config.optimizer import SharpnessAwareOptions
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.measuring.measures import chosen_measures
from fsbench.runs.read import Unreadable, read_json
from fsbench.runs.records import run_directories

# Operations (two for a multiply-add) a second that are assumed of a CPU thread and of a GPU, whatever they are.
_CPU_THREAD, _GPU = 50e9, 10e12


@dataclass(frozen=True)
class Cost:
    """Of one run: steps (None where unknown), and seconds (NaN), `measured` of finished runs or assumed."""

    steps: int | None
    seconds: float
    measured: bool = False


class Estimator:
    """Costs of runs.

    Args:
        device: auto, cpu or cuda, as runs are told.
        runs_dir: finished runs here tell how long a step takes.
    """

    def __init__(self, device: str, runs_dir: Path) -> None:
        # Looked up without torch, which takes seconds to import.
        self._cuda = device == "cuda" or (device == "auto" and Path("/dev/nvidiactl").exists())
        self._threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        self._runs_dir = runs_dir
        self._operations: dict[str, float] = {}

    def training(self, config: TrainConfig) -> Cost:
        """Steps, by the passes of each; evaluations are left out."""
        images = _images_of_an_epoch(config.dataset)
        if images is None:
            return Cost(None, math.nan)
        options = config.trainer
        whole, rest = divmod(images, options.batch_size)
        steps = (whole + (rest > 1)) * options.epochs
        steps = min(steps, 2 if options.fast_dev_run else options.max_steps or steps)
        seconds, measured = self._pass(config)
        return Cost(steps, steps * passes(config.optimizer.model_dump(mode="json")) * seconds, measured)

    def measuring(self, config: TrainConfig, sharpness: SharpnessConfig) -> float:
        """Seconds of all measures: a gradient for each image and class, or what the measure is told."""
        images = _images_of_an_epoch(config.dataset)
        if images is None or config.dataset.counts is None:
            return math.nan
        classes = config.dataset.counts.classes
        told = {
            "trace_hutchinson": 2 * sharpness.probes,
            "eigenvalues": 100 * sharpness.eigenvalues,
            "worst_case": sharpness.ascent_steps + 1,
        }
        each = [told.get(one.name, classes) for one in chosen_measures(sharpness.measures)]
        drawn = min(sharpness.samples or images, images)
        return sum(each) * drawn * self._pass(config)[0] / config.trainer.batch_size

    @property
    def basis(self) -> str:
        """The speed that is assumed where nothing was measured."""
        where = "on a GPU" if self._cuda else f"for each of {self._threads} CPU threads"
        return f"{(_GPU if self._cuda else _CPU_THREAD) / 1e9:,g} GFLOP/s {where}"

    def _pass(self, config: TrainConfig) -> tuple[float, bool]:
        """Seconds of a forward-backward pass over a mini-batch, and whether that was measured."""
        kind = _kind(config.model_dump(mode="json"))
        if kind in self._measured:
            return self._measured[kind], True
        if kind not in self._operations:
            self._operations[kind] = operations(config)
        # Forward and backward are three times the work of forward.
        work = 3 * self._operations[kind] * config.trainer.batch_size
        return work / (_GPU if self._cuda else _CPU_THREAD * self._threads), False

    @cached_property
    def _measured(self) -> Mapping[str, float]:
        """Seconds of a pass of the finished runs, by their kind."""
        found: dict[str, float] = {}
        for directory in run_directories(self._runs_dir) if self._runs_dir.is_dir() else ():
            try:
                summary = read_json(directory / "summary.json")
                device = read_json(directory / "provenance.json")["hardware"]["device"]
                config, results = summary["config"], summary["results"]
                if (device != "cpu") == self._cuda and int(results["steps"]) > 5:
                    found[_kind(config)] = float(results["seconds_per_step"]) / passes(config["optimizer"])
            except (FileNotFoundError, Unreadable, ValueError, KeyError, TypeError, AttributeError):
                continue
        return found


def passes(optimizer: Mapping[str, Any]) -> float:
    """Forward-backward passes over the batch that a step takes, on average."""
    # Gradients of single examples, or of sampled labels, are a pass of their own.
    method: Any = components("optimizer")[optimizer["name"]]
    most = method.passes + (optimizer.get("fisher", "batch") != "batch")
    if not issubclass(method, SharpnessAwareOptions):
        return most
    # Outside of start and stop one pass is made.
    return 1 + (most - 1) * (optimizer.get("stop", 1.0) - optimizer.get("start", 0.0))


def operations(config: TrainConfig) -> float:
    """Floating-point operations of one image's forward pass, counted without data or memory."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fsbench.models import build_model

    images, plain = config.dataset.counts, {"checkpoint": None, "pretrained": False}
    assert images is not None
    side = config.augment.image_size(config.dataset.image_size)
    shape = images.shape if side is None else (images.shape[0], side, side)
    fields = type(config.model).model_fields
    model = config.model.model_copy(update={key: value for key, value in plain.items() if key in fields})
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = build_model(model, shape, images.classes).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *shape))
    return counter.get_total_flops()


def duration(seconds: float) -> str:
    """`3.2 h`, `12 min`, `40 s`; `?` where nothing is known."""
    if math.isnan(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def _images_of_an_epoch(options: DatasetOptions) -> int | None:
    if options.counts is None:
        return None
    rest = options.counts.train - options.validation
    return (rest if options.subset is None else min(options.subset, rest)) + options.confusion


def _kind(config: Mapping[str, Any]) -> str:
    """Of runs whose passes take the same time."""
    model = {key: value for key, value in config["model"].items() if key not in ("checkpoint", "pretrained")}
    data = components("dataset").get(config["dataset"]["name"])
    counts = getattr(data, "counts", None)
    others = [counts and counts.shape, config["dataset"]["image_size"], config["augment"].get("size")]
    return json.dumps([model, *others, config["trainer"]["batch_size"], config["trainer"]["precision"]], sort_keys=True)
