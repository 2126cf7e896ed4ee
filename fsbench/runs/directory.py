"""One run, one directory: its files, its status, its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fsbench.errors import FsbenchError, UsageError
from fsbench.runs.atomic import disk_full, remove_parts, write_json, write_text
from fsbench.runs.identity import differences, identity


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
        return self.summary.is_file()

    def read_results(self) -> dict[str, Any]:
        """Results of a finished run. Raises UsageError where the summary can't be read."""
        try:
            return json.loads(self.summary.read_text(encoding="utf-8"))["results"]
        except (ValueError, KeyError, TypeError):
            raise UsageError("summary", self.summary, "can't be read; delete it to train this run again") from None

    @property
    def status(self) -> str:
        """`done`, or what status.json says of a run that is not finished; `unknown` where it says nothing."""
        if self.finished:
            return "done"
        try:
            return str(json.loads(self.status_file.read_text(encoding="utf-8"))["status"])
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"

    def refuse_other_config(self, config: dict[str, Any], *, overwrite: bool = False) -> None:
        """Raise UsageError if the directory is no run directory, or (unless overwriting) another configuration's."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError("run_name", self.path.name, f"{self.path} is not a directory")
        if not self.config.is_file():
            strangers = [p.name for p in self.path.iterdir() if p.name != "lock" and not p.name.startswith(".")]
            if strangers:
                raise UsageError("run_name", self.path.name, f"{self.path} holds other files ({strangers[0]}, ...)")
            return
        if overwrite:
            return
        try:
            theirs = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            differing = differences(config, theirs)
        except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
            raise UsageError("run_name", self.path.name, f"{self.config} can't be read; delete the directory") from None
        if differing:
            raise UsageError(
                "run_name",
                self.path.name,
                f"the directory was made by another configuration: {', '.join(differing)}; "
                "choose another run_name or delete the directory",
            )

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
            lock = (self.path / "lock").open("w")
        except OSError as failure:
            if failure.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(self.path.parent) from None
            raise UsageError("runs_dir", self.path.parent, f"can't write there: {failure.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunIsBusy(f"{self.path} is being trained by another process") from None
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
            lock = (self.path / "lock").open("w")
        except OSError as failure:
            raise UsageError("run", self.path, f"can't write there: {failure.strerror}") from None
        with lock:
            until = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise RunIsBusy(f"{self.path} is being trained by another process") from None
                    time.sleep(0.05)
            yield

    def _begin(self, config: dict[str, Any]) -> None:
        # What was measured is of other weights than those to come.
        self.sharpness.unlink(missing_ok=True)
        write_text(self.config, yaml.safe_dump(config, sort_keys=False))
        self.set_status("running")

    def _clear(self) -> None:
        """Forget what a run wrote, and nothing else that may lie there."""
        for path in (self.status_file, self.metrics, self.summary, self.model, self.provenance, self.log,
                     self.traceback, self.checkpoint):  # fmt: skip
            path.unlink(missing_ok=True)
        for name in ("tensorboard", "wandb"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def set_status(self, status: str, **details: Any) -> None:
        """`running`, `done`, `failed`, `diverged` or `interrupted`."""
        write_json(self.status_file, {"status": status, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **details})


def refuse_unwritable(key: str, directory: Path) -> None:
    """Raise UsageError where a directory is not there and can't be made, or nothing can be written in it."""
    above = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        problem = "can't be written to" if above.is_dir() else "is not a directory"
        raise UsageError(key, directory, f"can't be written: {above} {problem}")
