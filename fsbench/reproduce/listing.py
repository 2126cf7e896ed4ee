"""Lines that say what runs there are, what they cost and what is done; nothing is started for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fsbench.errors import UsageError
from fsbench.papers.artefact import Artefact, Computed
from fsbench.reproduce.compositions import Compositions
from fsbench.reproduce.cost import Estimator, duration, total
from fsbench.reproduce.plan import Plan, PlannedRun, distinct, make_plan, states
from fsbench.reproduce.request import Request
from fsbench.reproduce.tasks import is_measured, trained


def plan_lines(plans: Sequence[Plan], estimator: Estimator) -> Iterator[str]:
    """Every run of the plans, what is cut, and the hours that are left."""
    seen: set[str] = set()
    left: list[float] = []
    runs = steps_left = to_train = to_measure = 0
    assumed = False
    for plan in plans:
        yield f"{plan.artefact.name}, scale={plan.scale}: {plan.artefact.title}"
        yield from (f"  {sentence}" for sentence in plan.cuts)
        rows = [("cell", "seed", "steps", "training", "measuring", "state", "run")]
        for run in plan.runs:
            name = str(run.directory.path)
            cost = estimator.training(run.job.config)
            measuring = _measuring(plan, run, estimator)
            assumed |= not cost.measured and not math.isnan(cost.seconds)
            state = _state(plan, run)
            rows.append(
                (
                    " ".join(f"{axis}={value}" for axis, value in run.cell.values.items()), str(run.seed),
                    f"{cost.steps:,}", duration(cost.seconds), duration(measuring) if measuring else "-", state, name,
                )
            )  # fmt: skip
            runs += name not in seen
            if name not in seen and not trained(run):
                left.append(cost.seconds)
                to_train, steps_left = to_train + 1, steps_left + cost.steps
            if state != "done" and measuring:
                left.append(measuring)
                to_measure += 1
            seen.add(name)
        yield from _aligned(rows)
    if runs:
        hours = duration(total(left)) if left else "0 s"
        unknown = ", without those whose images are not there" if any(map(math.isnan, left)) else ""
        yield (
            f"{runs} runs, {to_train} to train ({steps_left:,} steps), {to_measure} to measure: about {hours}{unknown}"
        )
        if assumed:
            yield f"speed {estimator.basis()}"


def list_lines(
    known: Sequence[Artefact | Computed],
    scales: Sequence[str],
    request: Request,
    compositions: Compositions,
    estimator: Estimator,
) -> Iterator[str]:
    """A line for each artefact: what it is, then runs, cost and what is done at each scale."""
    width = max((len(artefact.name) for artefact in known), default=0)
    for artefact in known:
        if isinstance(artefact, Computed):
            yield f"{artefact.name:{width}}  {artefact.title}: computed, no training"
            continue
        parts = []
        for scale in scales:
            asked = Request((artefact,), request.config.model_copy(update={"scale": scale}), {}, (), ())
            try:
                plan = make_plan(artefact, asked, compositions)
            except UsageError as failure:
                parts.append(f"{scale}: {failure.problem}")
                continue
            hours = total([_whole(plan, run, estimator) for run in plan.runs])
            done = states(plan).get("done", 0)
            parts.append(f"{scale} {len(plan.runs)} runs, {duration(hours)}, {done} done")
        yield f"{artefact.name:{width}}  {artefact.title}: {'; '.join(parts)}"


def summary(plans: Sequence[Plan]) -> str:
    """`12 runs, 4 finished`, of what was asked for."""
    runs = [shared[0][1] for shared in distinct(plans).values()]
    return f"{len(runs)} runs, {sum(map(trained, runs))} finished"


def _whole(plan: Plan, run: PlannedRun, estimator: Estimator) -> float:
    return estimator.training(run.job.config).seconds + _measuring(plan, run, estimator)


def _measuring(plan: Plan, run: PlannedRun, estimator: Estimator) -> float:
    return 0.0 if plan.sharpness is None else estimator.measuring(run.job.config, plan.sharpness.config)


def _state(plan: Plan, run: PlannedRun) -> str:
    if trained(run):
        return "done" if is_measured(plan, run) else "to measure"
    return run.directory.status if run.directory.path.is_dir() else "to train"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            text.rjust(width) if i in (1, 2, 3, 4) else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield ("  " + "  ".join(cells)).rstrip()
