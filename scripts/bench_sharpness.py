"""Speed of the exact trace of the Hessian beside other ways to it, on MNIST: scripts/bench sharpness."""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark import add_options, aligned, contended, ended, publish, short, show, version
from torch import Tensor, nn
from torch.nn import functional

from fsbench.config.compose import compose_jobs
from fsbench.data import eval_batches, load_data
from fsbench.models import build_model
from fsbench.runs.provenance import provenance
from fsbench.sharpness import Risk, hessian_diagonal, hessian_trace

NETWORKS = {
    "fcnn_small": "FCNN 784-20-20-10",
    "small_cnn": "CNN conv5(20)-pool-conv5(20)-pool-linear",
}
SIZES = (10, 100, 1000)
PROBES = 100
LEAST = 3  # runs of what takes under five seconds and is not extrapolated
SEED = 0
PEERS = ("curvlinops-for-pytorch", "backpack-for-pytorch")

EXACT = "fsbench exact"
WITH_RISK = "fsbench exact, with Risk()"
BASELINE = "naive baseline"
PER_EXAMPLE = "K+1 passes per example"
PER_EXAMPLE_BATCHED = "K+1 passes per example, batched over classes"
HUTCHINSON = "fsbench Hutchinson"
PYHESSIAN = "PyHessian-style Hutchinson"
CURVLINOPS = "curvlinops Hutchinson"
EKFAC = "curvlinops, trace of EKFAC"
BACKPACK = "BackPACK DiagGGNExact"
BACKPACK_CUT = "BackPACK DiagGGNExact, batches of {}"

# (network, method, n or None for each, how many times as fast the exact trace should be)
TARGETS = (
    ("fcnn_small", BACKPACK, None, 2.0),
    ("fcnn_small", PER_EXAMPLE_BATCHED, 1000, 100.0),
    ("small_cnn", BACKPACK, None, 2.0),
    ("small_cnn", PER_EXAMPLE_BATCHED, 1000, 4.0),
)


@dataclass(frozen=True)
class Effort:
    """How long to measure, and by which clock.

    Args:
        budget: seconds for all runs of one method on one case.
        limit: seconds; of what would take longer a part is run, and the time extrapolated.
        runs: of one method at most.
        clock: seconds.
    """

    budget: float
    limit: float
    runs: int
    clock: Callable[[], float]


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Args:
        value: the trace; None where only a part was computed.
        error: relative difference from the reference of what was computed.
        ms: where it was extrapolated; else the time of the call counts.
        part: what was run, where that is not all.
    """

    value: float | None
    error: float
    ms: float | None = None
    part: str = ""


@dataclass
class Case:
    """A network and n examples, and the exact trace in float64."""

    network: str
    n: int
    model: nn.Module
    x: Tensor
    y: Tensor
    risk: Risk
    reference: float

    def outcome(self, value: float) -> Outcome:
        return Outcome(value, abs(value - self.reference) / abs(self.reference))


@dataclass
class Row:
    """The measurements of one method on one case; times in milliseconds."""

    network: str
    n: int
    method: str
    exact: bool
    times: list[float] = field(default_factory=list)
    value: float | None = None
    error: float = math.nan
    part: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.times)


Run = Callable[[], Outcome]


def fsbench_methods(case: Case, effort: Effort) -> Iterator[tuple[str, bool, Run]]:
    """(name, whether it is exact, run) of what fsbench offers; what is prepared here is not timed."""
    yield EXACT, True, lambda: case.outcome(hessian_trace(case.risk).value)
    yield (
        WITH_RISK,
        True,
        lambda: case.outcome(hessian_trace(Risk(case.model, functional.cross_entropy, [(case.x, case.y)])).value),
    )

    def probes(count: int) -> float:
        return hessian_trace(case.risk, "hutchinson", probes=count, seed=SEED).value

    yield HUTCHINSON, False, probing(case, effort, probes)


def baseline(case: Case, effort: Effort) -> Run:
    """One derivative for each weight, all or as many drawn at random as `limit` allows; as fsbench's `baseline`."""
    entries = [(p, i) for p in case.risk.weights for i in range(p.numel())]
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(SEED)).tolist()
    diagonal = torch.cat([d.flatten() for d in hessian_diagonal(case.risk).values.values()])

    def some(count: int) -> Outcome:
        start = effort.clock()
        loss = functional.cross_entropy(case.model(case.x), case.y)
        gradient = torch.autograd.grad(loss, case.risk.weights, create_graph=True)
        flat = {p: g.flatten() for p, g in zip(case.risk.weights, gradient, strict=True)}
        graph = effort.clock() - start
        found = []
        for entry in order[:count]:
            p, i = entries[entry]
            (row,) = torch.autograd.grad(flat[p][i], p, retain_graph=True)
            found.append(row.flatten()[i])
        taken = effort.clock() - start
        expected = diagonal[order[:count]]
        if count == len(entries):
            return case.outcome(float(torch.stack(found).double().sum()))
        error = float((torch.stack(found) - expected).norm() / expected.norm())
        part = f"{count} of {len(entries)} weights, drawn at random"
        return Outcome(None, error, 1e3 * (graph + (taken - graph) / count * len(entries)), part)

    some(3)
    projected = some(20).ms / 1e3
    # A third of the limit is enough for a part: the derivatives of one tensor cost much the same.
    part = max(20, min(len(entries) - 1, int(len(entries) * effort.limit / 3 / projected)))
    count = len(entries) if projected <= effort.limit else part
    return lambda: some(count)


def per_example(case: Case, effort: Effort, together: bool) -> Run:
    """Proposition 1 as it stands: of each example the gradients of all logits and of ln Z, and their squared norms.

    Args:
        together: the K+1 passes of an example in one call.
    """
    weights = case.risk.weights

    def squared_norm(output: Tensor) -> Tensor:
        gradients = torch.autograd.grad(output, weights, retain_graph=True)
        return sum(g.square().sum() for g in gradients)

    def one_by_one(logits: Tensor) -> Tensor:
        p = logits.detach().softmax(0)
        norms = torch.stack([squared_norm(logit) for logit in logits])
        return p @ norms - squared_norm(logits.logsumexp(0))

    def in_one_call(logits: Tensor) -> Tensor:
        p = logits.detach().softmax(0)
        vectors = torch.cat([torch.eye(len(p)), p[None]])  # d ln Z / d logits = p
        gradients = torch.autograd.grad(logits, weights, vectors, is_grads_batched=True)
        norms = sum(g.square().flatten(1).sum(1) for g in gradients)
        return p @ norms[:-1] - norms[-1]

    def trace(count: int) -> float:
        of = in_one_call if together else one_by_one
        return float(torch.stack([of(case.model(x[None])[0]) for x in case.x[:count]]).double().mean())

    trace(5)
    start = effort.clock()
    trace(5)
    count = max(5, int(effort.limit / (effort.clock() - start) * 5))
    if count >= case.n:
        return lambda: case.outcome(trace(case.n))
    reference = hessian_trace(Risk(case.model, functional.cross_entropy, [(case.x[:count], case.y[:count])])).value

    def run() -> Outcome:
        start = effort.clock()
        value = trace(count)
        ms = 1e3 * (effort.clock() - start) / count * case.n
        return Outcome(None, abs(value - reference) / reference, ms, f"{count} examples")

    return run


def probing(case: Case, effort: Effort, trace: Callable[[int], float]) -> Run:
    """Hutchinson's estimate with PROBES probes, or with fewer and the time extrapolated."""
    trace(1)
    start = effort.clock()
    trace(2)
    each = (effort.clock() - start) / 2
    count = max(2, min(PROBES, int(effort.limit / each)))
    if count == PROBES:
        return lambda: case.outcome(trace(PROBES))

    def run() -> Outcome:
        start = effort.clock()
        found = case.outcome(trace(count))
        ms = 1e3 * (effort.clock() - start) * PROBES / count
        return Outcome(found.value, found.error, ms, f"{count} of {PROBES} probes")

    return run


def pyhessian(case: Case) -> Callable[[int], float]:
    """The loop of the textbook: the gradient with its graph once, then one product and one number a probe."""
    weights = case.risk.weights
    generator = torch.Generator().manual_seed(SEED)

    def trace(count: int) -> float:
        loss = functional.cross_entropy(case.model(case.x), case.y)
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        found = []
        for _ in range(count):
            v = [torch.randint(0, 2, p.shape, generator=generator).float() * 2 - 1 for p in weights]
            product = torch.autograd.grad(gradient, weights, v, retain_graph=True)
            found.append(sum(float((a * b).sum()) for a, b in zip(v, product, strict=True)))
        return statistics.fmean(found)

    return trace


def curvlinops_methods(case: Case, effort: Effort) -> Iterator[tuple[str, bool, Run]]:
    from curvlinops import EKFACLinearOperator, FisherType, HessianLinearOperator, hutchinson_trace

    arguments = (case.model, nn.CrossEntropyLoss(), case.risk.weights, [(case.x, case.y)])
    # It takes all probes at once; memory allows some thousand examples times probes of the CNN.
    at_once = max(1, min(PROBES, (100_000 if case.network == "fcnn_small" else 1000) // case.n))

    def probes(count: int) -> float:
        hessian = HessianLinearOperator(*arguments, check_deterministic=False)
        sizes = [min(at_once, count - first) for first in range(0, count, at_once)]
        return sum(size * float(hutchinson_trace(hessian, size)) for size in sizes) / count

    def ekfac() -> Outcome:
        # A rotation of per-example gradients keeps their norms, so this trace is that of the Gauss-Newton matrix,
        # at the cost of K passes and of eigenvectors that the trace would not need.
        operator = EKFACLinearOperator(*arguments, fisher_type=FisherType.TYPE2, check_deterministic=False)
        return case.outcome(float(operator.trace))

    torch.manual_seed(SEED)
    yield CURVLINOPS, False, probing(case, effort, probes)
    yield EKFAC, True, ekfac


def backpack_methods(case: Case) -> Iterator[tuple[str, bool, Run]]:
    from backpack import backpack, extend
    from backpack.extensions import DiagGGNExact

    model, loss_fn = extend(copy.deepcopy(case.model)), extend(nn.CrossEntropyLoss())

    def trace(size: int) -> float:
        total = 0.0
        for x, y in zip(case.x.split(size), case.y.split(size), strict=True):
            model.zero_grad()
            with backpack(DiagGGNExact()):
                loss_fn(model(x), y).backward()
            total += len(y) * sum(float(p.diag_ggn_exact.sum()) for p in model.parameters())
        return total / case.n

    yield BACKPACK, True, lambda: case.outcome(trace(case.n))
    # Its caller may cut a batch too; what fsbench does by itself.
    cut = 100 if case.network == "fcnn_small" else 10
    if cut < case.n:
        yield BACKPACK_CUT.format(cut), True, lambda: case.outcome(trace(cut))


def methods(case: Case, effort: Effort, absent: dict[str, str]) -> Iterator[tuple[str, bool, Run]]:
    yield from fsbench_methods(case, effort)
    yield BASELINE, True, baseline(case, effort)
    yield PER_EXAMPLE, True, per_example(case, effort, together=False)
    yield PER_EXAMPLE_BATCHED, True, per_example(case, effort, together=True)
    yield PYHESSIAN, False, probing(case, effort, pyhessian(case))
    peers = {
        "curvlinops": lambda: curvlinops_methods(case, effort),
        "BackPACK": lambda: backpack_methods(case),
    }
    for name, of in peers.items():
        if name in absent:
            continue
        try:
            yield from of()
        except ImportError as failure:
            absent[name] = f"{name} can't be imported ({failure}) and is left out"


def measure(case: Case, effort: Effort, absent: dict[str, str]) -> list[Row]:
    """All methods in turn, again and again; each as often as the budget allows, spread over all rounds."""
    runs: list[tuple[Row, Run, int]] = []
    for name, exact, run in methods(case, effort, absent):
        show(f"{case.network}, n = {case.n}: {name}")
        row = Row(case.network, case.n, name, exact)
        seconds = timed(run, row, effort)
        if seconds < effort.budget:
            row.times.clear()
            seconds = timed(run, row, effort)
            row.times.clear()
        least = LEAST if seconds < 5 and not row.part else 1
        runs.append((row, run, max(least, min(effort.runs, int(effort.budget / seconds))) - len(row.times)))
    show(f"{case.network}, n = {case.n}: in turn")
    for done in range(effort.runs):
        for row, run, count in runs:
            if (done + 1) * count // effort.runs > done * count // effort.runs:
                timed(run, row, effort)
    return [row for row, _, _ in runs]


def timed(run: Run, row: Row, effort: Effort) -> float:
    """Seconds of a run, noted in the row."""
    start = effort.clock()
    outcome = run()
    seconds = effort.clock() - start
    row.times.append(1e3 * seconds if outcome.ms is None else outcome.ms)
    row.value, row.error, row.part = outcome.value, outcome.error, outcome.part
    return seconds


def cases(data_dir: Path) -> Iterator[Case]:
    for network in NETWORKS:
        config = compose_jobs([f"model={network}", "dataset=mnist"], multirun=False)[0].config
        data = load_data(config.dataset, data_dir)
        torch.manual_seed(SEED)
        model = build_model(config.model, data.shape, data.classes).eval()
        drawn = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(SEED))
        for n in SIZES:
            split = data.train.take(drawn[:n])
            ((x, y),) = eval_batches(split, data, config.augment, torch.device("cpu"), workers=0)
            double = Risk(copy.deepcopy(model).double(), functional.cross_entropy, [(x.double(), y)])
            risk = Risk(model, functional.cross_entropy, [(x, y)])
            yield Case(network, n, model, x, y, risk, hessian_trace(double).value)


def report(rows: list[Row], notes: list[str], about: str) -> str:
    lines = [
        "# Trace of the Hessian: time and accuracy",
        "",
        "Written by `scripts/bench sharpness`. " + about,
        "",
        "Median milliseconds (least - most), and in brackets how many times the time of fsbench's exact trace. ~: "
        "extrapolated from a part, see below.",
    ]
    for network, title in NETWORKS.items():
        lines += ["", f"## {title}", "", *times_table(rows, network)]
        lines += ["", "Targets:", "", *targets(rows, network)]
        lines += [
            "",
            "How far the value is from fsbench's exact one in float64, relative; in brackets the number of runs:",
            "",
            *values_table(rows, network),
        ]
        if parts := [f"- {r.method}, n = {r.n}: {r.part}" for r in rows if r.network == network and r.part]:
            lines += ["", "Extrapolated:", "", *parts]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def grid(rows: list[Row], network: str, cell: Callable[[Row], str]) -> list[str]:
    """Methods down, n across."""
    found = {(r.method, r.n): r for r in rows if r.network == network}
    names = list(dict.fromkeys(r.method for r in rows if r.network == network))
    # A row may be missing from the smallest n.
    names.sort(key=lambda name: not name.startswith("fsbench"))
    table = [["method", *(f"n = {n}" for n in SIZES)]]
    table += [[name, *(cell(found[name, n]) if (name, n) in found else "" for n in SIZES)] for name in names]
    return aligned(table)


def times_table(rows: list[Row], network: str) -> list[str]:
    exact = {r.n: r.median for r in rows if r.network == network and r.method == EXACT}

    def cell(row: Row) -> str:
        spread = f" ({short(min(row.times))} - {short(max(row.times))})" if len(row.times) > 1 else ""
        return f"{'~' if row.part else ''}{short(row.median)}{spread} [{short(row.median / exact[row.n])}]"

    return grid(rows, network, cell)


def values_table(rows: list[Row], network: str) -> list[str]:
    def cell(row: Row) -> str:
        error = f"{row.error:.0e}" if row.exact else f"{100 * row.error:.1f} %"
        return f"{error} [{len(row.times)}]"

    return grid(rows, network, cell)


def targets(rows: list[Row], network: str) -> list[str]:
    found = {(r.method, r.n): r.median for r in rows if r.network == network}
    lines = []
    for _, method, only, factor in (target for target in TARGETS if target[0] == network):
        for n in SIZES if only is None else (only,):
            if (method, n) not in found:
                lines.append(f"- {method}, n = {n}: not measured")
                continue
            ratio = found[method, n] / found[EXACT, n]
            verdict = "met" if ratio >= factor else "missed"
            lines.append(f"- {verdict}: n = {n}, {short(ratio)} times as fast as {method} (target {factor:g})")
    return lines


def about(threads: int, cpu_time: bool, load: float) -> str:
    known = provenance()
    measured = "CPU time of one thread" if cpu_time else f"{threads} threads"
    parts = [f"{known['hardware']['cpu']}, {measured}, torch {known['versions']['torch']}, fp32"]
    parts += [f"{name} {found}" for name, found in versions().items() if found]
    text = ", ".join(parts) + ". Untrained networks (seed 0), training images of MNIST drawn at random (seed 0), "
    return text + f"all methods in turn in one process; load average before: {load:.2f}."


def versions() -> dict[str, str | None]:
    return {name: version(name) for name in PEERS}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench sharpness", description=__doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, default=Path(os.environ.get("FSBENCH_DATA", "data")), help="where MNIST lies")
    add("--quick", action="store_true", help="under a minute: fewer runs, more extrapolated")
    add_options(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    torch.set_num_threads(1 if given.cpu_time else given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    # Of BackPACK's hooks, and of the packages that curvlinops imports.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    warnings.filterwarnings("ignore", category=FutureWarning)
    effort = Effort(0.2, 0.7, 15, clock) if given.quick else Effort(1.5, 15.0, 25, clock)
    load, origin, started = os.getloadavg()[0], provenance(), time.perf_counter()
    rows: list[Row] = []
    absent: dict[str, str] = {}
    for case in cases(given.data_dir):
        rows += measure(case, effort, absent)
    show("")
    notes = list(absent.values())
    notes += contended(load, given.cpu_time)
    notes.append(f"{'A quick run: ' if given.quick else ''}{time.perf_counter() - started:.0f} s in all.")
    wrong = [r for r in rows if r.exact and not r.error < 1e-3]
    notes += [f"WRONG: {r.method}, {r.network}, n = {r.n}: off by {r.error:.1e}" for r in wrong]
    text = report(rows, notes, about(given.threads, given.cpu_time, load))
    found: dict[str, Any] = {
        "provenance": {
            **origin, "peers": versions(), "threads": torch.get_num_threads(), "cpu_time": given.cpu_time,
            "load_average": load, "quick": given.quick,
        },
        "rows": [{**asdict(r), "median": r.median} for r in rows],
    }  # fmt: skip
    publish(text, found, given)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(ended(main))
