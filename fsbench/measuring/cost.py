"""A rough guess of the time that runs and measures take: from finished runs of the like kind, or from operations."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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


class Cost(NamedTuple):
    """Of one run: steps (None where unknown), and seconds (NaN), `measured` of finished runs or assumed."""

    steps: int | None
    seconds: float
    measured: bool = False


class Estimator:
    """Costs of runs on a device (`auto`, `cpu` or `cuda`); `basis` is the speed assumed where no run tells it."""

    def __init__(self, device: str, runs_dir: Path) -> None:
        # Looked up without torch, which takes seconds to import.
        cuda = device == "cuda" or (device == "auto" and Path("/dev/nvidiactl").exists())
        threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        self._speed = _GPU if cuda else _CPU_THREAD * threads
        each, where = (_GPU, "on a GPU") if cuda else (_CPU_THREAD, f"for each of {threads} CPU threads")
        self.basis = f"{each / 1e9:,g} GFLOP/s {where}"
        # Seconds of a pass, by kind: of finished runs, and as assumed.
        self._measured: dict[str, float] = {}
        self._assumed: dict[str, float] = {}
        for directory in run_directories(runs_dir):
            try:
                summary = read_json(directory / "summary.json")
                on_cuda = read_json(directory / "provenance.json")["hardware"]["device"] != "cpu"
                config, results = summary["config"], summary["results"]
                if on_cuda == cuda and int(results["steps"]) > 5:
                    self._measured[_kind(config)] = float(results["seconds_per_step"]) / passes(config["optimizer"])
            except (FileNotFoundError, Unreadable, ValueError, KeyError, TypeError, AttributeError):
                continue

    def training(self, config: TrainConfig) -> Cost:
        """Steps, by the passes of each; evaluations are left out."""
        options, images = config.trainer, images_of_an_epoch(config.dataset)
        if images is None:
            return Cost(None, math.nan)
        whole, rest = divmod(images, options.batch_size)
        steps = (whole + (rest > 1)) * options.epochs
        steps = min(steps, 2 if options.fast_dev_run else options.max_steps or steps)
        seconds, measured = self._pass(config)
        return Cost(steps, steps * passes(config.optimizer.model_dump(mode="json")) * seconds, measured)

    def measuring(self, config: TrainConfig, sharpness: SharpnessConfig) -> float:
        """Seconds of all measures: a gradient for each image and class, or what the measure is told."""
        counts, images = config.dataset.counts, images_of_an_epoch(config.dataset)
        if counts is None or images is None:
            return math.nan
        told = {"trace_hutchinson": 2 * sharpness.probes, "trace_xtrace": 2 * sharpness.probes,
                "eigenvalues": 100 * sharpness.eigenvalues, "worst_case": sharpness.ascent_steps + 1,
                "gradient_norm": 1, "gradient_snr": 2, "average_case": sharpness.draws / 3,
                "worst_case_apgd": sharpness.apgd_steps + 1, "epsilon": sharpness.apgd_steps + 1,
                "pacbayes": 3 * sharpness.draws, "pacbayes_magnitude": 3 * sharpness.draws}  # fmt: skip
        gradients = sum(told.get(one.name, counts.classes) for one in chosen_measures(sharpness.measures))
        drawn = min(sharpness.samples or images, images)
        return gradients * drawn * self._pass(config)[0] / config.trainer.batch_size

    def _pass(self, config: TrainConfig) -> tuple[float, bool]:
        """Seconds of a forward-backward pass over a mini-batch, and whether that was measured."""
        kind = _kind(config.model_dump(mode="json"))
        if kind in self._measured:
            return self._measured[kind], True
        if kind not in self._assumed:
            # Forward and backward are three times the work of forward.
            self._assumed[kind] = 3 * operations(config) * config.trainer.batch_size / self._speed
        return self._assumed[kind], False


def passes(optimizer: Mapping[str, Any]) -> float:
    """Forward-backward passes over the batch of a step, on average; single examples' gradients are one more."""
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

    counts = config.dataset.counts
    assert counts is not None
    side = config.augment.image_size(config.dataset.image_size)
    shape = counts.shape if side is None else (counts.shape[0], side, side)
    weights = type(config.model).model_fields.keys() & {"checkpoint", "pretrained"}
    model = config.model.model_copy(update=dict.fromkeys(weights))
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = build_model(model, shape, counts.classes).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *shape))
    return counter.get_total_flops()


def images_of_an_epoch(options: DatasetOptions) -> int | None:
    """How many images an epoch passes; None where only a look at the files would tell."""
    if options.counts is None:
        return None
    rest = options.counts.train - options.validation
    return (rest if options.subset is None else min(options.subset, rest)) + options.confusion


def _kind(config: Mapping[str, Any]) -> str:
    """Of runs whose passes take the same time."""
    model = {key: value for key, value in config["model"].items() if key not in ("checkpoint", "pretrained")}
    data, trainer = config["dataset"], config["trainer"]
    others = [data["name"], data["image_size"], config["augment"].get("size"), trainer["batch_size"]]
    return json.dumps([model, *others, trainer["precision"]], sort_keys=True)


def duration(seconds: float) -> str:
    """`3.2 h`, `12 min`, `40 s`; `?` where nothing is known."""
    if math.isnan(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
