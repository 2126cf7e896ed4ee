"""Ctrl-C, SIGTERM and SLURM's SIGUSR2 as a wish that is looked at between steps and between runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for."""
        if self.requested:
            raise Interrupted("interrupted; the same command goes on from here")


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
