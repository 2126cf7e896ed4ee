"""The training loop: one for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fsbench.config.train import TrainerOptions
from fsbench.data import EvalBatches, TrainBatches
from fsbench.distributed.devices import Devices
from fsbench.errors import Diverged, Interrupted
from fsbench.optim import Descent
from fsbench.stop_signal import StopSignal
from fsbench.training.average import Average
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.cuda_graphs import CudaRecorder, GraphedStep
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.evaluate import evaluate
from fsbench.training.precision import Precision
from fsbench.training.schedule import Schedule
from fsbench.training.step import PlainStep

FAST_DEV_STEPS = 2


@dataclass
class TrainingState:
    """Everything that changes while training, and the loss; `state_dict` and `load_state_dict` make it resumable at any
    step. `plain_loss`, without label smoothing, is the one that evaluations are of."""

    model: nn.Module
    optimizer: Descent
    schedule: Schedule
    precision: Precision
    loss: nn.Module
    plain_loss: nn.Module
    average: Average
    epoch: int = 0
    step: int = 0
    totals: EpochTotals = field(default_factory=EpochTotals)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def network(self) -> nn.Module:
        """The one that is evaluated and stored: `model`, or the average of its weights."""
        return self.average.network(self.model)

    def state_dict(self) -> dict[str, Any]:
        average = self.average.state_dict()
        return {
            **({"average": average} if average else {}),
            **{part: getattr(self, part).state_dict() for part in ("model", "optimizer", "schedule", "precision")},
            "skipped": [self.optimizer.skipped, self.optimizer.skipped_in_a_row],
            "position": [self.epoch, self.step],
            "totals": self.totals.state_dict(),
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in ("model", "optimizer", "schedule", "precision"):
            getattr(self, part).load_state_dict(state[part])
        self.average.load_state_dict(state.get("average", {}))
        self.optimizer.skipped, self.optimizer.skipped_in_a_row = state["skipped"]
        self.epoch, self.step = state["position"]
        self.totals = EpochTotals(**state["totals"])
        self.rows = state["rows"]


def fit(
    state: TrainingState,
    batches: TrainBatches,
    evaluations: Mapping[str, EvalBatches],
    options: TrainerOptions,
    *,
    forward: nn.Module,
    save: Callable[[], None],
    on_step: Callable[[], None],
    on_epoch: Callable[[dict[str, Any]], None],
    stop: StopSignal,
    devices: Devices | None = None,
    recorded: bool = False,
) -> None:
    """Train from where `state` stands to the last epoch.

    Args:
        evaluations: splits to evaluate, by the prefix of their metrics ("test", "validation").
        forward: the network as the steps run it: itself, or compiled.
        save: writes a checkpoint; called every `checkpoint_every` epochs, at the end and when interrupted.
        stop: agreed on by all devices, which look at it equally often.
        devices: those that share each mini-batch; None: one alone.
        recorded: whether steps are recorded as CUDA graphs.

    Raises:
        Diverged: `max_skipped` steps in a row had a non-finite gradient, or a split's loss is not finite.
        Interrupted: a signal asked to stop; a checkpoint was saved.
    """
    model, optimizer, schedule = state.model, state.optimizer, state.schedule
    pieces, synced = options.micro_batch_size, options.sync_batchnorm
    closure = BatchClosure(forward, state.loss, state.precision, pieces, devices, synced)
    plain = PlainStep(closure, optimizer)
    step = GraphedStep(plain, CudaRecorder(closure.parameters[0].device)) if recorded else plain
    max_steps = FAST_DEV_STEPS if options.fast_dev_run else options.max_steps or math.inf
    total_steps = min(options.epochs * len(batches), max_steps)
    eval_limit = FAST_DEV_STEPS if options.fast_dev_run else None

    while state.epoch * len(batches) + state.step < total_steps:
        model.train()
        if state.totals.lr is None:
            state.totals.lr = float(optimizer.param_groups[0]["lr"])
        # The clock takes in the making of batches, but not evaluation and saving.
        clock = time.perf_counter()
        for x, y in batches.epoch(state.epoch, start=state.step):
            if options.compare_every > 0 and hasattr(optimizer, "compare"):
                optimizer.compare = state.step % options.compare_every == 0
            step(x, y, batches.size(state.step), state.totals)
            schedule.after_step()
            state.average.after_step(model, schedule.progress)
            now = time.perf_counter()
            state.totals.seconds += now - clock
            clock = now
            state.step += 1
            on_step()
            if step.skipped_in_a_row >= options.max_skipped:
                raise too_many_skipped(state, step.skipped_in_a_row)
            if state.epoch * len(batches) + state.step >= total_steps:
                break
            # After an epoch's last step the stop waits for the evaluation, which ends that epoch.
            if state.step < len(batches) and stop.requested_between_steps():
                step.settle(state.totals)
                save()
                raise Interrupted(f"interrupted in epoch {state.epoch + 1}; the same command goes on from there")

        step.settle(state.totals)
        state.totals.seconds += time.perf_counter() - clock
        ends = state.epoch * len(batches) + state.step >= total_steps
        row = end_epoch(state, evaluations, options, ends, eval_limit, devices, batches)
        stopping = stop.requested
        if ends or state.epoch % options.checkpoint_every == 0 or stopping:
            save()
        on_epoch(row)
        if ends:
            return
        if stopping:
            raise Interrupted(f"interrupted after epoch {state.epoch}; the same command goes on from there")


def too_many_skipped(state: TrainingState, count: int) -> Diverged:
    return Diverged(
        f"diverged: {count} steps in a row had a non-finite gradient "
        f"(epoch {state.epoch + 1}, step {state.step}); lower optimizer.lr, or raise trainer.max_skipped"
    )


def end_epoch(
    state: TrainingState,
    evaluations: Mapping[str, EvalBatches],
    options: TrainerOptions,
    ends: bool,
    limit: int | None = None,
    devices: Devices | None = None,
    batches: TrainBatches | None = None,
) -> dict[str, Any]:
    """Evaluate where it is due, and go to the next epoch; returns the row of this one.

    Raises:
        Diverged: a split's loss is not finite.
    """
    row = {"epoch": state.epoch + 1, **state.totals.row()}
    state.average.after_epoch(state.model, state.schedule.progress)
    if ends or (state.epoch + 1) % options.eval_every == 0:
        if batches is not None:
            of = devices or Devices(batches.device)
            state.average.find_statistics(batches, state.epoch, state.precision, of, limit)
        for prefix, split in evaluations.items():
            found = evaluate(state.network, split, state.precision, state.plain_loss, limit, devices)
            row |= {f"{prefix}_{name}": value for name, value in found}
            if not math.isfinite(row[f"{prefix}_loss"]):
                raise Diverged(f"diverged: the {prefix} loss is not finite after epoch {state.epoch + 1}")
    if state.totals.seen:
        state.schedule.after_epoch(row["train_loss"])
    row |= {"seconds": state.totals.seconds, "steps": state.totals.steps}
    state.rows.append(row)
    state.epoch, state.step, state.totals = state.epoch + 1, 0, EpochTotals()
    return row
