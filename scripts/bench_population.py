"""Speed of a population beside the same runs one after the other: scripts/bench population."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmark import add_options, ended, names, publish

from fsbench.config.compose import Job, compose_jobs
from fsbench.runs.provenance import provenance
from fsbench.training.attempt import attempt
from fsbench.training.population import train_population
from fsbench.training.stop_signal import StopSignal

# How many times as fast a population has to be.
TARGETS = {"cpu": 1.0, "cuda": 10.0}


def jobs_of(network: str, method: str, given: argparse.Namespace, device: str, root: str) -> list[Job]:
    """A sweep over seeds; networks see 28 x 28 pixels."""
    data = [f"dataset={given.dataset}", "dataset.image_size=28"]
    if given.subset is not None:
        data.append(f"dataset.subset={given.subset}")
    return compose_jobs(
        [
            *data, f"model={network}", f"optimizer={method}", f"seed=range({given.members})", "overwrite=true",
            f"trainer.epochs={given.epochs}", f"trainer.batch_size={given.batch}", f"trainer.device={device}",
            f"trainer.eval_every={given.epochs}", f"trainer.checkpoint_every={given.epochs}",
            "trainer.progress=false", f"runs_dir={root}", *given.overrides,
        ],
        multirun=True,
    )  # fmt: skip


def one_by_one(jobs: Sequence[Job]) -> None:
    refuse_failures([attempt(job, StopSignal()) for job in jobs])


def together(jobs: Sequence[Job]) -> None:
    refuse_failures([outcome for _, outcome in train_population(jobs, StopSignal())])


def refuse_failures(outcomes: Sequence[Any]) -> None:
    for outcome in outcomes:
        if outcome.failure is not None:
            raise SystemExit(outcome.line)


def measure(jobs: Sequence[Job], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of A B A B ..., from configurations to finished directories, after a round that is not counted."""
    ways = {"one after the other": one_by_one, "population": together}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way(jobs)
            if round_:
                times[name].append(clock() - start)
    return times


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} - {max(values):{form}})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench population", description=__doc__)
    add = parser.add_argument
    add("--networks", type=names, default=["mlp", "lenet"], help="(default: mlp,lenet)")
    add("--methods", type=names, default=["sgd", "fsam"], help="(default: sgd,fsam)")
    add("--members", type=int, default=100, help="runs of a sweep (default: 100)")
    add("--dataset", default="digits", help="(default: digits, which is always there)")
    add("--subset", type=int, help="training images (default: all)")
    add("--epochs", type=int, default=5)
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=5)
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add_options(parser)
    add("overrides", nargs="*", help="more of the configuration: model.widths=[32]")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    torch.set_num_threads(1 if given.cpu_time else given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    load, origin = os.getloadavg()[0], provenance()
    where = torch.cuda.get_device_name() if given.device == "cuda" else origin["hardware"]["cpu"]
    lines = [
        "# A population beside its runs one after the other",
        "",
        f"Written by `scripts/bench population`. {where}, {torch.get_num_threads()} threads, torch "
        f"{origin['versions']['torch']}; {given.members} members on {given.dataset} at 28 x 28, batches of "
        f"{given.batch}, {given.epochs} epochs, {given.rounds} rounds. "
        f"{'CPU time' if given.cpu_time else f'Wall time, load average at the start {load:.2f}'}. Seconds from the "
        "configurations to the finished directories, evaluation and files included: median (least - most); the ratio "
        "is the median over rounds of times taken one after the other.",
        "",
        "| network | method | one after the other, s | population, s | times as fast | target |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    for network in given.networks:
        for method in given.methods:
            with tempfile.TemporaryDirectory() as root:
                jobs = jobs_of(network, method, given, given.device, f"{root}/runs")
                times = measure(jobs, given.rounds, clock)
            alone, population = times.values()
            ratios = [a / b for a, b in zip(alone, population, strict=True)]
            target = TARGETS[given.device]
            reached = "reached" if statistics.median(ratios) >= target else "missed"
            rows.append({"network": network, "method": method, "times": times, "ratios": ratios})
            lines.append(
                f"| {network} | {method} | {spread(alone, '.2f')} | {spread(population, '.2f')} | "
                f"{spread(ratios, '.2f')} | {target:g}: {reached} |"
            )
    text = "\n".join(lines) + "\n"
    settings = {key: value for key, value in vars(given).items() if key not in ("json", "markdown")}
    publish(text, {"provenance": {**origin, **settings, "load_average": load}, "rows": rows}, given)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
