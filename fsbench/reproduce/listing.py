"""Lines that say what runs there are, what they cost and what is done; nothing is started for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from fsbench.lines import aligned
from fsbench.measuring.cost import Estimator, duration
from fsbench.papers.artefact import Artefact, Computed
from fsbench.reproduce.cells import PlannedRun, cells
from fsbench.reproduce.plan import Plan, deciding, runs_by_directory, scale_of
from fsbench.reproduce.run import is_measured


def plan_lines(plans: Sequence[Plan], estimator: Estimator) -> Iterator[str]:
    """Every run of the plans, what is cut, and the hours that are left."""
    seen: set[tuple[Path, str | None]] = set()
    left: list[float] = []
    steps_left = to_train = to_measure = 0
    assumed = False
    for plan in plans:
        yield f"{plan.artefact.name}, scale={plan.scale}: {plan.artefact.title}"
        yield from (f"  {sentence}" for sentence in plan.cuts)
        # Those first that decide on values of others.
        candidates = [
            (f" {one.choice.key}={value} (candidate)", run) for one in plan.choosing for value, run in one.runs
        ]
        rows = [("cell", "seed", "steps", "training", "measuring", "state", "run")]
        for kind, run in [*candidates, *(("", run) for run in plan.runs)]:
            cost = estimator.training(run.job.config)
            asked = None if kind else plan.sharpness
            measuring = estimator.measuring(run.job.config, asked.config) if asked else 0.0
            assumed |= not cost.measured and not math.isnan(cost.seconds)
            state = _state(plan, run, bool(kind))
            rows.append(
                (
                    " ".join(f"{axis}={value}" for axis, value in run.cell.values.items()) + kind,
                    str(run.seed),
                    "?" if cost.steps is None else f"{cost.steps:,}",
                    duration(cost.seconds),
                    duration(measuring) if measuring else "-",
                    state,
                    "-" if run.waits else str(run.directory.path),
                )
            )
            # Runs that wait for a value are the same runs in all artefacts that have them.
            key = (run.directory.path, run.waits)
            if key not in seen and not run.finished and not (kind and run.diverged):
                left.append(cost.seconds)
                to_train, steps_left = to_train + 1, steps_left + (cost.steps or 0)
            if state != "done" and measuring:
                left.append(measuring)
                to_measure += 1
            seen.add(key)
        yield from (f"  {line}" for line in aligned(rows, right=range(1, 5)))
    if seen:
        known = [seconds for seconds in left if not math.isnan(seconds)]
        hours = duration(math.fsum(known) if known or not left else math.nan)
        unknown = ", without those of data sets of unknown size" if len(known) < len(left) else ""
        yield (
            f"{len(seen)} runs, {to_train} to train ({steps_left:,} steps), {to_measure} to measure: "
            f"about {hours}{unknown}"
        )
        if assumed:
            yield f"speed assumed: {estimator.basis}"


def list_lines(known: Sequence[Artefact | Computed], scales: Sequence[str], results_dir: Path) -> Iterator[str]:
    """A line for each artefact: what it is, its runs at each scale, and where it was written, if it was.

    Runs are counted from the declaration, with those that decide on values of others. What they cost and which of them
    are done takes a plan.
    """
    rows = []
    for artefact in known:
        made = results_dir / artefact.name
        where = f" ({made})" if made.is_dir() else ""
        if isinstance(artefact, Computed):
            what = "computed, no training"
        else:
            runs = (f"{scale} {count}" for scale in scales if (count := _count(artefact, scale)))
            what = f"{', '.join(runs)} runs"
        rows.append((artefact.name, f"{artefact.title}: {what}{where}"))
    return aligned(rows)


def _count(artefact: Artefact, name: str) -> int:
    """Runs at a scale; 0 where there is no such scale."""
    if name != "paper" and name not in artefact.scales:
        return 0
    scale, choice = scale_of(artefact, name), artefact.choice
    planned = cells(artefact, scale)
    count = len(planned) * (scale.seeds or artefact.seeds)
    if choice is not None:
        count += sum(cell.has(dict(choice.where)) for cell in planned) * len(scale.candidates or choice.values)
    return count


def runs_left(plans: Sequence[Plan]) -> str:
    """`12 runs, 4 finished`, of what was asked for."""
    runs = [*deciding(plans).values(), *(shared[0][1] for shared in runs_by_directory(plans).values())]
    waiting = sum(run.waits is not None for plan in plans for run in plan.runs)
    return f"{len(runs) + waiting} runs, {sum(run.finished for run in runs)} finished"


def _state(plan: Plan, run: PlannedRun, decides: bool) -> str:
    if run.waits:
        return f"waits: {run.waits}"
    if run.finished:
        return "done" if decides or is_measured(plan, run) else "to measure"
    return run.directory.status if run.directory.path.is_dir() else "to train"
