"""Time of a training step, two optimizers side by side: Kim et al. 2022, section 5.7; Jia & Su 2020, 7.2.1."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from fsbench.config.compose import compose_jobs
from fsbench.models import build_model, parameter_count
from fsbench.papers.collect import rows as published_rows
from fsbench.report.table import write_frame
from fsbench.reproduce.computed import Context
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.precision import Precision
from fsbench.training.run import build_optimizer


class Stepper:
    """One optimizer on its own copy of a network, with one random mini-batch."""

    def __init__(self, overrides: list[str], shape: tuple[int, int, int], classes: int, context: Context) -> None:
        (job,) = compose_jobs(overrides, multirun=False)
        config = job.config
        torch.manual_seed(0)
        self.model = build_model(config.model, shape, classes).to(context.device).train()
        self.optimizer = build_optimizer(self.model, config.optimizer, config.base, config.trainer.max_norm)
        self.closure = BatchClosure(
            self.model, nn.CrossEntropyLoss(label_smoothing=config.loss.label_smoothing),
            Precision(config.trainer.precision, context.device),
        )  # fmt: skip
        self.batch = config.trainer.batch_size
        x = torch.randn(self.batch, *shape, device=context.device)
        self.closure.load(x, torch.randint(classes, (self.batch,), device=context.device))
        self.parameters = parameter_count(self.model)

    def seconds(self) -> float:
        if self.closure.x.is_cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        self.optimizer.step(self.closure, size=self.batch)
        if self.closure.x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begun


def side_by_side(steppers: Mapping[str, Stepper], rounds: int, context: Context) -> dict[str, list[float]]:
    """Seconds of `rounds` steps each, A B A B ..., after two that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for done in range(rounds + 2):
        context.say(f"step {done + 1} of {rounds + 2}")
        for name, stepper in steppers.items():
            times[name].append(stepper.seconds())
    return {name: seconds[2:] for name, seconds in times.items()}


def fsam_against_sam(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """Seconds per batch of SAM and FSAM. options: `model` (a list of overrides), `batch`, `rounds`."""
    common = ["experiment=kim2022/table1", *options["model"], f"trainer.batch_size={options['batch']}"]
    commands = {"SAM": [*common, "optimizer=sam"], "FSAM": [*common, "optimizer=fsam"]}
    steppers = {name: Stepper(line, (3, 32, 32), 10, context) for name, line in commands.items()}
    title = (
        "Time of a training step with SAM and with FSAM (Kim et al. 2022, section 5.7: WRN-28-10, batch 128, "
        "RTX 2080 Ti)."
    )
    return _compared("sec5.7", title, steppers, _published("kim2022_sec5.7"), options, directory, context)


def regulariser_against_sgd(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """Seconds per batch with and without the regulariser. options: `model`, `batch`, `rounds`, `side` (pixels)."""
    common = ["experiment=jia2020/table2", *options["model"], f"trainer.batch_size={options['batch']}"]
    commands = {
        "SGD": [*common, "optimizer=sgd"],
        "SGD + regulariser": [*common, "optimizer=fisher_trace", "optimizer.start=immediately"],
    }
    shape = (3, options["side"], options["side"])
    steppers = {name: Stepper(line, shape, 1000, context) for name, line in commands.items()}
    published = [milliseconds / 1000 for milliseconds in _published("jia2020_sec7.2.1")]
    title = (
        "Time of a training step without and with the Fisher-trace regulariser (Jia & Su 2020, section 7.2.1: "
        "WRN-18-1.5, batch 128 of 128 x 128 pixels, two RTX 2080 Ti)."
    )
    return _compared("sec7.2.1", title, steppers, published, options, directory, context)


def _published(artefact: str) -> list[float]:
    return [float(row["value"]) for row in published_rows("misc.csv") if row["artefact"] == artefact]


def _compared(
    name: str,
    title: str,
    steppers: Mapping[str, Stepper],
    published: Sequence[float],
    options: Mapping[str, Any],
    directory: Path,
    context: Context,
) -> list[Path]:
    times = side_by_side(steppers, options["rounds"], context)
    frame = pd.DataFrame({"method": list(times), "s per batch": list(map(statistics.median, times.values()))})
    frame["least"], frame["most"] = list(map(min, times.values())), list(map(max, times.values()))
    frame["published s"] = published
    frame[f"relative to {frame['method'][0]}"] = frame["s per batch"] / frame["s per batch"][0]
    frame["published, relative"] = frame["published s"] / frame["published s"][0]
    parameters = next(iter(steppers.values())).parameters
    caption = [
        title,
        f"Medians, least and most of {options['rounds']} steps each, one after the other in turn, on random images: "
        f"{' '.join(options['model'])}, {parameters:,} parameters, batch {options['batch']}.",
        *context.cuts,
    ]
    return write_frame(frame, directory, name, caption)
