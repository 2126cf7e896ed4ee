"""The lock of a run directory, held for a moment."""

from __future__ import annotations

import threading
import time

import pytest

from fsbench.errors import UsageError
from fsbench.runs.directory import RunDirectory, RunIsBusy


def test_it_is_waited_for(tmp_path) -> None:
    directory, order = RunDirectory(tmp_path), []

    def hold() -> None:
        with directory.locked():
            entered.set()
            time.sleep(0.2)
            order.append("first")

    entered = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with directory.locked():
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_it_is_not_waited_for_for_ever(tmp_path) -> None:
    directory = RunDirectory(tmp_path)
    with directory.locked(), pytest.raises(RunIsBusy, match="is being trained by another process"):
        with directory.locked(patience=0.1):
            pass


def test_a_directory_that_is_gone(tmp_path) -> None:
    with pytest.raises(UsageError, match="can't write there: No such file or directory"):
        with RunDirectory(tmp_path / "gone").locked():
            pass
