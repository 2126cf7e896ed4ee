"""Averages of a network's weights over its training: EMA and SWA, by torch.optim.swa_utils."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

from fsbench.config.train import TrainerOptions
from fsbench.data import TrainBatches
from fsbench.distributed.devices import Devices
from fsbench.distributed.sync_batchnorm import SyncedBatchNorm
from fsbench.training.memory_format import memory_format_of
from fsbench.training.precision import Precision

_START = {"none": 0.0, "ema": 0.0, "swa": 0.75}


class Average:
    """The average of the weights that is evaluated and stored in place of the last ones (`trainer.average`).

    - ema: after every step, decay average + (1 - decay) w; BatchNorm's running statistics alike.
    - swa: the mean of the weights at the ends of epochs (Izmailov et al. 2018); before it is evaluated, BatchNorm's
      statistics are those of one pass over the training batches in train mode.

    Both begin where the share `average_start` of the training is over, with the weights there. Training goes on from
    the last weights, and draws what it would draw without an average.

    Attributes:
        averaged: torch's, None where nothing is averaged.
    """

    def __init__(self, options: TrainerOptions, model: nn.Module) -> None:
        self.kind, self.options = options.average, options
        self.start = _START[self.kind] if options.average_start is None else options.average_start
        self.averaged: AveragedModel | None = None
        if self.kind == "ema":
            decay = 0.999 if options.average_decay is None else options.average_decay
            update = partial(_ema, get_ema_multi_avg_fn(decay))
            self.averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
        elif self.kind == "swa":
            self.averaged = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())

    def network(self, model: nn.Module) -> nn.Module:
        """The average of `model`, or that network itself while nothing is averaged."""
        return model if self.averaged is None or not self.averaged.n_averaged else self.averaged.module

    def after_step(self, model: nn.Module, progress: float) -> None:
        if self.averaged is not None and self.kind == "ema" and progress >= self.start:
            self.averaged.update_parameters(model)

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        if self.averaged is not None and self.kind == "swa" and progress >= self.start:
            self.averaged.update_parameters(model)

    def find_statistics(
        self, batches: TrainBatches, epoch: int, precision: Precision, devices: Devices, limit: int | None = None
    ) -> None:
        """BatchNorm's statistics for swa, of an epoch's batches (of so many); each device has its own rows of them."""
        if self.averaged is None or self.kind != "swa" or not self.averaged.n_averaged:
            return
        network, several = self.averaged.module, devices.count > 1
        memory_format = memory_format_of(network)
        synced = several and self.options.sync_batchnorm
        passed = islice(batches.epoch(epoch), limit)
        images = (x.contiguous(memory_format=memory_format) for x, y in passed if len(y) or synced)
        gpus = [devices.device] if devices.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), precision.autocast(), SyncedBatchNorm() if synced else nullcontext():
            update_bn(images, network)
        if not synced:
            devices.merge_statistics(network, self.options.batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.averaged is None else self.averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.averaged is not None:
            self.averaged.load_state_dict(state)


def _ema(update: Any, averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
    """torch's moving average; counters and indices among the buffers, which it would round, are the last ones."""
    if averaged[0].is_floating_point() or averaged[0].is_complex():
        update(averaged, current, count)
    else:
        torch._foreach_copy_(averaged, current)
