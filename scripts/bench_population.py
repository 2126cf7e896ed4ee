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
from benchmark import add_options, aligned, ended, names, publish, write

from fsbench.config.compose import Job, compose_jobs
from fsbench.population.train import train_population
from fsbench.runs.provenance import provenance
from fsbench.stop_signal import StopSignal
from fsbench.training.outcome import train_if_missing

# How many times as fast a population has to be.
TARGETS = {"cpu": 1.0, "cuda": 3.0}


def jobs_of(network: str, method: str, members: int, given: argparse.Namespace, root: str) -> list[Job]:
    """A sweep over seeds; networks see 28 x 28 pixels."""
    data = [f"dataset={given.dataset}", "dataset.image_size=28"]
    if given.subset is not None:
        data.append(f"dataset.subset={given.subset}")
    return compose_jobs(
        [
            *data, f"model={network}", f"optimizer={method}", f"seed=range({members})", "overwrite=true",
            f"trainer.epochs={given.epochs}", f"trainer.batch_size={given.batch}", f"trainer.device={given.device}",
            f"trainer.eval_every={given.epochs}", f"trainer.checkpoint_every={given.epochs}",
            f"trainer.cuda_graph={str(given.device == 'cuda').lower()}",
            "trainer.progress=false", f"runs_dir={root}", *given.overrides,
        ],
        multirun=True,
    )  # fmt: skip


def one_by_one(jobs: Sequence[Job]) -> None:
    refuse_failures([train_if_missing(job, StopSignal()) for job in jobs])


def together(jobs: Sequence[Job]) -> None:
    refuse_failures([outcome for _, outcome in train_population(jobs, StopSignal())])


def refuse_failures(outcomes: Sequence[Any]) -> None:
    for outcome in outcomes:
        if outcome.failure is not None:
            raise SystemExit(outcome.line)


def measure(jobs: Sequence[Job], alone: int, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of A B A B ..., from configurations to finished directories, after two runs each that do not count.

    Args:
        alone: of so many one after the other; the time of all is in proportion.
    """
    ways = {"one after the other": (one_by_one, jobs[:alone]), "population": (together, jobs)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way, _ in ways.values():
        way(jobs[:2])
    for _ in range(rounds):
        for name, (way, those) in ways.items():
            start = clock()
            way(those)
            times[name].append((clock() - start) * len(jobs) / len(those))
    return times


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} - {max(values):{form}})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench population", description=__doc__)
    add = parser.add_argument
    add("--networks", type=names, default=["mlp", "lenet"], help="(default: mlp,lenet)")
    add("--methods", type=names, default=["sgd", "fsam"], help="(default: sgd,fsam)")
    add("--members", type=names, default=["100"], help="runs of a sweep, for a table of each (default: 100)")
    add("--alone", type=int, help="so many one after the other, and the time of all in proportion (default: all)")
    add("--dataset", default="digits", help="(default: digits, which is always there)")
    add("--subset", type=int, help="training images (default: all)")
    add("--epochs", type=int, default=5)
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=5)
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add_options(parser)
    add("overrides", nargs="*", help="more of the configuration: model.widths=[32]")
    return parser.parse_args()


def report(record: dict[str, Any]) -> str:
    """The table of what was measured."""
    known, lines = record["provenance"], [["network", "method", "members", "one after the other, s", "population, s",
                                           "times as fast", "target"]]  # fmt: skip
    for row in record["rows"]:
        target = TARGETS[known["device"]]
        reached = "reached" if statistics.median(row["ratios"]) >= target else "missed"
        cells = [row["network"], row["method"], str(row["members"])]
        cells += [spread(times, ".2f") for times in (*row["times"].values(), row["ratios"])]
        lines.append([*cells, f"{target:g}: {reached}"])
    part = f" (of {known['alone']}, in proportion)" if known["alone"] else ""
    load = f"load average at the start {known['load_average']:.2f}"
    text = (
        f"Written by `scripts/bench population`. {known['where']}, {known['threads']} threads, torch "
        f"{known['versions']['torch']}; {known['dataset']} at 28 x 28, batches of {known['batch']}, {known['epochs']} "
        f"epochs, {known['rounds']} rounds. "
        f"{'CPU time' if known['cpu_time'] else f'Wall time, {load}'}. Seconds from the configurations to the finished "
        f"directories, evaluation and files included{part}: median (least - most); the ratio is the median "
        "over rounds of times taken one after the other."
    )
    return "\n".join(["# A population beside its runs one after the other", "", text, "", *aligned(lines)]) + "\n"


def main() -> int:
    given = arguments()
    torch.set_num_threads(1 if given.cpu_time else given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    origin = provenance()
    settings = {key: value for key, value in vars(given).items() if key not in ("json", "markdown")}
    settings |= {
        "where": torch.cuda.get_device_name() if given.device == "cuda" else origin["hardware"]["cpu"],
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }
    record: dict[str, Any] = {"provenance": {**origin, **settings}, "rows": []}
    for members in map(int, given.members):
        for network in given.networks:
            for method in given.methods:
                with tempfile.TemporaryDirectory() as root:
                    jobs = jobs_of(network, method, members, given, f"{root}/runs")
                    times = measure(jobs, given.alone or members, given.rounds, clock)
                ratios = [a / b for a, b in zip(*times.values(), strict=True)]
                row = {"network": network, "method": method, "members": members, "times": times, "ratios": ratios}
                record["rows"].append(row)
                write(record, given)
    publish(report(record), record, given)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
