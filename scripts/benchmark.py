"""What the benches share: options, a line of progress, tables, and the files that they write."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fsbench.errors import UsageError
from fsbench.runs.atomic import write_json


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--threads", type=int, default=2, help="of torch (default: 2)")
    add("--cpu-time", action="store_true", help="CPU time of one thread: for a machine that has other work to do")
    add("--json", type=Path, metavar="FILE", help="write all that was measured and where it comes from")
    add("--markdown", type=Path, metavar="FILE", help="write the tables")


@dataclass(frozen=True)
class Timer:
    """What is timed, and by which clock.

    Args:
        clock: seconds.
    """

    device: torch.device
    clock: Callable[[], float]

    def timed(self, run: Callable[[], object], times: int = 1) -> float:
        """Seconds of a run, the mean of so many."""
        self._wait()
        start = self.clock()
        for _ in range(times):
            run()
        self._wait()
        return (self.clock() - start) / times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def ended(main: Callable[[], int]) -> int:
    """The exit code of a bench; bad input is one line."""
    try:
        return main()
    except UsageError as failure:
        print(failure, file=sys.stderr)
        return 2


def show(text: str) -> None:
    """A line of progress in the place of the one before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its first line the head; numbers are to the right of the first column."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    ]
    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return [table[0], rule, *table[1:]]


def short(number: float) -> str:
    """Three digits, no exponent."""
    if number >= 100 or not math.isfinite(number):
        return f"{number:.0f}"
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def names(text: str) -> list[str]:
    """`a,b` as a list."""
    return [name for name in text.split(",") if name]


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def contended(load: float, cpu_time: bool) -> list[str]:
    """What is said where the machine was not the bench's alone."""
    if load <= 0.5 or cpu_time:
        return []
    return [f"Something else was running at the start (load average {load:.2f}): times may be too long."]


def publish(text: str, record: dict[str, Any], given: argparse.Namespace) -> None:
    """Print the tables, and write the files that were asked for."""
    print(text, end="")
    if given.markdown:
        given.markdown.write_text(text)
    write(record, given)


def write(record: dict[str, Any], given: argparse.Namespace) -> None:
    """What was measured so far, whole whenever it is read."""
    if given.json:
        write_json(given.json, record)
