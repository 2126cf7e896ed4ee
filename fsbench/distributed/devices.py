"""The devices that train one run together: a process each, joined by torch.distributed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fsbench.data import Share
from fsbench.data.seeding import derived_seed
from fsbench.distributed.failures import retold, told
from fsbench.errors import UsageError
from fsbench.optim import Processes
from fsbench.optim.running_statistics import mixes_examples
from fsbench.stop_signal import StopSignal, by_default

Value = TypeVar("Value")

# One device may have to wait for another's download or measure; a process that ends is noticed at once.
_PATIENCE = timedelta(hours=12)

# Steps between two agreements about a stop, at most.
_AGREE_EVERY = 20


def build_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("trainer.device", name, "no CUDA device was found; use cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Devices(Processes):
    """This process's device among those of the run; alone, nothing here does anything.

    Whatever is exchanged is called by all processes, in the same order.

    Attributes:
        device: of this process.
        rank, count: which of how many.
        together: whether closures work for all devices' rows now, or for this device's alone.
    """

    def __init__(self, device: torch.device, rank: int = 0, count: int = 1, store: dist.Store | None = None) -> None:
        self.device, self.rank, self.count = device, rank, count
        self.share = Share(rank, count)
        self.together = True
        self._store = store
        self._cause: dict[str, Any] | None = None

    @classmethod
    def joined(cls, name: str, devices: int, key: str = "trainer.devices") -> Devices:
        """So many devices of the kind that `trainer.device` names.

        Where there are several, the environment variables of torch's launcher say which this is.

        Raises:
            UsageError: no such device.
        """
        if devices == 1:
            return cls(build_device(name))
        rank, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        device = build_device(name)
        if device.type == "cuda":
            refuse_absent(name, devices, key)
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        elif "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))
        # What lies on the CPU (states, flags) goes through gloo everywhere.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with by_default():
            store, *_ = next(dist.rendezvous("env://", rank, count))
            dist.init_process_group(
                backend, store=dist.PrefixStore("group", store), rank=rank, world_size=count, timeout=_PATIENCE
            )
        return cls(device, rank, count, dist.PrefixStore("fsbench", store))

    def leave(self) -> None:
        """Close the connections."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """True for the process that reads and writes the run directory, and speaks."""
        return self.rank == 0

    # What an optimizer asks.

    @contextmanager
    def apart(self) -> Iterator[None]:
        before, self.together = self.together, False
        try:
            yield
        finally:
            self.together = before

    def own(self, rows: range, size: int) -> range:
        return self.share.within(rows, size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        if self.count > 1:
            for tensor in tensors:
                _through(dist.all_reduce, tensor)

    # What a run asks.

    def total(self, *values: Tensor | float) -> list[float]:
        """The sum over the devices of each number."""
        numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
        self.sum_([numbers])
        return numbers.tolist()

    def any(self, flag: bool) -> bool:
        """True if it is so on one device at least."""
        return self.total(flag)[0] > 0

    def from_first(self, act: Callable[[], Value]) -> Value:
        """The value of `act` on the first device, where alone it is called."""
        if self.count == 1:
            return act()
        values: list[Any] = [act() if self.first else None]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def gathered(self, value: Value) -> list[Value]:
        """Every device's value."""
        values: list[Any] = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def node_by_node(self, act: Callable[[], Value]) -> Value:
        """The value of `act` on each device; it may leave files, so one process on a node comes before the rest."""
        if self.count == 1:
            return act()
        if int(os.environ["LOCAL_RANK"]) == 0:
            value = act()
            self.any(False)
            return value
        self.any(False)
        return act()

    def same_(self, model: nn.Module) -> None:
        """Give every device the first one's weights and running statistics."""
        if self.count > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                _through(partial(dist.broadcast, src=0), tensor.detach())

    def seed(self, seed: int) -> None:
        """Give each device draws of its own (dropout, sampled labels); the first keeps those of a run on one device."""
        if self.rank:
            torch.manual_seed(derived_seed(seed, "device", self.rank))

    @torch.no_grad()
    def merge_statistics(self, model: nn.Module, size: int) -> None:
        """Replace running statistics by their mean over the devices, weighted by the rows each had of `size`."""
        if self.count == 1 or not mixes_examples(model):
            return
        buffers = list(model.buffers())
        own = len(self.share.of(size)) / size
        # Counters are the first device's.
        weights = [own if buffer.is_floating_point() else float(self.first) for buffer in buffers]
        merged = torch.cat([b.double().flatten() * w for b, w in zip(buffers, weights, strict=True)])
        dist.all_reduce(merged)
        for buffer, value in zip(buffers, merged.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(value.view_as(buffer))

    def agreed(self, stop: StopSignal) -> StopSignal:
        """A stop that is requested on all devices where it is on one."""
        return stop if self.count == 1 else _AgreedStop(stop, self)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """The exception that leaves here is that of the device which failed first."""
        try:
            yield
        except BaseException as failure:
            cause = self.cause(failure)
            if cause is failure:
                raise
            raise cause from failure

    def cause(self, failure: BaseException) -> BaseException:
        """The failure that came first on any device: this one, or the one that it is only a consequence of."""
        if self._store is None:
            return failure
        if self._cause is None:
            self._cause = {"rank": self.rank, **told(failure, self.rank)}
            try:
                if self._store.add("failures", 1) == 1:
                    self._store.set("failure", json.dumps(self._cause))
                else:
                    self._cause = json.loads(self._store.get("failure"))
            except (RuntimeError, ValueError):  # the store is gone: its process ended
                pass
        return failure if self._cause["rank"] == self.rank else retold(self._cause)

    def unanimous(self, what: str) -> bool:
        """True if all processes come to say `what`; told apart from exchanges, for some may be waiting in one."""
        if self._store is None:
            return True
        self._store.add(what, 1)
        until = time.monotonic() + 600
        while self._store.add(what, 0) < self.count:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def speaks(self) -> bool:
        """True for the process that says how the run ended: the first that asks."""
        try:
            return self._store is None or self._store.add("spoken", 1) == 1
        except RuntimeError:
            return self.first


def _through(act: Callable[[Tensor], Any], tensor: Tensor) -> None:
    """Exchange a tensor in place; torch.distributed takes contiguous ones only."""
    contiguous = tensor.contiguous()
    act(contiguous)
    if contiguous is not tensor:
        tensor.copy_(contiguous)


def refuse_absent(name: str, devices: int, key: str = "trainer.devices") -> None:
    """Raise UsageError where a node has fewer GPUs than it has processes."""
    if build_device(name).type != "cuda":
        return
    there, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE") or devices)
    if there < wanted:
        raise UsageError(
            key, devices, f"there {'is 1 GPU' if there == 1 else f'are {there} GPUs'} here; "
            f"use fewer devices, or {key.removesuffix('s')}=cpu",
        )  # fmt: skip


class _AgreedStop(StopSignal):
    """Between steps the devices agree after every twentieth step, or about every second where those take longer: the
    first device, by its clock, says with each agreement how many steps it is to the next."""

    def __init__(self, stop: StopSignal, devices: Devices) -> None:
        self._stop, self._devices = stop, devices
        self._steps, self._since = 0, time.monotonic()
        self._every: float = 1

    @property
    def requested(self) -> bool:  # type: ignore[override]
        seconds = time.monotonic() - self._since
        every = min(max(int(self._steps / max(seconds, 1e-9)), 1), _AGREE_EVERY)
        asked, self._every = self._devices.total(self._stop.requested, every if self._devices.first else 0)
        self._steps, self._since = 0, time.monotonic()
        return asked > 0

    def requested_between_steps(self) -> bool:
        self._steps += 1
        return self._steps >= self._every and self.requested
