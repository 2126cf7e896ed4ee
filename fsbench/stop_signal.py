"""Signals that ask for an end: a wish that is looked at between steps and between runs, or the end at once.

Ctrl-C, SIGTERM, a closed terminal's SIGHUP, what schedulers send before a job's time is up (SIGUSR1, SIGUSR2), SIGXCPU.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from fsbench.errors import Interrupted, check_signals
from fsbench.lines import shown_on_terminal

_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


class StopSignal:
    """`requested` turns True at the first signal; a Ctrl-C after that stops at once."""

    requested = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            # Others come twice by themselves: SIGHUP from shell and kernel, SIGXCPU every second.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        if shown_on_terminal():
            # Not print: a handler may run in the middle of one.
            with suppress(OSError):
                os.write(2, b"\nstopping as soon as a checkpoint is written; Ctrl-C to stop at once\n")

    def requested_between_steps(self) -> bool:
        """`requested`, as a training loop may ask after each step."""
        return self.requested

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for."""
        if self.requested:
            raise Interrupted("interrupted; the same command goes on from here")


class AtOnce(StopSignal):
    """A signal raises KeyboardInterrupt; `requested` says that one came, should that be lost."""

    def __call__(self, number: int, _: FrameType | None) -> None:
        if not self.requested or number == signal.SIGINT:
            self.requested = True
            raise KeyboardInterrupt

    def check(self) -> None:
        if self.requested:
            raise KeyboardInterrupt


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
def at_once() -> Iterator[AtOnce]:
    """Within, a signal ends the work at once, for what was finished is recorded; raises KeyboardInterrupt."""
    now = AtOnce()
    if threading.current_thread() is not threading.main_thread():
        yield now
        return
    with _handled_by(now):
        yield now
        now.check()


@contextmanager
def by_default() -> Iterator[None]:
    """Within, a signal ends the process: what waits inside a library would not see a wish, and nothing is begun."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled_by(signal.SIG_DFL):
        yield


def too_late() -> None:
    """From here on signals change nothing: the work has ended, and the exit code says how."""
    for number in stopping():
        signal.signal(number, signal.SIG_IGN)


def stopping() -> list[int]:
    """The signals that stop a run; SIGHUP is not among them where it is ignored, as by nohup."""
    found = [getattr(signal, name) for name in _STOPPING]
    return [one for one in found if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> Iterator[None]:
    check_signals()
    previous = {number: signal.signal(number, handler) for number in stopping()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
