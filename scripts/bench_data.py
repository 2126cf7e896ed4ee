"""Speed of augmentation beside torchvision's, and its share of a training step: scripts/bench data."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark import contended, publish, show
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fsbench.config.augment import StandardAugment
from fsbench.config.compose import compose_jobs
from fsbench.data import TrainBatches
from fsbench.data.augment import batch_augment
from fsbench.data.splits import MemorySplit
from fsbench.models import build_model
from fsbench.runs.provenance import provenance
from fsbench.training.precision import arithmetic

SIDE, CUTOUT, CROP, BATCH, WORKERS, SEED = 32, 16, 4, 128, 2, 0
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

# name: options of fsbench, AutoAugment's policy of torchvision, how many times as fast fsbench should be
PIPELINES = {
    "crop + flip + Cutout": (StandardAugment(flip=True, crop=CROP, cutout=CUTOUT), False, 8.0),
    "crop + flip + AutoAugment + Cutout": (
        StandardAugment(flip=True, crop=CROP, autoaugment="cifar10", cutout=CUTOUT), True, 6.0,
    ),
}  # fmt: skip
# What is compared with a step of SGD.
BATCHES = {"none": StandardAugment(), **{name: options for name, (options, _, _) in PIPELINES.items()}}
NETWORKS = {"lenet": "LeNet", "resnet20": "ResNet-20"}

FSBENCH = "fsbench, batched tensors"
TORCHVISION = f"torchvision per image, {WORKERS} loader workers"


@dataclass
class Row:
    """One pass after the other of one way through one pipeline, in images a second."""

    pipeline: str
    method: str
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


@dataclass
class Share:
    """Milliseconds of a batch and of a step, measured in turn."""

    pipeline: str
    network: str
    batch: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the time of both together, that of the batch."""
        batch, step = statistics.median(self.batch), statistics.median(self.step)
        return batch / (batch + step)


class PerImage(Dataset):
    """Images as torchvision's own data sets give them: from an array through PIL, one at a time."""

    def __init__(self, images: Tensor, policy: bool) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        steps: list[Any] = [transforms.RandomCrop(SIDE, padding=CROP), transforms.RandomHorizontalFlip()]
        if policy:
            steps.append(transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10))
        self.transform = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD), OneCutout(CUTOUT)]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 10


class OneCutout:
    """Cutout of one image, as its authors' code does it (DeVries and Taylor 2017)."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        y, x = np.random.randint(height), np.random.randint(width)
        top, bottom = np.clip([y - self.side // 2, y + self.side // 2], 0, height)
        left, right = np.clip([x - self.side // 2, x + self.side // 2], 0, width)
        mask = np.ones((height, width), np.float32)
        mask[top:bottom, left:right] = 0.0
        return image * torch.from_numpy(mask)


def cpu_seconds() -> float:
    """CPU time of this process and of the loader's workers, which are its children."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def rates(images: Tensor, rounds: int, clock: Callable[[], float], device: torch.device) -> Iterator[Row]:
    """Both ways through each pipeline in turn, a pass over all images each time; the first of each is not timed."""
    labels = torch.arange(len(images)) % 10
    for name, (options, policy, _) in PIPELINES.items():
        ours = TrainBatches(MemorySplit(images, labels), batch_augment(options, MEAN, STD), BATCH, SEED, device)
        theirs = DataLoader(
            PerImage(images, policy), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        ways: dict[str, Callable[[int], Any]] = {
            FSBENCH: ours.epoch,
            TORCHVISION: lambda _, theirs=theirs: ((x.to(device), y.to(device)) for x, y in theirs),
        }
        rows = {method: Row(name, method) for method in ways}
        for number in range(-1, rounds):
            for method, begin in ways.items():
                show(f"{name}: {method}, pass {number + 1} of {rounds}")
                started = clock()
                for _ in begin(number + 1):
                    pass
                settle(device)
                if number >= 0:
                    rows[method].rates.append(len(images) / (clock() - started))
        yield from rows.values()


def shares(images: Tensor, rounds: int, clock: Callable[[], float], device: torch.device) -> Iterator[Share]:
    """A batch and a step of SGD on it in turn, for each pipeline and network."""
    labels = torch.arange(len(images)) % 10
    for network in NETWORKS:
        (job,) = compose_jobs([f"model={network}", "dataset=cifar10"], multirun=False)
        torch.manual_seed(SEED)
        model = build_model(job.config.model, (3, SIDE, SIDE), 10).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        loss = nn.CrossEntropyLoss()
        for name, options in BATCHES.items():
            batches = TrainBatches(MemorySplit(images, labels), batch_augment(options, MEAN, STD), BATCH, SEED, device)
            found = Share(name, network)
            epoch = batches.epoch(0)
            for number in range(-2, rounds):
                show(f"{network}, {name}: step {number + 1} of {rounds}")
                begun = clock()
                x, y = next(epoch)
                settle(device)
                made = clock()
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()
                settle(device)
                if number >= 0:
                    found.batch.append(1e3 * (made - begun))
                    found.step.append(1e3 * (clock() - made))
            yield found


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(rows: list[Row], found: list[Share], notes: list[str], about: str, cores: int) -> str:
    lines = ["# Augmentation: images a second", "", f"Written by `scripts/bench data`. {about}", ""]
    lines += [
        "Median (least - most). Ratios are of medians; in brackets the least and the most of a pair of passes.",
        "",
    ]
    if cores > 1:
        lines += [
            f"Per second of CPU time. By the clock {cores} workers fill {cores} cores at best; fsbench has one thread "
            f"here: there the ratio is at least 1/{cores} of the one shown, and that is compared with the targets.",
            "",
        ]
    table = [["pipeline", FSBENCH, TORCHVISION, "ratio", "target"]]
    for name, (_, _, target) in PIPELINES.items():
        ours, theirs = (next(r for r in rows if (r.pipeline, r.method) == (name, m)) for m in (FSBENCH, TORCHVISION))
        ratio = ours.median / theirs.median
        pairs = [a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]
        verdict = f"{target:g}: {'met' if ratio / cores >= target else 'missed'}"
        verdict += f" ({ratio / cores:.1f})" if cores > 1 else ""
        shown = f"{ratio:.1f} ({min(pairs):.1f} - {max(pairs):.1f})"
        table.append([name, cell(ours.rates), cell(theirs.rates), shown, verdict])
    lines += grid(table)
    lines += ["", f"## Share of a step of SGD, batch {BATCH}", ""]
    table = [["network", "pipeline", "batch, ms", "step, ms", "share of both"]]
    for one in found:
        parts = [f"{statistics.median(t):.2f} ({min(t):.2f} - {max(t):.2f})" for t in (one.batch, one.step)]
        table.append([NETWORKS[one.network], one.pipeline, *parts, f"{100 * one.share:.1f} %"])
    lines += grid(table)
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def grid(table: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
             for line in table]  # fmt: skip
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]


def cell(found: list[float]) -> str:
    return f"{statistics.median(found):.0f} ({min(found):.0f} - {max(found):.0f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench data", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="under a minute")
    add("--threads", type=int, default=2, help="of torch (default: 2)")
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--cpu-time", action="store_true", help="CPU time, of one thread and of the loader's workers together: for a "
        "machine that has other work to do")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write all rates and times and where they come from")
    add("--markdown", type=Path, metavar="FILE", help="write the tables")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    threads = 1 if given.cpu_time else given.threads
    torch.set_num_threads(threads)
    clock = cpu_seconds if given.cpu_time else time.perf_counter
    device = torch.device(given.device)
    load, origin, started = os.getloadavg()[0], provenance(), time.perf_counter()
    count, rounds, steps = (1_280, 3, 5) if given.quick else (5_120, 7, 20)
    images = torch.randint(
        256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED)
    )
    with arithmetic("fp32", device):
        rows = list(rates(images, rounds, clock, device))
        found = list(shares(images, steps, clock, device))
    show("")
    measured = "CPU time of all processes, one thread each" if given.cpu_time else f"wall-clock time, {threads} threads"
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else origin["hardware"]["cpu"]
    versions = ", ".join(f"{name} {origin['versions'][name]}" for name in ("torch", "torchvision"))
    about = (
        f"{hardware}, {measured}, {versions}. {count} random images of {SIDE} x {SIDE} pixels in batches of {BATCH}, "
        f"{rounds} passes of each in turn, {steps} steps; load average before: {load:.2f}."
    )
    notes = []
    notes += contended(load, given.cpu_time)
    notes.append(f"{'A quick run: ' if given.quick else ''}{time.perf_counter() - started:.0f} s in all.")
    text = report(rows, found, notes, about, WORKERS if given.cpu_time else 1)
    record = {
        "provenance": {
            **origin, "device": hardware, "threads": threads, "cpu_time": given.cpu_time, "load_average": load,
            "quick": given.quick,
        },
        "rows": [{**asdict(r), "median": r.median} for r in rows],
        "shares": [{**asdict(s), "share": s.share} for s in found],
    }  # fmt: skip
    publish(text, record, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
