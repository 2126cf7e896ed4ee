"""Tasks side by side: what is lost is tried again so often, what fails is not, and a stop leaves nothing running."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from fsbench.errors import FsbenchError, Interrupted, UsageError, portable
from fsbench.executors.executor import SerialExecutor
from fsbench.executors.pooled import PooledExecutor, Returned, Submission, WorkerLost, carry_out
from fsbench.runs.directory import RunDirectory
from fsbench.stop_signal import StopSignal
from fsbench.training.outcome import Outcome

LOST = WorkerLost("its machine was lost")
STOPPED, GOT_FURTHER = Returned(None), Returned(None, progressed=True)


@dataclass(frozen=True)
class OneTask:
    """A task whose outcome is its name."""

    name: str
    done_before: bool = False
    root: Path = Path("nowhere")

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.root / self.name)

    @property
    def job(self) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(trainer=SimpleNamespace(population=False)))

    @property
    def data(self) -> tuple[str, str, str | None]:
        return ("data", "digits", None)

    def known(self) -> Outcome | None:
        return Outcome("skipped", self.name) if self.done_before else None

    def perform(self, stop: StopSignal) -> Outcome:
        if self.name == "stopped":
            raise Interrupted("interrupted")
        if self.name == "broken":
            raise ZeroDivisionError("by nothing")
        return Outcome("done", self.name)

    def failed(self, failure: FsbenchError) -> Outcome:
        return Outcome("failed", f"{self.name}: {failure}", failure)


@dataclass
class Engine:
    """Each call ends at the next look, with the next of what was laid down for its task, or done."""

    script: dict[str, list] = field(default_factory=dict)
    room: int | None = None
    leaves: str | None = None
    stop_after: int | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    open: dict[int, Submission] = field(default_factory=dict)
    most: int = 0
    submitted: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    left_open: bool | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_) -> None:
        self.left_open = bool(self.open)

    def submit(self, calls) -> list[int]:
        handles = []
        for call in calls:
            self.submitted.append(call.task.name)
            handles.append(len(self.submitted))
            self.open[handles[-1]] = call
        self.most = max(self.most, len(self.open))
        return handles

    def ended(self, handles, seconds) -> list[int]:
        assert set(handles) == set(self.open)
        if self.stop_after is not None and len(self.submitted) >= self.stop_after and not self.interrupted:
            self.stop.requested = True
            return []
        return handles[:1]

    def result(self, handle) -> Returned:
        task = self.open.pop(handle).task
        scripted = self.script.get(task.name)
        result = scripted.pop(0) if scripted else Returned(Outcome("done", task.name))
        if isinstance(result, FsbenchError):
            raise result
        return result

    def interrupt(self, handles) -> None:
        self.interrupted += [self.open[handle].task.name for handle in handles]

    def left(self, handles) -> str | None:
        return self.leaves and self.leaves.format(len(handles))


def run(engine: Engine, *names: str, retries: int = 2) -> tuple[list[str], list[str]]:
    said: list[str] = []
    executor = PooledExecutor(engine, 1, retries, engine.stop, said.append)
    outcomes = list(executor.run([OneTask(name) for name in names]))
    return [outcome.line for outcome in outcomes], said


CASES = {
    "all-well": ({}, ["a", "b"], ["a", "b"], []),
    "lost-once": (
        {"a": [LOST]}, ["b", "a"], ["a", "b", "a"], ["nowhere/a: its machine was lost; tried again (1 of 2)"],
    ),
    "lost-for-good": (
        {"a": [LOST] * 3}, ["b", "a: its machine was lost, 3 times"], ["a", "b", "a", "a"],
        [f"nowhere/a: its machine was lost; tried again ({n} of 2)" for n in (1, 2)],
    ),
    "its-own-fault": (
        {"a": [Returned(Outcome("failed", "a: ZeroDivisionError"))]}, ["a: ZeroDivisionError", "b"], ["a", "b"], [],
    ),
    "could-not-begin": ({"a": [FsbenchError("no such module")]}, ["a: no such module", "b"], ["a", "b"], []),
    # The end of a job's time is no loss, however often it comes.
    "out-of-time": (
        {"a": [GOT_FURTHER] * 4}, ["b", "a"], ["a", "b", "a", "a", "a", "a"],
        ["nowhere/a: stopped from outside; goes on from its checkpoint"] * 4,
    ),
    "never-got-anywhere": (
        {"a": [STOPPED] * 3}, ["b", "a: stopped from outside before its first checkpoint, 3 times"],
        ["a", "b", "a", "a"],
        [f"nowhere/a: stopped from outside before its first checkpoint; tried again ({n} of 2)" for n in (1, 2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("script", "lines", "submitted", "said"), CASES.values(), ids=CASES)
def test_what_is_tried_again(script, lines, submitted, said) -> None:
    engine = Engine({name: list(results) for name, results in script.items()})
    assert run(engine, "a", "b") == (lines, said)
    assert engine.submitted == submitted
    assert engine.left_open is False


def test_retries_may_be_none() -> None:
    assert run(Engine({"a": [LOST]}), "a", retries=0) == (["a: its machine was lost"], [])


@pytest.mark.parametrize(("room", "most"), [(1, 1), (2, 2), (None, 5)])
def test_no_more_at_once_than_there_is_room_for(room, most) -> None:
    engine = Engine(room=room)
    assert run(engine, *"abcde")[0] == [*"abcde"]
    assert engine.most == most


def test_what_is_known_needs_no_engine() -> None:
    engine = Engine()
    executor = PooledExecutor(engine, 1, 2, StopSignal())
    assert [outcome.line for outcome in executor.run([OneTask("a", True), OneTask("b", True)])] == ["a", "b"]
    assert engine.left_open is None


def test_giving_up_on_a_run_is_in_its_status(tmp_path) -> None:
    task = OneTask("a", root=tmp_path)
    task.directory.path.mkdir()
    list(PooledExecutor(Engine({"a": [LOST]}), 1, 0, StopSignal(), print).run([task]))
    assert task.directory.status == "failed"


STOPS = {
    # Those that were told to stop, or finished meanwhile; none begins after them.
    "told": (None, ["b"], "interrupted; the same command goes on from here", ["a", "b"]),
    "left": ("{} runs are left", [], "2 runs are left", []),
}


@pytest.mark.parametrize(("leaves", "lines", "message", "interrupted"), STOPS.values(), ids=STOPS)
def test_a_stop(leaves, lines, message, interrupted) -> None:
    engine = Engine({"a": [GOT_FURTHER]}, room=2, stop_after=2, leaves=leaves)
    seen: list[str] = []

    def outcomes() -> Iterator[Outcome]:
        for outcome in PooledExecutor(engine, 1, 2, engine.stop).run([OneTask(name) for name in "abc"]):
            seen.append(outcome.line)
            yield outcome

    with pytest.raises(Interrupted, match=message):
        list(outcomes())
    assert seen == lines
    assert (engine.submitted, engine.interrupted) == (["a", "b"], interrupted)


def test_who_wants_no_more_leaves_nothing_running() -> None:
    engine = Engine()
    outcomes = PooledExecutor(engine, 1, 2, StopSignal()).run([OneTask(name) for name in "abc"])
    assert next(outcomes).line == "a"
    outcomes.close()
    assert engine.interrupted == ["b", "c"]


def test_serial_looks_for_absent_images_once() -> None:
    absent = UsageError("data_dir", "x", "nothing there")

    class Absent(OneTask):
        def perform(self, stop):
            assert self.name == "a"
            return self.failed(absent)

    lines = [outcome.line for outcome in SerialExecutor(StopSignal()).run([Absent("a"), Absent("b")])]
    assert lines == ["a: data_dir=x: nothing there", "b: data_dir=x: nothing there"]


RETURNED = {
    "done": ("done", "", "done"),
    "stopped": ("stopped", "", None),
    "broken": ("broken", "", "broken: ZeroDivisionError: by nothing"),
    "no-directory": ("done", "/nowhere", "can't be entered on the worker, No such file or directory"),
}


@pytest.mark.parametrize(("name", "directory", "line"), RETURNED.values(), ids=RETURNED)
def test_a_worker_returns_whatever_happens(tmp_path, monkeypatch, name, directory, line) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.chdir(tmp_path)
    returned = carry_out(Submission(OneTask(name), directory or str(tmp_path), threads=3))
    assert returned.progressed is False
    if line is None:
        assert returned.outcome is None
    else:
        assert line in returned.outcome.line


class Peculiar(Exception):
    """An exception that can't be rebuilt from its message."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("failure", "same"),
    [(UsageError("lr", 0, "must be > 0"), "lr=0: must be > 0"), (Peculiar(1, 2), "Peculiar: 1 and 2"), (None, None)],
    ids=["ours", "peculiar", "none"],
)
def test_outcomes_travel(failure, same) -> None:
    outcome = pickle.loads(pickle.dumps(Outcome("failed", "line", failure)))
    assert (outcome.status, outcome.line) == ("failed", "line")
    assert (outcome.failure and str(outcome.failure)) == same
    assert type(portable(failure)) is type(outcome.failure)
