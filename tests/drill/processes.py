"""Command lines as processes: started, killed, and what they leave behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fsbench.runs.directory import RunDirectory

SMALL = ("dataset=digits", "trainer.progress=false", "trainer.device=cpu")
RUN = (*SMALL, "model=cnn", "optimizer=fsam", "dataset.subset=400", "trainer.epochs=12")
SWEEP = ("-m", *RUN, "trainer.epochs=3", "optimizer=sgd,fsam", "seed=0,1")
TIMES = ("seconds", "seconds_per_epoch", "seconds_per_step", "peak_memory")
# Seconds within which the children of a process that was killed have to be gone.
PATIENCE = 60.0


@dataclass
class Place:
    """A working directory with a directory of temporary files, and the processes that were started there."""

    path: Path
    mark: str = field(init=False)

    def __post_init__(self) -> None:
        self.mark = f"DRILL={self.path}"
        self.temporary.mkdir(parents=True, exist_ok=True)

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "fsbench")) -> subprocess.Popen[str]:
        name, _, value = self.mark.partition("=")
        environment = {**os.environ, name: value, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, *program, *arguments], cwd=self.path, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str) -> None:
        process = self.start(*arguments)
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 0, said

    def alive(self) -> list[int]:
        """The processes that were started here, or by those."""
        found = []
        for place in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in place.read_bytes().split(b"\0"):
                    found.append(int(place.parts[2]))
            except OSError:
                continue
        return found

    def wait_until_gone(self) -> None:
        """Wait until none is alive. Raises AssertionError where one stays."""
        begun = time.monotonic()
        while left := self.alive():
            assert time.monotonic() < begun + PATIENCE, f"left behind: {left}"
            time.sleep(0.05)

    def litter(self) -> list[Path]:
        """Temporary files and directories that nobody will remove; torch's cache of compiled code is no such one."""
        kept = [path for path in self.temporary.iterdir() if not path.name.startswith("torchinductor_")]
        return sorted([*kept, *self.path.rglob(".*.part")])


@dataclass
class Command:
    """A command that is to be broken off, once made undisturbed.

    Args:
        line: of a round; each round is one from the start to the end.
        check: looks at what a round came to.
        seconds: that it takes undisturbed.
    """

    line: Callable[[int], list[str]]
    check: Callable[[int], None]
    seconds: float


def training(place: Place, line: Sequence[str]) -> Command:
    begun = time.monotonic()
    place.run("train", *line, "runs_dir=whole")
    return Command(
        lambda number: ["train", *line, f"runs_dir=broken{number}"],
        lambda number: same_runs(place.path / f"broken{number}", place.path / "whole"),
        time.monotonic() - begun,
    )


def measuring(place: Place, rounds: int) -> Command:
    place.run("train", *SMALL, "model=mlp", "model.widths=[16]", "trainer.epochs=1", "run_name=run")
    for number in range(rounds):
        shutil.copytree(place.path / "runs/run", place.path / f"broken{number}")
    line = ("measures=[all]", "samples=100", "progress=false", "device=cpu")
    begun = time.monotonic()
    place.run("sharpness", "run=runs/run", *line)
    seconds, whole = time.monotonic() - begun, measures(place.path / "runs/run")

    def check(number: int) -> None:
        assert measures(place.path / f"broken{number}") == whole

    return Command(lambda number: ["sharpness", f"run=broken{number}", *line], check, seconds)


def reproducing(place: Place, papers: Path) -> Command:
    asked = ("reproduce", "--papers", str(papers), "made2099/table1", "made2099/fig1", "kim2022/fig1", "scale=tiny",
             "device=cpu", "progress=false")  # fmt: skip

    def line(name: str) -> list[str]:
        return [*asked, f"runs_dir={name}", f"results_dir=results-{name}"]

    def check(number: int) -> None:
        same_files(place.path / f"results-broken{number}", place.path / "results-whole")
        same_runs(place.path / f"broken{number}", place.path / "whole")

    begun = time.monotonic()
    place.run(*line("whole"))
    return Command(lambda number: line(f"broken{number}"), check, time.monotonic() - begun)


@dataclass
class Figures:
    """What a drill came to."""

    name: str
    kills: int = 0
    runs: int = 0
    slowest: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.kills} kills, {self.runs} finished, nothing lost, different or left over; "
            f"the last process was gone {self.slowest:.1f} s after a kill"
        )


def drill(name: str, place: Place, kills: int, command: Command) -> Figures:
    """Kill a command at random moments until it was killed so often; whenever it came to its end, check that."""
    chance, figures, number, fresh, whole = random.Random(name), Figures(name), 0, True, command.seconds
    while True:
        begun = time.monotonic()
        process = place.start(*command.line(number))
        left = kills - figures.kills
        try:
            said = process.communicate(timeout=chance.uniform(0.35, 1.0) * whole if left else 600)[1]
        except subprocess.TimeoutExpired:
            killed = time.monotonic()
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=PATIENCE)  # its children hold its pipes
            figures.kills += process.returncode == -signal.SIGKILL
            place.wait_until_gone()
            figures.slowest = max(figures.slowest, time.monotonic() - killed)
            readable(place.path)
            fresh = False
            continue
        assert process.returncode == 0, said
        place.wait_until_gone()
        assert place.litter() == []
        command.check(number)
        figures.runs += 1
        number += 1
        if not left:
            return figures
        # The machine has become faster.
        whole, fresh = min(whole, time.monotonic() - begun) if fresh else whole, True


def readable(root: Path) -> None:
    """Whatever lies there under its name is whole."""
    for path in root.rglob("*.json"):
        if not any(part.startswith(".") for part in path.parts):
            json.loads(path.read_text())
    for path in root.rglob("metrics.jsonl"):
        [json.loads(text) for text in path.read_text().splitlines()]
    for path in root.rglob("checkpoint.pt"):
        torch.load(path, weights_only=True)
    for path in root.rglob("model.safetensors"):
        load_file(path)


def same_runs(mine: Path, theirs: Path) -> None:
    """The same runs, bit for bit, and no other files."""
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in mine.iterdir()) == names
    for name in names:
        a, b = RunDirectory(mine / name), RunDirectory(theirs / name)
        assert sorted(os.listdir(a.path)) == sorted(os.listdir(b.path))
        ours, others = load_file(a.model), load_file(b.model)
        assert ours.keys() == others.keys()
        assert all(torch.equal(ours[key], others[key]) for key in others)
        assert timeless(a.read_results()) == timeless(b.read_results())
        assert rows(a) == rows(b)


def rows(run: RunDirectory) -> list[dict[str, Any]]:
    return [timeless(json.loads(text)) for text in run.metrics.read_text().splitlines()]


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}


def measures(run: Path) -> dict[str, Any]:
    """What is recorded of a network, but for times and dates."""
    content = json.loads((run / "sharpness.json").read_text())
    for entry in content["measures"].values():
        del entry["seconds"], entry["provenance"]
    return content


def same_files(mine: Path, theirs: Path) -> None:
    """The same files with the same bytes, but for provenance.json, which has times in it."""
    names = {path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file()}
    assert {path.relative_to(mine) for path in mine.rglob("*") if path.is_file()} == names
    for name in names:
        assert name.name == "provenance.json" or (mine / name).read_bytes() == (theirs / name).read_bytes()
