"""The training of a population: many runs of small networks in step, each as it would be alone."""

from __future__ import annotations

import logging
import math
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from fsbench.config.compose import Job
from fsbench.data import Data, MemorySplit, load_data
from fsbench.data.splits import Split
from fsbench.distributed.devices import Devices, build_device
from fsbench.errors import Diverged, Interrupted, UsageError
from fsbench.population.step import StackedBatches, StackedStep
from fsbench.runs.atomic import write_json_lines
from fsbench.runs.directory import RunDirectory
from fsbench.stop_signal import StopSignal
from fsbench.training.checkpoint import save_checkpoint
from fsbench.training.cuda_graphs import CudaRecorder, GraphedStep, records_steps
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.evaluate import evaluate
from fsbench.training.fit import end_epoch, too_many_skipped
from fsbench.training.outcome import Outcome, already_done, described, directory_of, failed_outcome, missing_images
from fsbench.training.precision import arithmetic
from fsbench.training.progress import Progress, epoch_line
from fsbench.training.run import (
    build_batches,
    build_state,
    final_results,
    finish,
    record_provenance,
    reported,
    reset_peak_memory,
    resume,
    split_batches,
)


class SharedData:
    """The data of all members; what is the same is there once, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._loaded: dict[str, Data] = {}
        self._placed: dict[tuple[int, torch.Size], tuple[Tensor, Tensor]] = {}

    def load(self, job: Job) -> Data:
        options = job.config.dataset
        key = options.model_dump_json()
        if key not in self._loaded:
            data = load_data(options, Path(job.config.data_dir))
            validation = None if data.validation is None else self._place(data.validation)
            self._loaded[key] = replace(
                data, train=self._place(data.train), validation=validation, test=self._place(data.test)
            )
        return self._loaded[key]

    def _place(self, split: Split) -> MemorySplit:
        if not isinstance(split, MemorySplit):
            raise UsageError("dataset.in_memory", "null", "a population needs its images in memory")
        # The images are kept with their copy, so that their address stays their own.
        there = split.images.data_ptr(), split.images.shape
        _, placed = self._placed.setdefault(there, (split.images, split.images.to(self.device)))
        return MemorySplit(placed, split.labels.to(self.device))


class Member:
    """One run of a population: its data, its state, its directory, as `train` holds them for a run alone.

    Raises:
        UsageError: the data, the network or the directory can't be used as configured; nothing was written.
    """

    def __init__(self, job: Job, shared: SharedData) -> None:
        self.job = job
        self.config: dict[str, Any] = job.config.model_dump(mode="json")
        self.directory = RunDirectory.of(self.config, job.choices)
        self.directory.refuse_other_config(self.config, overwrite=job.config.overwrite)
        self.devices = Devices(shared.device)
        self.data = shared.load(job)
        self.batches, self.evaluations = build_batches(job.config, self.data, self.devices)
        self.on_train = split_batches(self.data.train, job.config, self.data, self.devices)
        self.state = build_state(job.config, self.data, len(self.batches), self.devices)
        # The population moves the weights, and says so to nobody.
        self.state.optimizer._opt_called = True  # type: ignore[attr-defined]  # torch's own mark
        self._log = logging.getLogger(f"fsbench.member.{self.directory.path.name}")
        self._held = ExitStack()

    @property
    def position(self) -> tuple[int, int]:
        return self.state.epoch, self.state.step

    def open(self) -> bool:
        """Hold the directory, and go on from its checkpoint; returns whether the run is finished after all.

        Raises:
            RunIsBusy: another process holds it.
            UsageError: it can't be written, or its checkpoint is not one of this run.
        """
        with ExitStack() as stack:
            finished = stack.enter_context(self.directory.open(self.config, overwrite=self.job.config.overwrite))
            if not finished:
                stack.enter_context(reported(self.directory, self.devices, self._log))
                resume(self.state, self.directory, self.data.provenance, self.job.config.seed, self.devices)
            self._held = stack.pop_all()
        return finished

    def begin(self, count: int) -> None:
        """Record where the run comes from: a population of `count`."""
        record_provenance(self.directory, self.job, self.devices, self.data.provenance, population=count)
        if self.state.rows or self.state.step:
            self._log.info("resumed at epoch %d, step %d", self.state.epoch + 1, self.state.step)

    def save(self) -> None:
        whole = _owned({**self.state.state_dict(), "data": self.data.provenance["sha256"], "random_of_others": []})
        save_checkpoint(self.directory.checkpoint, whole)

    def epoch_ended(self, row: dict[str, Any]) -> None:
        write_json_lines(self.directory.metrics, self.state.rows)
        self._log.info(epoch_line(row, self.job.config.trainer.epochs))

    def finish(self) -> dict[str, Any]:
        """Write what a finished run leaves; returns its results."""
        state = self.state
        on_train = dict(evaluate(state.model, self.on_train, state.precision, state.plain_loss))
        results = final_results(state, on_train, state.model, self.devices.device)
        finish(self.directory, self.job, self.config, state, results)
        self._held.close()
        return results

    def close(self, failure: BaseException | None = None) -> None:
        """Let go of the directory; with a failure, leave it there as a run alone would."""
        if failure is None:
            self._held.close()
            return
        with suppress(type(failure)), self._held:
            raise failure


def _owned(value: Any) -> Any:
    """Tensors as memory of their own: a slice would be saved with the whole stack."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return type(value)((key, _owned(item)) for key, item in value.items())
    if isinstance(value, list):
        return [_owned(item) for item in value]
    return value


def train_population(jobs: Sequence[Job], stop: StopSignal) -> Iterator[tuple[int, Outcome]]:
    """Train runs that `populations` found to go together; yields how each one ended, by its number.

    Those that go on from different checkpoints are trained one group after the other. A member that fails or diverges
    ends alone. Raises Interrupted, having left a checkpoint of each member.
    """
    shared = SharedData(build_device(jobs[0].config.trainer.device))
    numbers: dict[Member, int] = {}
    ended: list[tuple[int, Outcome]] = []
    absent: UsageError | None = None
    try:
        for number, job in enumerate(jobs):
            stop.check()
            directory = directory_of(job)
            try:
                if absent is not None:
                    raise absent
                member = Member(job, shared)
                if not member.open():
                    numbers[member] = number
                    continue
                member.close()
                outcome = Outcome("skipped", already_done(job, directory, directory.read_results()))
            except (Interrupted, KeyboardInterrupt):
                raise
            except (Exception, SystemExit) as failure:
                absent = missing_images(failure)
                outcome = failed_outcome(directory, failure)
            ended.append((number, outcome))
    except BaseException as failure:
        for member in numbers:
            member.close(failure)
        raise
    groups: dict[tuple[int, int], list[Member]] = {}
    for member in numbers:
        groups.setdefault(member.position, []).append(member)
    cut: BaseException | None = None
    for group in groups.values():
        if cut is not None:
            for member in group:
                member.close(cut)
            continue
        population = _Population(group, stop)
        with arithmetic("fp32", shared.device):
            cut = population.run()
        ended += [(numbers[member], outcome) for member, outcome in population.ended]
    yield from sorted(ended, key=lambda one: one[0])
    if cut is not None:
        raise cut


class _Population:
    """Members at the same step, and how those ended that did."""

    def __init__(self, members: Sequence[Member], stop: StopSignal) -> None:
        self.members = list(members)
        self.ended: list[tuple[Member, Outcome]] = []
        self.seconds = 0.0
        self.stop = stop
        self.job = members[0].job
        self.options = self.job.config.trainer
        self.epoch, self.step = members[0].position
        self.length = len(members[0].batches)
        self.total = min(self.options.epochs * self.length, self.options.max_steps or math.inf)

    def run(self) -> BaseException | None:
        """Train all to their ends; returns what cut it short, if a signal did."""
        try:
            for member in self.members:
                member.begin(len(self.members))
            progress = self._progress()
            reset_peak_memory(self.members[0].devices.device)
            try:
                while self.members and self._done < self.total:
                    self._assemble()
                    together = list(self.members)
                    while self.members == together and self._done < self.total:
                        self._train_epoch(progress)
            finally:
                progress.close()
            for member in list(self.members):
                self._end(member, Outcome("done", f"{member.directory.path}: done, {described(member.finish())}"))
        except (Interrupted, KeyboardInterrupt) as failure:
            for member in self.members:
                member.close(failure)
            return failure
        # As alone, a failure is an outcome and ends no other run.
        except (Exception, SystemExit) as failure:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                traceback.print_exc()
            for member in list(self.members):
                self._fail(member, failure)
        return None

    @property
    def _done(self) -> int:
        return self.epoch * self.length + self.step

    def _progress(self) -> Progress:
        choices = self.job.choices
        return Progress(
            f"{choices['dataset']} {choices['model']} {choices['optimizer']}, {len(self.members)} runs",
            self.options.epochs, self.options.epochs * self.length, self._done, self.options.progress,
        )  # fmt: skip

    def _end(self, member: Member, outcome: Outcome) -> None:
        self.members.remove(member)
        self.ended.append((member, outcome))

    def _fail(self, member: Member, failure: BaseException) -> None:
        member.close(failure)
        self._end(member, failed_outcome(member.directory, failure))

    def _assemble(self) -> None:
        """The batches and the step of those who are members now."""
        config, members = self.job.config, self.members
        augment = config.augment
        drawn = bool(augment.flip or augment.crop or augment.autoaugment or augment.cutout or augment.builder)
        self.batches = StackedBatches([member.batches for member in members], drawn)
        device, first = members[0].devices.device, members[0].state
        self.plain = StackedStep([member.state.optimizer for member in members], first.model, first.loss)
        recorded = records_steps(config, device)
        self.make_step = GraphedStep(self.plain, CudaRecorder(device)) if recorded else self.plain

    def _train_epoch(self, progress: Progress) -> None:
        """To the end of the epoch, or to the step at which a member diverged: the others go on from there."""
        members, options = list(self.members), self.options
        totals = [member.state.totals for member in members]
        compares = self.plain.optimizer.perturbs and options.compare_every > 0
        for member in members:
            if member.state.totals.lr is None:
                member.state.totals.lr = float(member.state.optimizer.param_groups[0]["lr"])
        clock = time.perf_counter()
        for x, y in self.batches.epoch(self.epoch, start=self.step):
            if compares:
                self.plain.optimizer.compare = self.step % options.compare_every == 0
            self.make_step(x, y, y.shape[1], totals)
            for member in members:
                member.state.schedule.after_step()
            now = time.perf_counter()
            self.seconds += now - clock
            clock = now
            self.step += 1
            progress.step()
            skipped = dict(zip(members, self.plain.counts.longest, strict=True))
            lost = [member for member in members if skipped[member] >= options.max_skipped]
            if lost:
                self._give(totals, clock)
            for member in lost:
                self._fail(member, too_many_skipped(member.state, skipped[member]))
            if self._done >= self.total:
                break
            # After an epoch's last step the stop waits for the evaluation, which ends that epoch.
            if self.step < self.length:
                if lost:
                    return
                if self.stop.requested:
                    self._give(totals, clock)
                    self._save()
                    raise Interrupted(f"interrupted in epoch {self.epoch + 1}; the same command goes on from there")
        self._give(totals, clock)
        self._end_epoch(progress)

    def _give(self, totals: Sequence[EpochTotals], clock: float) -> None:
        """Hand over what was counted, and the states; a member's seconds are its share of the population's."""
        self.make_step.settle(totals)
        self.plain.optimizer.give()
        self.seconds += time.perf_counter() - clock
        for member in self.members:
            member.state.totals.seconds += self.seconds / len(self.members)
            member.state.step = self.step
        self.seconds = 0.0

    def _save(self) -> None:
        for member in self.members:
            member.save()

    def _end_epoch(self, progress: Progress) -> None:
        ends = self._done >= self.total
        rows = []
        for member in list(self.members):
            try:
                rows.append(end_epoch(member.state, member.evaluations, self.options, ends))
            except Diverged as failure:
                self._fail(member, failure)
        self.epoch, self.step = self.epoch + 1, 0
        stopping = self.stop.requested
        if ends or self.epoch % self.options.checkpoint_every == 0 or stopping:
            self._save()
        for member, row in zip(self.members, rows, strict=True):
            member.epoch_ended(row)
        if rows:
            progress.epoch(_mean(rows))
        if stopping and not ends:
            raise Interrupted(f"interrupted after epoch {self.epoch}; the same command goes on from there")


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the members of what is said of an epoch."""
    keys = sorted(key for key, value in rows[0].items() if isinstance(value, float))
    numbers = {key: [row[key] for row in rows if isinstance(row.get(key), float)] for key in keys}
    return {"epoch": rows[0]["epoch"], **{key: fmean(values) for key, values in numbers.items()}}
