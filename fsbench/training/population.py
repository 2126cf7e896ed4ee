"""The training of a population: many runs of small networks in step, each as it would be alone."""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from fsbench.config.compose import Job
from fsbench.data import StackedBatches
from fsbench.errors import Diverged, FsbenchError, Interrupted, UsageError
from fsbench.runs.directory import RunDirectory, RunIsBusy
from fsbench.training.attempt import Outcome, busy, described, failed_line, missing_images, skipped
from fsbench.training.build import build_device
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.fit import end_epoch, too_many_skipped
from fsbench.training.graphed_step import GraphedStep
from fsbench.training.member import Member, SharedData
from fsbench.training.peak_memory import reset_peak_memory
from fsbench.training.precision import arithmetic
from fsbench.training.progress import Progress
from fsbench.training.recorder import CudaRecorder, records_steps
from fsbench.training.stacked_step import StackedStep
from fsbench.training.stop_signal import StopSignal


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
            directory = RunDirectory.of(job.config.model_dump(mode="json"), job.choices)
            try:
                if absent is not None:
                    raise absent
                member = Member(job, shared)
                if not member.open():
                    numbers[member] = number
                    continue
                member.close()
                outcome = skipped(job, directory, directory.read_results())
            except (Interrupted, KeyboardInterrupt):
                raise
            except (Exception, SystemExit) as failure:
                absent = missing_images(failure)
                outcome = _failed(directory, failure)
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


def _failed(directory: RunDirectory, failure: BaseException) -> Outcome:
    if isinstance(failure, RunIsBusy):
        return busy(directory, failure)
    explained = isinstance(failure, FsbenchError)
    line = f"{directory.path}: failed, {failure}" if explained else failed_line(directory, failure)
    return Outcome("failed", line, failure)


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
        self._end(member, _failed(member.directory, failure))

    def _assemble(self) -> None:
        """The batches and the step of those who are members now."""
        config, members = self.job.config, self.members
        augment = config.augment
        drawn = bool(augment.flip or augment.crop or augment.autoaugment or augment.cutout)
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
    shown = {key for key, value in rows[0].items() if isinstance(value, float)}
    numbers = {key: [row[key] for row in rows if isinstance(row.get(key), float)] for key in sorted(shown)}
    return {"epoch": rows[0]["epoch"], **{key: fmean(values) for key, values in numbers.items()}}
