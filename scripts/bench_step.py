"""Speed of a training step beside plain SGD, a textbook SAM and pytorch-optimizer's SAM: scripts/bench step."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmark import Timer, add_options, aligned, contended, ended, names, publish, short, show, version
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fsbench.config.compose import compose_jobs
from fsbench.models import build_model
from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace
from fsbench.runs.provenance import provenance
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.compiled import compiled
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.graphed_step import WARM_UP, GraphedStep
from fsbench.training.memory_format import chosen_memory_format
from fsbench.training.plain_step import PlainStep
from fsbench.training.precision import Precision
from fsbench.training.recorder import CudaRecorder

GREY = {"mlp", "lenet", "fcnn", "fcnn_small", "small_cnn", "lenet_ibayashi"}  # on images of 1 x 28 x 28
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
OWN = {**SGD, "fused": True}  # the default of `fsbench train`
PEER = "pytorch-optimizer"

SGD_PLAIN = "SGD of torch, NCHW fp32"
TEXTBOOK = "textbook SAM, NCHW fp32"
PEER_SAM = "pytorch-optimizer SAM, NCHW fp32"
OURS = "{} (fsbench)"
BF16 = "{} (fsbench), bf16"
COMPILED = "{} (fsbench), compiled"
GRAPH = "{} (fsbench), CUDA graph"
GRAPH_BF16 = "{} (fsbench), bf16, CUDA graph"
MEAN = "Fisher trace M=8, full_batch=mean (fsbench)"
TOGETHER = "Fisher trace M=8, together=true (fsbench)"
APART = "Fisher trace M=8, together=false (fsbench)"
BARE = "8 sub-batches forward and backward alone"
COPY = "copying the weights"
MOVE = "{}, w to w + eps and back alone (fsbench)"
UNFUSED = "{}, plain base (fsbench)"

# (what, group, row, relative to, at most)
TARGETS = (
    ("SAM / SGD, layout and precision alike", "step", OURS.format("SAM"), OURS.format("SGD"), 2.05),
    ("SAM / SGD in bf16", "step", BF16.format("SAM"), BF16.format("SGD"), 2.05),
    ("FSAM / SAM", "step", OURS.format("FSAM"), OURS.format("SAM"), 1.01),
    ("SAM / textbook loop, by default", "step", OURS.format("SAM"), TEXTBOOK, 0.8),
    ("SAM / textbook loop, in bf16", "step", BF16.format("SAM"), TEXTBOOK, 0.4),
    ("regulariser, M = 8 / SGD", "regulariser", OURS.format("Fisher trace M=8"), OURS.format("SGD"), 2.1),
    *(
        (f"{method} / {of}", "update", OURS.format(method), reference, most)
        for of, reference in (("textbook SAM", TEXTBOOK), (f"{PEER}'s SAM", PEER_SAM))
        for method, most in (("SAM", 0.4), ("ASAM", 0.7), ("FSAM", 0.7))
    ),
)

METHODS: dict[str, Callable[..., Descent]] = {
    "SGD": lambda p, **o: Descent(p, torch.optim.SGD, **{**OWN, **o}),
    "SAM": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, **{**OWN, **o}),
    "ASAM": lambda p, **o: ASAM(p, torch.optim.SGD, rho=0.5, eta=0.01, **{**OWN, **o}),
    "FSAM": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, **{**OWN, **o}),
    "Fisher trace M=8": lambda p, **o: FisherTrace(
        p, torch.optim.SGD, start="immediately", **{**OWN, "together": "auto", **o}
    ),
}


@dataclass(frozen=True)
class Setting(Timer):
    """Where and how long.

    Args:
        rounds: of A B A B ..., after two that are not counted.
    """

    batch: int
    rounds: int
    compiles: bool
    pixels: int


@dataclass
class Row:
    """The seconds of one way, a value for each round; `flop` of one run where it is known."""

    group: str
    case: str
    name: str
    times: list[float] = field(default_factory=list)
    flop: float | None = None

    @property
    def opaque(self) -> bool:
        """Whether operations can't be counted as they are called; the graph's are those of the plain way."""
        return "compiled" in self.name or "graph" in self.name

    @property
    def median(self) -> float:
        return statistics.median(self.times)


class Textbook:
    """Two-pass SAM as the tutorials have it: a copy of every weight, a loop over tensors, and the base's step."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params, self.base, self.rho = params, torch.optim.SGD(params, **SGD), 0.05

    def step(self, closure: Callable[[], Tensor]) -> None:
        self.base.zero_grad()
        closure()
        with torch.no_grad():
            norm = torch.norm(torch.stack([p.grad.norm(p=2) for p in self.params]), p=2)
            scale = self.rho / (norm + 1e-12)
            old = [p.detach().clone() for p in self.params]
            for p in self.params:
                p.add_(p.grad * scale)
        self.base.zero_grad()
        closure()
        for p, w in zip(self.params, old, strict=True):
            p.data = w
        self.base.step()


def peer_step(params: list[nn.Parameter]) -> Callable[[Callable[[], Tensor]], None]:
    """pytorch-optimizer's SAM: the caller makes the first pass. Raises ImportError."""
    from pytorch_optimizer import SAM as PeersSAM

    optimizer = PeersSAM(params, torch.optim.SGD, rho=0.05, **SGD)

    def step(closure: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        closure()
        optimizer.step(closure)

    return step


def fresh(network: str, setting: Setting) -> tuple[nn.Module, Tensor, Tensor]:
    """The network with random weights (seed 0) and a batch of random images."""
    grey = network in GREY
    (job,) = compose_jobs([f"model={network}", f"dataset={'mnist' if grey else 'cifar10'}"], multirun=False)
    shape = (1, 28, 28) if grey else (3, setting.pixels, setting.pixels)
    torch.manual_seed(0)
    model = build_model(job.config.model, shape, 10).to(setting.device).train()
    x = torch.randn(setting.batch, *shape, device=setting.device)
    return model, x, torch.randint(10, (setting.batch,), device=setting.device)


def plain_pass(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    return closure


def ours(
    network: str, method: str, setting: Setting, precision: str = "fp32", compiling: bool = False, **options: Any
) -> Callable[[], None]:
    """A step as `fsbench train` makes it."""
    model, x, y = fresh(network, setting)
    accuracy = Precision(precision, setting.device)
    model.to(memory_format=chosen_memory_format("auto", model, accuracy))
    optimizer = METHODS[method](model.named_parameters(), model=model, **options)
    forward = compiled(model, setting.device) if compiling else model
    closure = BatchClosure(forward, nn.CrossEntropyLoss(), accuracy)

    def run() -> None:
        closure.load(x, y)
        optimizer.step(closure, size=len(y))

    return run


def graphed(network: str, method: str, setting: Setting, precision: str = "fp32") -> Callable[[], None]:
    """A step as `fsbench train` makes it on a GPU, recorded; raises RuntimeError where that fails."""
    model, x, y = fresh(network, setting)
    accuracy = Precision(precision, setting.device)
    model.to(memory_format=chosen_memory_format("auto", model, accuracy))
    optimizer = METHODS[method](model.named_parameters(), model=model)
    closure = BatchClosure(model, nn.CrossEntropyLoss(), accuracy)
    step, totals = GraphedStep(PlainStep(closure, optimizer), CudaRecorder(setting.device)), EpochTotals()
    for _ in range(2 * WARM_UP):
        step(x, y, len(y), totals)
    if not step.recorded:
        raise RuntimeError(f"{method} on {network}: the step was not recorded")
    return lambda: step(x, y, len(y), totals)


Ways = Iterator[tuple[str, Callable[[], None]]]


def step_ways(network: str, setting: Setting, absent: dict[str, str]) -> Ways:
    """(name, run) of whole steps; what is prepared here is not timed."""
    model, x, y = fresh(network, setting)
    base, forward = torch.optim.SGD(model.parameters(), **SGD), plain_pass(model, x, y)

    def plain() -> None:
        base.zero_grad()
        forward()
        base.step()

    yield SGD_PLAIN, plain
    model, x, y = fresh(network, setting)
    textbook, textbooks_pass = Textbook(list(model.parameters())), plain_pass(model, x, y)
    yield TEXTBOOK, lambda: textbook.step(textbooks_pass)
    try:
        model, x, y = fresh(network, setting)
        step, peers_pass = peer_step(list(model.parameters())), plain_pass(model, x, y)
        yield PEER_SAM, lambda: step(peers_pass)
    except ImportError as failure:
        absent[PEER] = f"{PEER} can't be imported ({failure}) and is left out"
    for method in ("SGD", "SAM", "ASAM", "FSAM"):
        yield OURS.format(method), ours(network, method, setting)
    for method in ("SGD", "SAM", "FSAM"):
        yield BF16.format(method), ours(network, method, setting, "bf16")
    if setting.device.type == "cuda":
        for name, precision in ((GRAPH, "fp32"), (GRAPH_BF16, "bf16")):
            for method in ("SGD", "SAM", "FSAM"):
                yield name.format(method), graphed(network, method, setting, precision)
    if setting.compiles:
        for method in ("SGD", "SAM"):
            yield COMPILED.format(method), ours(network, method, setting, compiling=True)


def regulariser_ways(network: str, setting: Setting, absent: dict[str, str]) -> Ways:
    yield OURS.format("SGD"), ours(network, "SGD", setting)
    yield OURS.format("Fisher trace M=8"), ours(network, "Fisher trace M=8", setting)
    yield MEAN, ours(network, "Fisher trace M=8", setting, full_batch="mean")
    yield APART, ours(network, "Fisher trace M=8", setting, together=False)
    try:
        yield TOGETHER, ours(network, "Fisher trace M=8", setting, together=True)
    except ValueError as failure:
        absent[f"{TOGETHER}, {network}"] = f"{network}, {failure}"
    model, x, y = fresh(network, setting)
    passes = [plain_pass(model, *rows) for rows in zip(x.chunk(8), y.chunk(8), strict=True)]

    def bare() -> None:
        for one in passes:
            model.zero_grad()
            one()

    yield BARE, bare


def update_ways(network: str, setting: Setting, absent: dict[str, str]) -> Ways:
    """Perturb, restore and base step alone: the gradients are there already."""

    def weights() -> tuple[dict[str, nn.Parameter], Callable[..., Tensor]]:
        model, _, _ = fresh(network, setting)
        params = {name: nn.Parameter(p.detach().clone()) for name, p in model.named_parameters()}
        gradients = [1e-3 * torch.randn_like(p) for p in params.values()]

        def closure(rows: slice | None = None) -> Tensor:
            for p, g in zip(params.values(), gradients, strict=True):
                p.grad = g
            return torch.zeros(())

        return params, closure

    params, closure = weights()
    textbook = Textbook(list(params.values()))
    yield TEXTBOOK, lambda: textbook.step(closure)
    try:
        params, peers_closure = weights()
        step = peer_step(list(params.values()))
        yield PEER_SAM, lambda: step(peers_closure)
    except ImportError as failure:
        absent[PEER] = f"{PEER} can't be imported ({failure}) and is left out"
    for fused in (True, False):
        for method in ("SAM", "ASAM", "FSAM"):
            params, given = weights()
            optimizer = METHODS[method](list(params.items()), fused=fused)
            name = OURS if fused else UNFUSED
            yield name.format(method), lambda optimizer=optimizer, given=given: optimizer.step(given)
    source = [p.detach() for p in weights()[0].values()]
    target = [torch.empty_like(p) for p in source]
    yield COPY, lambda: torch._foreach_copy_(target, source)
    params, moving = weights()
    moving()
    mover = METHODS["SAM"](list(params.items()))

    @torch.no_grad()
    def move() -> None:
        trained = mover.trained()
        direction, norm = mover._beside.direction(trained, None)
        with mover._beside.displaced(trained, direction, [0.05] * len(trained), norm):
            pass

    yield MOVE.format("SAM"), move


def measure(group: str, network: str, ways: Ways, setting: Setting) -> list[Row]:
    """All ways in turn, again and again."""
    runs = [(Row(group, network, name), run) for name, run in ways]
    for done in range(setting.rounds + 2):
        for row, run in runs:
            show(f"{group}, {network}: round {done + 1} of {setting.rounds + 2}, {row.name}")
            if done == 0 and setting.device.type == "cuda" and group != "update" and not row.opaque:
                with FlopCounterMode(display=False) as counter:
                    run()
                row.flop = float(counter.get_total_flops())
            seconds = setting.timed(run)
            if done >= 2:
                row.times.append(seconds)
    known = {row.name: row.flop for row, _ in runs}
    for row, _ in runs:
        row.flop = row.flop or known.get(row.name.removesuffix(", CUDA graph"))
    return [row for row, _ in runs]


def peak_flops(setting: Setting) -> float:
    """FLOP/s of a large bf16 matrix product, the best of ten."""
    a = torch.randn(8192, 8192, device=setting.device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    return 2 * 8192**3 / min(setting.timed(lambda: a @ a) for _ in range(10))


def ratios(row: Row, reference: Row) -> tuple[float, float, float]:
    """Median, least and most of the ratios of each round."""
    found = [a / b for a, b in zip(row.times, reference.times, strict=True)]
    return statistics.median(found), min(found), max(found)


def between(row: Row, reference: Row) -> str:
    return "{:.2f} ({:.2f} - {:.2f})".format(*ratios(row, reference))


TITLES = {
    "step": "Whole steps: {}, batch {}",
    "regulariser": "The regulariser: {}, batch {}",
    "update": "Perturb, restore and base step alone: the weights of {}",
}
REFERENCES = {
    "step": (OURS.format("SGD"), SGD_PLAIN, TEXTBOOK, PEER_SAM),
    "regulariser": (OURS.format("SGD"),),
    "update": (TEXTBOOK, PEER_SAM, COPY),
}


def tables(rows: list[Row], setting: Setting, peak: float | None) -> Iterator[str]:
    for group, network in dict.fromkeys((r.group, r.case) for r in rows):
        here = {r.name: r for r in rows if (r.group, r.case) == (group, network)}
        references = [name for name in REFERENCES[group] if name in here]
        shares = peak is not None and group != "update"
        rates = group != "update"
        head = ["way", "ms", *(["images/s"] if rates else []), *(f"/ {name}" for name in references)]
        head += ["share of peak"] if shares else []
        lines = [head]
        for row in here.values():
            ms = f"{short(1e3 * row.median)} ({short(1e3 * min(row.times))} - {short(1e3 * max(row.times))})"
            share = [f"{100 * row.flop / row.median / peak:.1f} %" if row.flop else ""] if shares else []
            rate = [short(setting.batch / row.median)] if rates else []
            lines.append([row.name, ms, *rate, *(between(row, here[name]) for name in references), *share])
        yield from ["", "## " + TITLES[group].format(network, setting.batch), "", *aligned(lines)]
        if group == "update":
            # It reads g for the norm, then w and g, and writes w + eps; a copy reads and writes.
            limit = 2 * statistics.median(here[COPY].times)
            there = here[MOVE.format("SAM")].median
            yield from [
                "",
                f"SAM's way to w + eps and back takes {there / limit:.2f} times what copying as much takes.",
            ]
        if verdicts := list(targets(group, here)):
            yield from ["", "Targets:", "", *verdicts]


def targets(group: str, here: dict[str, Row]) -> Iterator[str]:
    for what, where, name, reference, most in TARGETS:
        if where == group and name in here and reference in here:
            found = ratios(here[name], here[reference])[0]
            yield f"- {'met' if found <= most else 'missed'}: {what}: {found:.3f} (at most {most:g})"


def about(given: argparse.Namespace, device: torch.device, load: float, peak: float | None) -> str:
    known = provenance()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else known["hardware"]["cpu"]
    measured = "CPU time of one thread" if given.cpu_time else f"{torch.get_num_threads()} threads"
    parts = [where, measured, f"torch {known['versions']['torch']}", f"{PEER} {version(PEER) or 'absent'}"]
    text = ", ".join(parts) + f". Random images and weights (seed 0), all ways in turn in one process, {given.rounds} "
    text += f"rounds after two that do not count; load average before: {load:.2f}."
    return text if peak is None else f"{text} Peak: {peak / 1e12:.0f} TFLOP/s, measured with a bf16 matrix product."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench step", description=__doc__)
    add = parser.add_argument
    add("--networks", type=names, default=["resnet20", "wrn28_2"], help="of whole steps (default: resnet20,wrn28_2)")
    add("--regularised", type=names, default=["mlp", "lenet", "cnn"], help="networks of the regulariser's steps")
    add("--update", type=names, default=["wrn28_10"], help="networks whose update is measured alone")
    add("--batch", type=int, default=128)
    add("--pixels", type=int, default=32, help="on a side of colour images (default: 32; 224 for vit_base_patch16)")
    add("--rounds", type=int, default=9)
    add("--compile", action="store_true", help="compiled steps too; the first takes minutes on a CPU")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add_options(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    torch.set_num_threads(1 if given.cpu_time else given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    device = torch.device(given.device)
    setting = Setting(device, clock, given.batch, given.rounds, given.compile, given.pixels)
    load, origin, started = os.getloadavg()[0], provenance(), time.perf_counter()
    absent: dict[str, str] = {}
    rows: list[Row] = []
    for group, networks, ways in (
        ("step", given.networks, step_ways),
        ("regulariser", given.regularised, regulariser_ways),
        ("update", given.update, update_ways),
    ):
        for network in networks:
            rows += measure(group, network, ways(network, setting, absent), setting)
    peak = peak_flops(setting) if device.type == "cuda" else None
    show("")
    notes = list(absent.values())
    notes += contended(load, given.cpu_time)
    notes.append(f"{time.perf_counter() - started:.0f} s in all.")
    lines = ["# The training step: time beside others", "", "Written by `scripts/bench step`. "]
    lines[-1] += about(given, device, load, peak)
    lines += [
        "",
        "Median milliseconds (least - most); the ratios are medians over rounds (least - most) of times that ",
    ]
    lines[-1] += "were taken one after the other. (fsbench): as `fsbench train` makes the step, memory_format=auto."
    lines += [*tables(rows, setting, peak), "", "## Notes", "", *(f"- {note}" for note in notes)]
    text = "\n".join(lines) + "\n"
    found: dict[str, Any] = {
        "provenance": {
            **origin, "peers": {PEER: version(PEER)}, "threads": torch.get_num_threads(),
            "cpu_time": given.cpu_time, "load_average": load, "peak_flops": peak, "device": device.type,
            "batch": given.batch, "pixels": given.pixels, "rounds": given.rounds,
        },
        "rows": [{**vars(row), "median": row.median} for row in rows],
    }  # fmt: skip
    publish(text, found, given)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
