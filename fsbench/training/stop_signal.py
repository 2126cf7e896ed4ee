"""Ctrl-C, SIGTERM and SLURM's SIGUSR2: a wish that is looked at between steps and between runs, or the end at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fsbench.errors import Interrupted


class StopSignal:
    """`requested` turns True at the first signal; a second one stops at once."""

    requested = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if sys.stderr.isatty():
            # Not print: a handler may run in the middle of one.
            os.write(2, b"\nstopping as soon as a checkpoint is written; once more to stop at once\n")

    def requested_between_steps(self) -> bool:
        """`requested`, as a training loop may ask after each step."""
        return self.requested

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for."""
        if self.requested:
            raise Interrupted("interrupted; the same command goes on from here")


@contextmanager
def stop_signal(stop: StopSignal | None = None) -> Iterator[StopSignal]:
    """Within, signals go to `stop`; a new one where none is given."""
    stop = stop or StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with _handled_by(stop):
        yield stop


@contextmanager
def at_once() -> Iterator[None]:
    """Within, a signal ends the work at once, for what was finished is recorded; raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SLURM's SIGUSR2."""
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
