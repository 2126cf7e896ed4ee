"""One run, one directory: its files, its status, its lock."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

import yaml

from fsbench.errors import FsbenchError, UsageError
from fsbench.runs.atomic import disk_full, remove_parts, write_json, write_text
from fsbench.runs.identity import differences, identity
from fsbench.runs.read import Unreadable, read_json, read_json_lines, read_yaml

_NO_FILE = "a link, or no plain file"
# What a run that is not finished can be said to be.
_STATUSES = ("running", "done", "failed", "diverged", "interrupted")


class RunIsBusy(FsbenchError):
    """Another process holds the run's lock."""


class RunDirectory:
    """Paths and state of `runs_dir/<name>`.

    Files: config.yaml (resolved), status.json, metrics.jsonl (a line per epoch), summary.json (written
    last: it exists if and only if the run is finished), model.safetensors, provenance.json, train.log,
    traceback.txt of a failure, checkpoint.pt until the run is finished; sharpness.json, if its sharpness was measured.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.status_file = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.model = path / "model.safetensors"
        self.provenance = path / "provenance.json"
        self.log = path / "train.log"
        self.traceback = path / "traceback.txt"
        self.checkpoint = path / "checkpoint.pt"
        self.sharpness = path / "sharpness.json"

    @classmethod
    def of(cls, config: dict[str, Any], choices: dict[str, str]) -> RunDirectory:
        """The directory a configuration belongs in: `run_name`, or one named after choices, seed and identity."""
        name = config["run_name"] or "-".join(
            [*(choices[group] for group in ("dataset", "model", "optimizer")), f"s{config['seed']}", identity(config)]
        )
        return cls(Path(config["runs_dir"]) / name)

    @property
    def finished(self) -> bool:
        return os.path.isfile(self.summary)

    @property
    def diverged(self) -> bool:
        return self.path.is_dir() and self.status == "diverged"

    def read_metrics(self) -> list[dict[str, Any]]:
        """A row for each epoch; none where there is no file of them. Raises Unreadable where it is something else."""
        try:
            return read_json_lines(self.metrics)
        except FileNotFoundError:
            return []

    def read_results(self) -> dict[str, Any]:
        """Results of a finished run. Raises Unreadable where the summary can't be read."""
        try:
            results = read_json(self.summary).get("results")
            if not isinstance(results, dict) or not all(map(is_result, results.values())):
                raise Unreadable(self.summary, "its results are no numbers")
            for name in ("test_accuracy", "train_accuracy", "seconds"):
                if results.get(name) is None:
                    raise Unreadable(self.summary, f"its results lack {name}")
        except Unreadable as failure:
            raise failure.advising("delete it to train this run again") from None
        return results

    @property
    def status(self) -> str:
        """`done`, or what status.json says of a run that is not finished; `unknown` where it says nothing."""
        return self.read_status()[0]

    def read_status(self) -> tuple[str, str]:
        """The status, and the first line of what is said with it. A run that nobody works on is not running."""
        if self.finished:
            return "done", ""
        status, message = self.recorded_status()
        # A run says that it is done just before it writes its summary.
        if status in ("running", "done"):
            return ("running", "") if self._held() else ("interrupted", "killed")
        return status, message

    def recorded_status(self) -> tuple[str, str]:
        """The status and message of status.json, true or not."""
        try:
            said = read_json(self.status_file)
        except (FileNotFoundError, Unreadable):
            return "unknown", ""
        status = said.get("status")
        return (status, str(said.get("message", "")).partition("\n")[0]) if status in _STATUSES else ("unknown", "")

    def _held(self) -> bool:
        """True where a process holds the lock; one that takes it in this moment tries again."""
        try:
            lock = _open_lock(self.path / "lock", os.O_RDONLY)
        except (OSError, UsageError):
            return False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def remove_leftovers(self) -> None:
        """Remove what a process left that was killed when its run was just finished."""
        left = [path for path in (self.checkpoint, self.traceback) if os.path.isfile(path)]
        if left and not self._held():
            for path in left:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def refuse_other_config(self, config: dict[str, Any], *, overwrite: bool = False) -> None:
        """Raise UsageError if the directory is no run directory, or (unless overwriting) another configuration's."""
        if not os.path.exists(self.path):
            return
        if not self.path.is_dir():
            raise UsageError("run_name", self.path.name, f"{self.path} is not a directory")
        try:
            there = sorted(os.listdir(self.path))
            self._refuse_links()
        except OSError as failure:
            raise UsageError("run_name", self.path.name, f"{self.path}: {failure.strerror}") from None
        if not self.config.is_file():
            strangers = [name for name in there if name != "lock" and not name.startswith(".")]
            if strangers:
                raise UsageError("run_name", self.path.name, f"{self.path} holds other files ({strangers[0]}, ...)")
            return
        if overwrite:
            return
        try:
            differing = differences(config, read_yaml(self.config))
        except Unreadable as failure:
            raise failure.advising("delete the directory") from None
        except (AttributeError, KeyError, TypeError):
            raise Unreadable(self.config, "no run's configuration", "delete the directory") from None
        if differing:
            raise UsageError(
                "run_name",
                self.path.name,
                f"the directory was made by another configuration: {', '.join(differing)}; "
                "choose another run_name or delete the directory",
            )

    def _refuse_links(self) -> None:
        """Raise Unreadable where what would be written lies elsewhere, or is no file."""
        for path in (self.path / "lock", self.config, *self._written()):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise Unreadable(path, _NO_FILE, "delete it")
        for path in self._folders():
            if path.is_symlink():
                raise Unreadable(path, "a link", "delete it")

    @contextmanager
    def open(self, config: dict[str, Any], *, overwrite: bool = False) -> Iterator[bool]:
        """Create the directory, hold its lock, write the configuration.

        Yields whether the run is finished after all, by another process, and is to be left as it is. Bad input
        or a full disk met before the first checkpoint removes a directory that was made here.

        Raises:
            RunIsBusy: another process is at work in it.
            UsageError: the disk is full, or the directory can't be made.
        """
        created = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = _open_lock(self.path / "lock")
        except OSError as failure:
            if failure.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(self.path.parent) from None
            raise UsageError("runs_dir", self.path.parent, f"can't write there: {failure.strerror}") from None
        with lock:
            # Whoever asks for the status holds it for a moment.
            self._take(lock, patience=0.5)
            if self.finished and not overwrite:
                yield True
                return
            remove_parts(self.path)
            try:
                if overwrite:
                    self._clear()
                self._begin(config)
                yield False
            except UsageError:
                if created and not self.checkpoint.exists():
                    shutil.rmtree(self.path, ignore_errors=True)
                raise

    @contextmanager
    def locked(self, patience: float = 30.0) -> Iterator[None]:
        """Hold the lock for a moment, to change a record of a finished run.

        Raises:
            RunIsBusy: another process held it for `patience` seconds.
            UsageError: nothing can be written there.
        """
        try:
            lock = _open_lock(self.path / "lock")
        except OSError as failure:
            raise UsageError("run", self.path, f"can't write there: {failure.strerror}") from None
        with lock:
            self._take(lock, patience)
            yield

    def _take(self, lock: IO[bytes], patience: float) -> None:
        until = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RunIsBusy(f"{self.path} is being trained by another process") from None
                time.sleep(0.05)

    def _begin(self, config: dict[str, Any]) -> None:
        # What was measured is of other weights than those to come.
        self.sharpness.unlink(missing_ok=True)
        write_text(self.config, yaml.safe_dump(config, sort_keys=False))
        self.set_status("running")

    def _clear(self) -> None:
        """Forget what a run wrote, and nothing else that may lie there."""
        for path in self._written():
            path.unlink(missing_ok=True)
        for path in self._folders():
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> list[str]:
        """Remove what a run wrote, and the directory where nothing else lies in it; returns the names that are left.

        Raises:
            UsageError: no status.json says that it is a run's.
            RunIsBusy: a process is at work in it.
        """
        if self.recorded_status()[0] == "unknown":
            raise UsageError("run", self.path, "is left: it holds no status.json of a run")
        with self.locked(patience=0.5):
            remove_parts(self.path)
            self._clear()
            self.config.unlink()
            (self.path / "lock").unlink()
            if not (left := sorted(os.listdir(self.path))):
                self.path.rmdir()
        return left

    def _written(self) -> tuple[Path, ...]:
        """Files of a run; the status comes last, so that a removal that was broken off is taken up again."""
        return (self.metrics, self.summary, self.model, self.provenance, self.log, self.traceback, self.checkpoint,
                self.sharpness, self.status_file)  # fmt: skip

    def _folders(self) -> tuple[Path, Path]:
        """The places that loggers write to."""
        return self.path / "tensorboard", self.path / "wandb"

    def set_status(self, status: str, **details: Any) -> None:
        """`running`, `done`, `failed`, `diverged` or `interrupted`."""
        write_json(self.status_file, {"status": status, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **details})


def _open_lock(path: Path, access: int = os.O_RDWR | os.O_CREAT) -> IO[bytes]:
    """The file, neither emptied nor, where it is a link, followed.

    Raises:
        Unreadable: it is a link, or no plain file.
    """
    try:
        handle = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as failure:
        if failure.errno in (errno.ELOOP, errno.EISDIR):
            raise Unreadable(path, _NO_FILE, "delete it") from None
        raise
    lock = os.fdopen(handle, "rb", buffering=0)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return lock
    lock.close()
    raise Unreadable(path, _NO_FILE, "delete it")


def open_log(path: Path) -> TextIOWrapper:
    """A file to append to; a link is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    return open(os.open(path, flags, 0o666), "a", encoding="utf-8")


def is_result(value: Any) -> bool:
    """A number that a float can hold, or nothing."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None or isinstance(value, float)


def refuse_unwritable(key: str, directory: Path) -> None:
    """Raise UsageError where a directory is not there and can't be made, or nothing can be written in it."""
    above = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        problem = "can't be written to" if above.is_dir() else "is not a directory"
        raise UsageError(key, directory, f"can't be written: {above} {problem}")
