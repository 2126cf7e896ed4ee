"""Cost against size: networks, batches, images, classes and runs grow: scripts/bench size."""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from bench_step import METHODS
from benchmark import Timer, add_options, aligned, contended, ended, names, publish, short, show
from many_runs import command, multiply, trained
from torch import nn
from torch.nn import functional

from fsbench.config.compose import compose_jobs
from fsbench.data.batches import Batch
from fsbench.models import build_model, parameter_count
from fsbench.runs.provenance import provenance
from fsbench.sharpness import Risk, fisher_trace, hessian_trace, minimum_sharpness, normalized_sharpness
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.memory_format import chosen_memory_format
from fsbench.training.precision import Precision, arithmetic

STEPS = ("SGD", "SAM", "FSAM", "Fisher trace M=8")
MEASURES = {
    "exact trace of the Hessian": hessian_trace,
    "minimum sharpness": minimum_sharpness,
    "normalized sharpness": normalized_sharpness,
    "Fisher trace": fisher_trace,
}
TABLES = {
    "fsbench table --by optimizer": ("--by", "optimizer"),
    "... by three keys, with two measures": (
        "--by", "optimizer,optimizer.rho,optimizer.lr",
        "--columns", "test_accuracy,minimum_sharpness,normalized_sharpness",
    ),
    "... a line for each run": ("--by", "run"),
}  # fmt: skip
MEASURED = "fsbench sharpness -m, all measured before"
WITHIN = (10_000, 5.0)  # runs of a table, seconds by the clock
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
AT_A_TIME = 1000  # images of an evaluation batch, as in fsbench.data
LEAST = 0.02  # seconds: what takes less is repeated, and the mean counts


@dataclass(frozen=True)
class Sizes:
    """What grows, and to where."""

    widths: Sequence[int] = (64, 256, 1024, 2048)
    depths: Sequence[int] = (8, 14, 20, 32)
    batches: Sequence[int] = (16, 32, 64, 128, 256)
    images: Sequence[int] = (10, 100, 1000, 10_000)
    images_cnn: Sequence[int] = (10, 100, 1000)
    classes: Sequence[int] = (10, 100, 1000)
    runs: Sequence[int] = (10, 100, 1000, 10_000)
    measured: Sequence[int] = (10, 100)


QUICK = Sizes((64, 256), (8, 14), (16, 32), (10, 100), (10, 30), (10, 100), (10, 100), (10,))


@dataclass(frozen=True)
class Setting(Timer):
    """Where, how often, and by which clock, in seconds."""

    rounds: int


@dataclass
class Curve:
    """Seconds of one way at each size, a value for each round; of commands, by the clock on the wall too."""

    way: str
    times: dict[int, list[float]] = field(default_factory=dict)
    wall: dict[int, list[float]] = field(default_factory=dict)

    def points(self) -> list[tuple[int, float]]:
        return [(size, statistics.median(times)) for size, times in self.times.items()]

    def growth(self) -> float:
        """p of time = size^p between the last two sizes; NaN where there is one alone."""
        if len(self.times) < 2:
            return math.nan
        (a, before), (b, after) = self.points()[-2:]
        return math.log(after / before) / math.log(b / a)

    def more(self) -> list[float]:
        """Seconds that one more (image, run) costs between each two sizes."""
        return [(after - before) / (b - a) for (a, before), (b, after) in pairwise(self.points())]


@dataclass
class Grown:
    """A table: how the time of several ways grows with one size.

    Args:
        of: what a size counts, in the singular.
        labels: of sizes, in the head of the table; else the numbers themselves.
    """

    title: str
    of: str
    curves: list[Curve]
    labels: dict[int, str] = field(default_factory=dict)


Run = Callable[[], object]


def measured(ways: Sequence[tuple[str, int, Run]], title: str, of: str, setting: Setting) -> Grown:
    """All (way, size, run) in turn, again and again, after a round that does not count."""
    curves = {way: Curve(way) for way, _, _ in ways}
    repeats = []
    for way, size, run in ways:
        show(f"{title}: {way}, {size}")
        setting.timed(run)
        repeats.append(max(1, math.ceil(LEAST / setting.timed(run))))
    for done in range(setting.rounds):
        for (way, size, run), times in zip(ways, repeats, strict=True):
            show(f"{title}: round {done + 1} of {setting.rounds}, {way}, {size}")
            curves[way].times.setdefault(size, []).append(setting.timed(run, times))
    return Grown(title, of, list(curves.values()))


@cache
def network(*overrides: str) -> Any:
    """The checked configuration of a network."""
    (job,) = compose_jobs([*overrides, "dataset=mnist"], multirun=False)
    return job.config.model


def built(options: Any, shape: tuple[int, int, int], classes: int, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return build_model(options, shape, classes).to(device)


def images(n: int, shape: tuple[int, int, int], classes: int, device: torch.device) -> Batch:
    """Random ones with random labels, the same for the same n."""
    draw = torch.Generator().manual_seed(n)
    x, y = torch.randn(n, *shape, generator=draw), torch.randint(classes, (n,), generator=draw)
    return x.to(device), y.to(device)


def step(options: Any, shape: tuple[int, int, int], method: str, batch: int, device: torch.device) -> tuple[int, Run]:
    """Parameters, and a step as `fsbench train` makes it."""
    model = built(options, shape, 10, device).train()
    accuracy = Precision("fp32", device)
    model.to(memory_format=chosen_memory_format("auto", model, accuracy))
    optimizer = METHODS[method](model.named_parameters(), model=model)
    closure = BatchClosure(model, nn.CrossEntropyLoss(), accuracy)
    x, y = images(batch, shape, 10, device)

    def run() -> None:
        closure.load(x, y)
        optimizer.step(closure, size=batch)

    return parameter_count(model), run


def step_tables(sizes: Sizes, setting: Setting) -> Iterator[Grown]:
    device = setting.device
    for title, batch, shape, grown in (
        ("A step over the width of an MLP of three hidden layers, batch 128", 128, GREY,
         {f"{w} wide": network("model=mlp", f"model.widths=[{w},{w},{w}]") for w in sizes.widths}),
        ("A step over the depth of a CIFAR ResNet, batch 32", 32, COLOUR,
         {f"{d} layers": network("model=resnet20", f"model.depth={d}") for d in sizes.depths}),
    ):  # fmt: skip
        ways, labels = [], {}
        for label, options in grown.items():
            for method in STEPS:
                count, run = step(options, shape, method, batch, device)
                ways.append((method, count, run))
                labels[count] = f"{label}, {count:,}"
        found = measured(ways, title, "parameter", setting)
        found.labels = labels
        yield found
    resnet8 = network("model=resnet20", "model.depth=8")
    ways = [(m, batch, step(resnet8, COLOUR, m, batch, device)[1]) for batch in sizes.batches for m in STEPS]
    yield measured(ways, "A step over the batch, CIFAR ResNet of 8 layers", "image", setting)


def sharpness_tables(sizes: Sizes, setting: Setting) -> Iterator[Grown]:
    """Networks at random weights: what a measure costs hardly depends on them."""

    def ways(name: str, cases: Sequence[tuple[int, int, int]]) -> list[tuple[str, int, Run]]:
        """Cases: size, images, classes."""
        made: list[tuple[str, int, Run]] = []
        for size, n, classes in cases:
            model = built(network(f"model={name}"), GREY, classes, setting.device).eval()
            x, y = images(n, GREY, classes, setting.device)
            batches = list(zip(x.split(AT_A_TIME), y.split(AT_A_TIME), strict=True))
            made += [
                (way, size, lambda f=f, m=model, b=batches: f(Risk(m, functional.cross_entropy, b)))
                for way, f in MEASURES.items()
            ]
        return made

    for name, title, counts in (
        ("fcnn_small", "FCNN 784-20-20-10", sizes.images),
        ("small_cnn", "CNN conv5(20)-pool-conv5(20)-pool-linear", sizes.images_cnn),
    ):
        yield measured(ways(name, [(n, n, 10) for n in counts]), f"Sharpness over images, {title}", "image", setting)
    cases = [(classes, 100, classes) for classes in sizes.classes]
    yield measured(
        ways("fcnn_small", cases), "Sharpness over classes, FCNN 784-20-20-K, 100 images", "class", setting
    )  # fmt: skip


def run_tables(sizes: Sizes, setting: Setting, cpu_time: bool) -> Iterator[Grown]:
    """Commands in fresh processes, start-up included."""
    title = "Tables over runs, each in a fresh process"
    found = {way: Curve(way) for way in (*TABLES, MEASURED)}
    with tempfile.TemporaryDirectory() as scratch:
        root, originals = Path(scratch) / "runs", trained(Path(scratch) / "originals")
        for count in sizes.runs:
            show(f"{title}: writing {count}")
            multiply(originals, root, count)
            commands = {way: ["table", str(root), *options] for way, options in TABLES.items()}
            if count in sizes.measured:
                commands[MEASURED] = ["sharpness", "-m", f"run=glob({root}/*)", "device=cpu"]
            for done in range(setting.rounds + 1):
                for way, arguments in commands.items():
                    show(f"{title}: {count}, round {done} of {setting.rounds}, {way}")
                    wall, before = time.perf_counter(), _of_children()
                    command(arguments)
                    wall, spent = time.perf_counter() - wall, _of_children() - before
                    if done:
                        found[way].wall.setdefault(count, []).append(wall)
                        found[way].times.setdefault(count, []).append(spent if cpu_time else wall)
    yield Grown(title, "run", list(found.values()))


def _of_children() -> float:
    """CPU seconds of the processes that ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


PARTS = {"step": step_tables, "sharpness": sharpness_tables, "table": run_tables}


def shown(grown: Grown) -> Iterator[str]:
    """The table, and how the times grow."""
    sizes = list(dict.fromkeys(size for curve in grown.curves for size in curve.times))
    scale, unit = (1e9, "ns") if grown.of == "parameter" else (1e6, "µs")
    head = ["ms", *(grown.labels.get(size, f"{size:,}") for size in sizes)]
    head += ["growth at the end", f"one {grown.of} more, {unit}"]
    lines = [head]
    for curve in grown.curves:
        cells = [spread(curve.times[size]) if size in curve.times else "" for size in sizes]
        more = ", ".join(short(scale * seconds) for seconds in curve.more())
        lines.append([curve.way, *cells, f"{curve.growth():.2f}" if more else "", more])
    yield from ["", f"## {grown.title}", "", *aligned(lines)]
    if grown.of == "run":
        yield from ["", *by_the_clock(grown.curves)]


def spread(times: Sequence[float]) -> str:
    return f"{short(1e3 * statistics.median(times))} ({short(1e3 * min(times))} - {short(1e3 * max(times))})"


def by_the_clock(curves: Sequence[Curve]) -> Iterator[str]:
    count, most = WITHIN
    for curve in curves:
        if times := curve.wall.get(count):
            verdict = "met" if statistics.median(times) <= most else "missed"
            yield (
                f"- {verdict}: {count:,} runs, {curve.way}: {statistics.median(times):.2f} s by the clock "
                f"({min(times):.2f} - {max(times):.2f}; at most {most:g} s)"
            )


def about(given: argparse.Namespace, device: torch.device, cpu_time: bool, load: float) -> str:
    known = provenance()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else known["hardware"]["cpu"]
    by = "CPU time of one thread" if cpu_time else f"{torch.get_num_threads()} threads, by the clock"
    return (
        f"{where}, {by}, torch {known['versions']['torch']}, fp32. Random images, labels and weights (seed 0); steps "
        "and measures all in turn in one process; runs are copies of four that were trained and measured, with other "
        f"settings and numbers. {given.rounds} rounds after one that does not count; load average before: {load:.2f}."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench size", description=__doc__)
    add = parser.add_argument
    add("--parts", type=names, default=list(PARTS), help=f"(default: {','.join(PARTS)})")
    add("--rounds", type=int, default=3, help="(default: 3)")
    add("--quick", action="store_true", help="small sizes, seconds a part")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add_options(parser)
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"--parts: no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    return given


def main() -> int:
    given = arguments()
    device = torch.device(given.device)
    # What a GPU does takes no CPU time.
    cpu_time = given.cpu_time and device.type == "cpu"
    torch.set_num_threads(1 if cpu_time else given.threads)
    setting = Setting(device, time.process_time if cpu_time else time.perf_counter, given.rounds)
    sizes = QUICK if given.quick else Sizes()
    load, origin, started = os.getloadavg()[0], provenance(), time.perf_counter()
    found: list[Grown] = []
    with arithmetic("fp32", device):
        for part in given.parts:
            more = (sizes, setting, cpu_time) if part == "table" else (sizes, setting)
            found += PARTS[part](*more)
    show("")
    lines = [
        "# Cost against size", "", "Written by `scripts/bench size`. " + about(given, device, cpu_time, load), "",
        "Median milliseconds (least - most). Growth: p of time = size^p between the last two sizes; 1 is linear, 2 "
        "quadratic. Then what one more costs from each size to the next: constant where the growth is linear.",
    ]  # fmt: skip
    for grown in found:
        lines += shown(grown)
    notes = contended(load, cpu_time)
    notes.append(f"{'A quick run: ' if given.quick else ''}{time.perf_counter() - started:.0f} s in all.")
    lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    record: dict[str, Any] = {
        "provenance": {
            **origin, "threads": torch.get_num_threads(), "cpu_time": cpu_time, "load_average": load,
            "device": device.type, "rounds": given.rounds, "quick": given.quick, "parts": given.parts,
        },
        "tables": [
            {"title": grown.title, "size": grown.of, "curves": [vars(curve) for curve in grown.curves]}
            for grown in found
        ],
    }  # fmt: skip
    publish("\n".join(lines) + "\n", record, given)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
