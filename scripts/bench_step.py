"""Speed of a training step beside plain SGD, a textbook SAM and pytorch-optimizer's SAM: scripts/bench step."""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from benchmark import Timer, add_options, aligned, contended, ended, names, publish, short, show, version, write
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fsbench.config.compose import compose_jobs
from fsbench.errors import one_line
from fsbench.models import build_model
from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace
from fsbench.runs.provenance import provenance
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.cuda_graphs import WARM_UP, CudaRecorder, GraphedStep
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.memory_format import chosen_memory_format
from fsbench.training.precision import Precision, arithmetic
from fsbench.training.run import compiled
from fsbench.training.step import PlainStep

GREY = {"mlp", "lenet", "fcnn", "fcnn_small", "small_cnn", "lenet_ibayashi"}  # on images of 1 x 28 x 28
PIXELS = {"vit_base_patch16": 224}  # on a side of colour images; else those of --pixels
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
OWN = {**SGD, "fused": True}  # the default of `fsbench train`
PEER = "pytorch-optimizer"
REGULARISER = "Fisher trace M=8"
PRECISIONS = ("fp32", "tf32", "bf16")
FORMS = ("plain", "recorded", "compiled", "both")
# Dense FLOP/s of the tensor cores (fp32: without them) of the SXM cards, as NVIDIA's data sheets have them.
_HOPPER = {"fp32": 67e12, "tf32": 495e12, "bf16": 989e12}
PEAKS = {"NVIDIA H200": _HOPPER, "NVIDIA H100 80GB HBM3": _HOPPER}

SGD_PLAIN = "SGD of torch, NCHW"
TEXTBOOK = "textbook SAM, NCHW"
PEER_SAM = "pytorch-optimizer SAM, NCHW"
MEAN = "Fisher trace M=8, full_batch=mean (fsbench)"
BARE = "8 sub-batches forward and backward alone"
COPY = "copying the weights"
MOVE = "SAM, w to w + eps and back alone (fsbench)"
UNFUSED = "{}, plain base (fsbench)"


def own(method: str) -> str:
    return f"{method} (fsbench)"


def named(name: str, precision: str = "fp32", form: str = "plain") -> str:
    """A row's name in tables."""
    return ", ".join([name, *([precision] if precision != "fp32" else []), *([form] if form != "plain" else [])])


# (what, group, networks or None for all, row, relative to, at most)
TARGETS = (
    ("SAM / SGD, layout and precision alike", "step", None, own("SAM"), own("SGD"), 2.05),
    ("SAM / SGD in bf16", "step", None, named(own("SAM"), "bf16"), named(own("SGD"), "bf16"), 2.05),
    ("FSAM / SAM", "step", None, own("FSAM"), own("SAM"), 1.01),
    ("SAM / textbook loop, by default", "step", None, own("SAM"), TEXTBOOK, 0.8),
    ("SAM in bf16 / textbook loop", "step", None, named(own("SAM"), "bf16"), TEXTBOOK, 0.4),
    *(
        (f"{what}, recorded, {precision}", "step", networks,
         named(own(method), precision, "recorded"), named(own(other), precision, form), most)
        for precision in PRECISIONS
        for what, networks, method, other, form, most in (
            ("SAM / SGD", None, "SAM", "SGD", "recorded", 2.0),
            ("FSAM / SAM", None, "FSAM", "SAM", "recorded", 1.01),
            ("SAM / its plain step", ("resnet20",), "SAM", "SAM", "plain", 1 / 1.5),
        )
    ),
    ("regulariser, M = 8 / SGD", "regulariser", None, own(REGULARISER), own("SGD"), 2.1),
    *(
        (f"{method} / {of}", "update", None, own(method), reference, most)
        for of, reference in (("textbook SAM", TEXTBOOK), (f"{PEER}'s SAM", PEER_SAM))
        for method, most in (("SAM", 0.4), ("ASAM", 0.7), ("FSAM", 0.7))
    ),
)  # fmt: skip
SHARE = ("wrn28_10", "bf16", 0.4)  # at least this part of the card's peak

METHODS: dict[str, Callable[..., Descent]] = {
    "SGD": lambda p, **o: Descent(p, torch.optim.SGD, **{**OWN, **o}),
    "SAM": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.05, **{**OWN, **o}),
    "ASAM": lambda p, **o: ASAM(p, torch.optim.SGD, rho=0.5, eta=0.01, **{**OWN, **o}),
    "FSAM": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, **{**OWN, **o}),
    REGULARISER: lambda p, **o: FisherTrace(p, torch.optim.SGD, start="immediately", **{**OWN, **o}),
}


@dataclass(frozen=True)
class Setting(Timer):
    """Where and how long.

    Args:
        rounds: of A B A B ..., after two that are not counted.
        limit: seconds; ways are then measured one by one, the most telling first, and written after each.
    """

    batch: int
    rounds: int
    pixels: int
    methods: list[str]
    precisions: list[str]
    forms: list[str]
    limit: float | None


@dataclass
class Row:
    """The seconds of one way, a value for each round; what is None is not known.

    Args:
        flop: of one run.
        kernels, launches: what runs on a GPU in one run, and how often the host starts something there.
    """

    group: str
    case: str
    method: str
    precision: str = "fp32"
    form: str = "plain"
    times: list[float] = field(default_factory=list)
    flop: float | None = None
    kernels: int | None = None
    launches: int | None = None

    @property
    def name(self) -> str:
        return named(self.method, self.precision, self.form)

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
    side = PIXELS.get(network, setting.pixels)
    shape = (1, 28, 28) if grey else (3, side, side)
    torch.manual_seed(0)
    model = build_model(job.config.model, shape, 10).to(setting.device).train()
    x = torch.randn(setting.batch, *shape, device=setting.device)
    return model, x, torch.randint(10, (setting.batch,), device=setting.device)


def plain_pass(model: nn.Module, x: Tensor, y: Tensor, precision: str = "fp32") -> Callable[[], Tensor]:
    accuracy = Precision(precision, x.device)

    def closure() -> Tensor:
        with accuracy.autocast():
            loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    return closure


Run = Callable[[], object]


def torchs_sgd(network: str, precision: str, setting: Setting) -> Run:
    model, x, y = fresh(network, setting)
    base, forward = torch.optim.SGD(model.parameters(), **SGD), plain_pass(model, x, y, precision)

    def run() -> None:
        base.zero_grad()
        forward()
        base.step()

    return run


def textbook_sam(network: str, precision: str, setting: Setting) -> Run:
    model, x, y = fresh(network, setting)
    return partial(Textbook(list(model.parameters())).step, plain_pass(model, x, y, precision))


def peers_sam(network: str, precision: str, setting: Setting) -> Run:
    model, x, y = fresh(network, setting)
    return partial(peer_step(list(model.parameters())), plain_pass(model, x, y, precision))


REFERENCES = {SGD_PLAIN: torchs_sgd, TEXTBOOK: textbook_sam, PEER_SAM: peers_sam}


def ours(
    network: str, method: str, setting: Setting, precision: str = "fp32", form: str = "plain", **options: Any
) -> Run:
    """A step as `fsbench train` makes it; raises RuntimeError where it can't be recorded."""
    if form in ("recorded", "both") and setting.device.type != "cuda":
        raise RuntimeError("a step is recorded on a GPU alone")
    model, x, y = fresh(network, setting)
    accuracy = Precision(precision, setting.device)
    model.to(memory_format=chosen_memory_format("auto", model, accuracy))
    optimizer = METHODS[method](model.named_parameters(), model=model, **options)
    forward = compiled(model, setting.device) if form in ("compiled", "both") else model
    closure = BatchClosure(forward, nn.CrossEntropyLoss(), accuracy)
    step: PlainStep | GraphedStep = PlainStep(closure, optimizer)
    totals = EpochTotals()
    if form in ("recorded", "both"):
        step = GraphedStep(step, CudaRecorder(setting.device))
        for _ in range(2 * WARM_UP):
            step(x, y, len(y), totals)
        if not step.recorded:
            raise RuntimeError("the step was not recorded")
    return lambda: step(x, y, len(y), totals)


Build = Callable[[], Run]
Ways = Iterator[tuple[Row, Build]]


def step_ways(network: str, setting: Setting) -> Ways:
    """Whole steps; what a builder prepares is not timed."""
    for precision in setting.precisions:
        for reference, build in REFERENCES.items():
            yield Row("step", network, reference, precision), partial(build, network, precision, setting)
        for form in setting.forms:
            for method in setting.methods:
                if method != REGULARISER or precision == "fp32":  # elsewhere it is refused
                    row = Row("step", network, own(method), precision, form)
                    yield row, partial(ours, network, method, setting, precision, form)


def worth(row: Row, networks: list[str]) -> tuple[int, ...]:
    """Where a way stands in the order in which a limited time is spent: first what the targets ask for.

    A network of the first rank goes through all its ways in one precision before the next; compiling takes longest.
    """
    telling = row.method in (SGD_PLAIN, TEXTBOOK, own("SGD"), own("SAM"), own("FSAM"))
    compiles = row.form in ("compiled", "both")
    precision = ("bf16", "tf32", "fp32").index(row.precision)
    rank = precision if telling and not compiles else 4 if not compiles else 3 if row.precision == "bf16" else 5
    return rank, networks.index(row.case), precision, FORMS.index(row.form)


def regulariser_ways(network: str, setting: Setting) -> Ways:
    build = partial(ours, network, setting=setting)
    for name, made in {
        own("SGD"): partial(build, "SGD"),
        own(REGULARISER): partial(build, REGULARISER),
        MEAN: partial(build, REGULARISER, full_batch="mean"),
        BARE: partial(bare, network, setting),
    }.items():
        yield Row("regulariser", network, name), made


def bare(network: str, setting: Setting) -> Run:
    model, x, y = fresh(network, setting)
    passes = [plain_pass(model, *rows) for rows in zip(x.chunk(8), y.chunk(8), strict=True)]

    def run() -> None:
        for one in passes:
            model.zero_grad()
            one()

    return run


def update_ways(network: str, setting: Setting) -> Ways:
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

    def stepped(make: Callable[[dict[str, nn.Parameter]], Callable[..., object]]) -> Run:
        params, closure = weights()
        return partial(make(params), closure)

    def copying() -> Run:
        source = [p.detach() for p in weights()[0].values()]
        return partial(torch._foreach_copy_, [torch.empty_like(p) for p in source], source)

    def moving() -> Run:
        params, closure = weights()
        closure()
        mover = METHODS["SAM"](list(params.items()))

        @torch.no_grad()
        def move() -> None:
            trained = mover.trained()
            direction, norm = mover._perturbed.direction(trained, None)
            with mover._perturbed.at(trained, direction, [0.05] * len(trained), norm):
                pass

        return move

    ways: dict[str, Build] = {
        TEXTBOOK: partial(stepped, lambda params: Textbook(list(params.values())).step),
        PEER_SAM: partial(stepped, lambda params: peer_step(list(params.values()))),
    }
    for fused, name in ((True, "{} (fsbench)"), (False, UNFUSED)):
        for method in ("SAM", "ASAM", "FSAM"):
            ways[name.format(method)] = partial(
                stepped, lambda params, m=method, f=fused: METHODS[m](list(params.items()), fused=f).step
            )
    for name, build in (ways | {COPY: copying, MOVE: moving}).items():
        yield Row("update", network, name), build


GROUPS = {"step": step_ways, "regulariser": regulariser_ways, "update": update_ways}


LONG, SHORT = 2.0, 0.03  # seconds: of a way's rounds where time is limited, and of one round on a GPU


def measure(ways: list[tuple[Row, Build]], setting: Setting, absent: dict[str, list[str]]) -> list[Row]:
    """All ways in turn, again and again; one that can't be built or run is absent, and says why."""
    runs: list[tuple[Row, Run, int]] = []
    for row, build in ways:
        show(f"{row.group}, {row.case}: {row.name}")
        try:
            with arithmetic(row.precision, setting.device):
                run = build()
                look(row, run, setting)
                seconds = setting.timed(run)
        except Exception as failure:  # whatever a compiler, a recorder or the device raises
            absent.setdefault(one_line(failure), []).append(f"{row.case}: {row.name}")
            continue
        runs.append((row, run, max(1, min(20, int(SHORT / seconds))) if setting.device.type == "cuda" else 1))
    for done in range(setting.rounds):
        for row, run, times in runs:
            if setting.limit is None or len(row.times) < 3 or times * sum(row.times) < LONG:
                show(f"{row.group}, {row.case}: round {done + 1} of {setting.rounds}, {row.name}")
                with arithmetic(row.precision, setting.device):
                    row.times.append(setting.timed(run, times))
    return [row for row, _, _ in runs]


def look(row: Row, run: Run, setting: Setting) -> None:
    """The first runs; what a GPU does in one is counted."""
    if setting.device.type == "cuda" and row.form == "plain" and row.group != "update":
        with FlopCounterMode(display=False) as counter:
            run()
        row.flop = float(counter.get_total_flops())
    run()
    if setting.device.type == "cuda":
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            setting.timed(run)
        events = [event for event in profiler.events() if not event.is_user_annotation]
        row.kernels = sum(event.device_type == DeviceType.CUDA for event in events)
        starts = ("Launch", "MemcpyAsync", "MemsetAsync")
        row.launches = sum(any(word in event.name for word in starts) for event in events)


TITLES = {
    "step": "Whole steps: {}, batch {}",
    "regulariser": "The regulariser: {}, batch {}",
    "update": "Perturb, restore and base step alone: the weights of {}",
}
# What a row is compared with: of its own precision, or of its own precision and form.
COMPARED = {
    "step": (own("SGD"), own("SAM"), SGD_PLAIN, TEXTBOOK, PEER_SAM),
    "regulariser": (own("SGD"),),
    "update": (TEXTBOOK, PEER_SAM, COPY),
}


def ratios(row: Row, reference: Row) -> tuple[float, float, float]:
    """Median, least and most of the ratios of each round."""
    found = [a / b for a, b in zip(row.times, reference.times, strict=False)]
    return statistics.median(found), min(found), max(found)


def between(row: Row, reference: Row) -> str:
    middle, least, most = ratios(row, reference)
    # Of three rounds the least and the most say nothing.
    return f"{middle:.2f} ({least:.2f} - {most:.2f})" if len(row.times) > 3 else f"{middle:.2f}"


def tables(rows: list[Row], batch: int, peaks: Mapping[str, float]) -> Iterator[str]:
    """A table for each network.

    Args:
        peaks: FLOP/s of the device by precision, where they are known.
    """
    flop = {(r.case, r.method): r.flop for r in rows if r.flop}
    for group, network in dict.fromkeys((r.group, r.case) for r in rows):
        found = [r for r in rows if (r.group, r.case) == (group, network)]
        found.sort(key=lambda row: (PRECISIONS.index(row.precision), FORMS.index(row.form)))
        here = {row.name: row for row in found}
        shares = {name: share_of_peak(r, flop.get((network, r.method)), peaks) for name, r in here.items()}
        lines = [dict(cells(row, here, batch, shares[name])) for name, row in here.items()]
        head = [name for name in lines[0] if any(line[name] for line in lines)]
        table = aligned([head, *([line[name] for name in head] for line in lines)])
        yield from ["", "## " + TITLES[group].format(network, batch), "", *table]
        if group == "update" and {COPY, MOVE} <= set(here):
            # It reads g for the norm, then w and g, and writes w + eps; a copy reads and writes.
            times = here[MOVE].median / (2 * here[COPY].median)
            yield from ["", f"SAM's way to w + eps and back takes {times:.2f} times what copying as much takes."]
        verdicts = list(targets(group, network, here))
        case, precision, least = SHARE
        known = [share for name, share in shares.items() if share and here[name].precision == precision]
        if network == case and known:
            verdict = "met" if max(known) >= least else "missed"
            verdicts.append(f"- {verdict}: share of the peak in {precision}: {max(known):.2f} (at least {least:g})")
        if verdicts:
            yield from ["", "Targets:", "", *verdicts]


def cells(row: Row, here: Mapping[str, Row], batch: int, share: float | None) -> Iterator[tuple[str, str]]:
    """(column, text) of a row; empty where there is nothing to say."""
    yield "way", row.name
    yield "ms", f"{short(1e3 * row.median)} ({short(1e3 * min(row.times))} - {short(1e3 * max(row.times))})"
    yield "images/s", short(batch / row.median) if row.group != "update" else ""
    for name in COMPARED[row.group]:
        form = row.form if name.endswith("(fsbench)") else "plain"
        reference = here.get(named(name, row.precision, form))
        yield f"/ {name}", between(row, reference) if reference else ""
    plain = here.get(named(row.method, row.precision))
    yield "/ its plain form", f"{ratios(row, plain)[0]:.2f}" if plain and row.form != "plain" else ""
    yield "kernels", "" if row.kernels is None else str(row.kernels)
    yield "launches", "" if row.launches is None else str(row.launches)
    yield "share of peak", "" if share is None else f"{100 * share:.1f} %"


def share_of_peak(row: Row, flop: float | None, peaks: Mapping[str, float]) -> float | None:
    peak = peaks.get(row.precision)
    return flop / row.median / peak if flop and peak and row.group != "update" else None


def targets(group: str, network: str, here: dict[str, Row]) -> Iterator[str]:
    for what, where, networks, name, reference, most in TARGETS:
        if where == group and network in (networks or (network,)) and name in here and reference in here:
            found = ratios(here[name], here[reference])[0]
            yield f"- {'met' if found <= most else 'missed'}: {what}: {found:.3f} (at most {most:.3g})"


def report(record: dict[str, Any]) -> str:
    """The tables of what was measured."""
    known = record["provenance"]
    rows = [Row(**{key: value for key, value in row.items() if key != "median"}) for row in record["rows"]]
    measured = "CPU time of one thread" if known["cpu_time"] else f"{known['threads']} threads"
    parts = [known["device"], measured, f"torch {known['versions']['torch']}"]
    parts += [f"{name} {found or 'absent'}" for name, found in known["peers"].items()]
    turns = "all ways in turn" if known["seconds"] is None else "one way after the other, the most telling first"
    text = [
        "# The training step: time beside others", "",
        f"Written by `scripts/bench step`. {', '.join(parts)}. Random images and weights (seed 0), {turns}, in one "
        f"process; {known['rounds']} rounds after two that do not count; load average before: "
        f"{known['load_average']:.2f}.", "",
        "Median milliseconds (least - most); the ratios are medians over rounds (least - most), of rows of the same "
        "precision, and beside (fsbench) of the same form too. (fsbench): as `fsbench train` makes the step, "
        "memory_format=auto; recorded: as one CUDA graph; both: compiled and recorded.",
    ]  # fmt: skip
    if peaks := PEAKS.get(known["device"], {}):
        numbers = ", ".join(f"{precision} {peak / 1e12:.0f}" for precision, peak in peaks.items())
        text[-1] += f" Peak, dense, by the data sheet: {numbers} TFLOP/s."
    text += tables(rows, known["batch"], peaks)
    return "\n".join([*text, "", "## Notes", "", *(f"- {note}" for note in record["notes"])]) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench step", description=__doc__)
    add = parser.add_argument
    add("--networks", type=names, default=["resnet20", "wrn28_2"], help="of whole steps (default: resnet20,wrn28_2)")
    add("--regularised", type=names, default=["mlp", "lenet", "cnn"], help="networks of the regulariser's steps")
    add("--update", type=names, default=["wrn28_10"], help="networks whose update is measured alone")
    add("--methods", type=names, default=["SGD", "SAM", "ASAM", "FSAM"], help=f"of whole steps: {', '.join(METHODS)}")
    add("--precisions", type=names, default=["fp32", "bf16"], help=f"of whole steps: {', '.join(PRECISIONS)}")
    add("--forms", type=names, default=["plain"], help=f"of whole steps: {', '.join(FORMS)} (compiled and recorded)")
    add("--batch", type=int, default=128)
    add("--pixels", type=int, default=32, help="on a side of colour images (default: 32; always 224 for ViT-B/16)")
    add("--rounds", type=int, default=9)
    add("--seconds", type=float, help="begin nothing after so many; one way after the other, the most telling first")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add_options(parser)
    given = parser.parse_args()
    for key, allowed in (("methods", METHODS), ("precisions", PRECISIONS), ("forms", FORMS)):
        if unknown := [value for value in getattr(given, key) if value not in allowed]:
            parser.error(f"--{key}: no {', '.join(unknown)}; there are {', '.join(allowed)}")
    return given


def main() -> int:
    given = arguments()
    torch.set_num_threads(1 if given.cpu_time else given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    device = torch.device(given.device)
    setting = Setting(
        device, clock, given.batch, given.rounds, given.pixels, given.methods, given.precisions, given.forms,
        given.seconds,
    )  # fmt: skip
    load, origin, started = os.getloadavg()[0], provenance(), time.perf_counter()
    absent: dict[str, list[str]] = {}
    rows: list[Row] = []
    groups = {"step": given.networks, "regulariser": given.regularised, "update": given.update}
    together = [list(GROUPS[group](network, setting)) for group, cases in groups.items() for network in cases]
    if given.seconds is not None:
        ways = [way for ways in together for way in ways]
        together = [[way] for way in sorted(ways, key=lambda way: worth(way[0], given.networks))]

    def record() -> dict[str, Any]:
        notes = [f"left out, {why}: {listed(which)}" for why, which in absent.items()]
        notes += contended(load, given.cpu_time)
        return {
            "provenance": {
                **origin, "peers": {PEER: version(PEER)}, "threads": torch.get_num_threads(),
                "cpu_time": given.cpu_time, "load_average": load,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else origin["hardware"]["cpu"],
                "batch": given.batch, "pixels": given.pixels, "rounds": given.rounds, "seconds": given.seconds,
            },
            "rows": [{**vars(row), "median": row.median} for row in rows],
            "notes": [*notes, f"{time.perf_counter() - started:.0f} s in all."],
        }  # fmt: skip

    for done, ways in enumerate(together):
        if given.seconds is not None and time.perf_counter() - started > given.seconds:
            late = [f"{row.case}: {row.name}" for left in together[done:] for row, _ in left]
            absent[f"no time in {given.seconds:g} s"] = late
            break
        rows += measure(ways, setting, absent)
        write(record(), given)
        if device.type == "cuda":
            # A recorded step keeps its memory for as long as it lives.
            gc.collect()
            torch.cuda.empty_cache()
    show("")
    publish(report(record()), record(), given)
    return 0


def listed(which: list[str]) -> str:
    return "; ".join(which) if len(which) < 9 else f"{'; '.join(which[:8])} and {len(which) - 8} more"


if __name__ == "__main__":
    sys.exit(ended(main))
