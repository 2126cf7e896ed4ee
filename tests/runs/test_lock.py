"""The lock of a run directory, held for a moment."""

from __future__ import annotations

import os
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


def test_a_run_that_nobody_works_on_is_not_running(tmp_path) -> None:
    directory = RunDirectory(tmp_path)
    with directory.locked():
        directory.set_status("running")
        assert directory.read_status() == ("running", "")
    assert directory.read_status() == ("interrupted", "killed")
    assert directory.recorded_status() == ("running", "")
    directory.set_status("failed", message="a\nb")
    assert directory.read_status() == ("failed", "a")
    directory.set_status("\x1b[2J")
    assert directory.status == "unknown"


def test_whoever_asks_for_the_status_does_not_make_a_run_busy(tmp_path) -> None:
    directory = RunDirectory(tmp_path / "x")
    config = {"seed": 1}
    with directory.open(config):
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            assert directory.status in ("running", "interrupted")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with directory.open(config):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "directory"])
def test_a_lock_that_is_no_file(tmp_path, kind) -> None:
    (tmp_path / "precious").write_text("mine")
    place = tmp_path / "run"
    place.mkdir()
    lock = place / "lock"
    {
        "link": lambda: lock.symlink_to("../precious"),
        "dangling": lambda: lock.symlink_to("../other"),
        "pipe": lambda: os.mkfifo(lock),
        "directory": lock.mkdir,
    }[kind]()
    with pytest.raises(UsageError) as met, RunDirectory(place).locked():
        pass
    assert str(met.value) == f"unreadable: {lock} (a link, or no plain file); delete it"
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "other").exists()
