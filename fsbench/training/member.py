"""One run of a population: its data, its state, its directory."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsbench.config.compose import Job
from fsbench.data import Data, MemorySplit, load_data
from fsbench.errors import UsageError
from fsbench.runs.atomic import write_json_lines
from fsbench.runs.directory import RunDirectory
from fsbench.training.checkpoint import save_checkpoint
from fsbench.training.devices import Devices
from fsbench.training.evaluate import evaluate
from fsbench.training.progress import epoch_line
from fsbench.training.run import (
    build_batches,
    build_state,
    finish,
    record_provenance,
    reported,
    results_of,
    resume,
    split_batches,
)


class SharedData:
    """The data of all members; what is the same is there once, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._loaded: dict[str, Data] = {}
        self._placed: dict[int, tuple[Tensor, Tensor]] = {}

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

    def _place(self, split: MemorySplit) -> MemorySplit:
        if not isinstance(split, MemorySplit):
            raise UsageError("dataset.in_memory", "null", "a population needs its images in memory")
        # The source is kept with its copy, so that its address stays its own.
        _, placed = self._placed.setdefault(split.images.data_ptr(), (split.images, split.images.to(self.device)))
        if placed.shape != split.images.shape:
            placed = split.images.to(self.device)
        return MemorySplit(placed, split.labels.to(self.device))


class Member:
    """What `train` holds for one run, in the hands of a population.

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
        self.state.optimizer._opt_called = True
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
        results = results_of(state, on_train, state.model, self.devices.device)
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
