"""SLURM through submitit: every run a job, many of them an array. Source: https://github.com/facebookincubator/submitit."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsbench
from fsbench.config.executor import SlurmOptions
from fsbench.errors import FsbenchError, UsageError, first_line
from fsbench.executors.pooled import Returned, Submission, WorkerLost, carry_out, needed
from fsbench.runs.provenance import available_cores

# SLURM's own default limit of an array.
_ARRAY = 1000
# Seconds between looks into the queue. A job that is gone from it twice in a row, without a result, is lost:
# results may be late on a shared file system.
_LOOK = 15.0


class SlurmEngine:
    """Calls as jobs of SLURM, or as processes of this machine (`cluster=local`).

    Jobs of SLURM stay in the queue when the driver is interrupted; the same command finds them by the records that
    lie, with their logs, in `runs_dir/.slurm`.

    Args:
        device: trainer.device of the runs: with `cpu` they ask for no GPU.
    """

    def __init__(self, options: SlurmOptions, device: str, runs_dir: Path) -> None:
        self._options, self._device = options, device
        self._folder = runs_dir.expanduser().absolute() / ".slurm"
        self._local = options.cluster == "local"
        # SLURM itself sees to how many run at once.
        self.room = (options.workers or max(1, available_cores() // options.cpus)) if self._local else None
        self._records: dict[str, Path] = {}
        self._looked = 0.0
        self._absent: set[str] = set()
        self._submitit = needed("submitit", "slurm")
        logging.getLogger("submitit").setLevel(logging.ERROR)

    def __enter__(self) -> SlurmEngine:
        try:
            _make_own(self._folder)
            cluster = self._options.cluster
            python = {f"{cluster}_python": _python()}
            self._executor = self._submitit.AutoExecutor(folder=self._folder, cluster=cluster, **python)
            self._executor.update_parameters(**self._parameters())
        except (RuntimeError, ValueError, NameError, OSError) as failure:
            raise UsageError("executor", "slurm", first_line(failure)) from None
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def submit(self, calls: Sequence[Submission]) -> list[Any]:
        jobs: list[Any] = [None if self._local else self._still_queued(call) for call in calls]
        missing = [call for call, job in zip(calls, jobs, strict=True) if job is None]
        fresh: list[Any] = []
        try:
            for first in range(0, len(missing), _ARRAY):
                with _out_of_reach_of_ctrl_c(self._local), self._executor.batch():
                    fresh += [self._executor.submit(carry_out, call) for call in missing[first : first + _ARRAY]]
        except (RuntimeError, OSError, subprocess.CalledProcessError) as failure:
            raise UsageError("executor", "slurm", f"sbatch takes no jobs: {first_line(failure)}") from None
        following = iter(fresh)
        jobs = [next(following) if job is None else job for job in jobs]
        if not self._local:
            for call, job in zip(calls, jobs, strict=True):
                self._records[job.job_id] = self._record(call)
                self._record(call).write_text(job.job_id, encoding="utf-8")
        return jobs

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        until = time.monotonic() + seconds
        while not (found := [job for job in handles if job.done()] or self._vanished(handles)):
            if time.monotonic() > until:
                return []
            time.sleep(0.1)
        return found

    def result(self, handle: Any) -> Returned:
        paths = handle.paths
        if (record := self._records.pop(handle.job_id, None)) is not None:
            record.unlink(missing_ok=True)
        if not paths.result_pickle.is_file():
            state = "" if self._local else f" (state {handle.state})"
            raise WorkerLost(f"job {handle.job_id} ended without a result{state}, its log is {paths.stderr}")
        if (failure := handle.exception()) is not None:
            said = [line.strip() for line in str(failure).splitlines() if line.strip().strip("-")]
            raise FsbenchError(f"job {handle.job_id} failed, its log is {paths.stderr}: {_last_of_traceback(said)}")
        returned = handle.result()
        if returned.outcome is not None:
            for path in self._folder.glob(f"{handle.job_id}_*"):
                path.unlink(missing_ok=True)
        return returned

    def interrupt(self, handles: Sequence[Any]) -> None:
        for job in handles:
            if self._local:
                # The process that watches over the job, by whose number it goes; it passes the signal on.
                with suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)
            else:
                job.cancel(check=False)

    def left(self, handles: Sequence[Any]) -> str | None:
        if self._local or not handles:
            return None
        jobs = sorted({job.job_id.partition("_")[0] for job in handles})
        return (
            f"interrupted; {len(handles)} runs are left to SLURM, the same command waits for them again; "
            f"scancel {','.join(jobs)} ends them"
        )

    def _parameters(self) -> dict[str, Any]:
        options = self._options
        gpus = options.gpus if options.gpus is not None else float(self._device != "cpu")
        parameters: dict[str, Any] = {
            "name": "fsbench",
            "timeout_min": options.time_limit,
            "cpus_per_task": options.cpus,
            "mem_gb": options.memory,
            "tasks_per_node": 1,
            "nodes": 1,
        }
        if gpus or self._local:
            parameters["gpus_per_node"] = int(gpus)
        if not self._local:
            parameters |= {"slurm_partition": options.partition, "slurm_array_parallelism": options.workers or _ARRAY}
            if options.sbatch:
                parameters["slurm_additional_parameters"] = dict(options.sbatch)
        return parameters

    def _record(self, call: Submission) -> Path:
        return self._folder / f"{call.task.directory.path.name}.job"

    def _still_queued(self, call: Submission) -> Any:
        """The job that an interrupted driver left in the queue for this run."""
        try:
            number = self._record(call).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        queue = _queue()
        if queue is None or number not in queue:
            return None
        return self._submitit.SlurmJob(folder=self._folder, job_id=number)

    def _vanished(self, handles: Sequence[Any]) -> list[Any]:
        """Jobs that left the queue without a word: not every cluster keeps accounts that `sacct` could tell from."""
        if self._local or time.monotonic() < self._looked + _LOOK:
            return []
        self._looked = time.monotonic()
        queue = _queue()
        if queue is None:
            return []
        absent = {job.job_id for job in handles} - queue
        twice = absent & self._absent
        self._absent = absent
        return [job for job in handles if job.job_id in twice]


def _make_own(folder: Path) -> None:
    """Make a directory that only this user can write: what lies in it is unpickled, which runs any code.

    Raises:
        UsageError: it is somebody else's, or others could put their own in its place.
    """
    runs_dir = folder.parent
    runs_dir.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    own = folder.lstat()
    if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.geteuid():
        raise UsageError("runs_dir", runs_dir, f"{folder} is not a directory of yours, and jobs would run code from it")
    folder.chmod(0o700)
    above = runs_dir.stat()
    others = above.st_mode & (stat.S_IWOTH | (0 if _alone(above.st_gid) else stat.S_IWGRP))
    if (others and not above.st_mode & stat.S_ISVTX) or above.st_uid not in (os.geteuid(), 0):
        problem = "others may write it, and so have your jobs run their code; chmod go-w it, or +t, or choose another"
        raise UsageError("runs_dir", runs_dir, problem)


def _alone(group: int) -> bool:
    """Tell a group that only this user is in: many systems give everybody a group of their own."""
    with suppress(KeyError):
        me, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
        return found.gr_name == me.pw_name and set(found.gr_mem) <= {me.pw_name}
    return False


def _python() -> str:
    """Python as jobs start it: without the modules of the working directory, unless it is fsbench's own."""
    own = Path(fsbench.__file__).resolve().parent.parent == Path.cwd()
    return shlex.quote(sys.executable) + ("" if own else " -P")


def _queue() -> set[str] | None:
    """Numbers of the user's jobs that wait or run; None where it can't be told."""
    try:
        listed = subprocess.run(
            ["squeue", "--me", "--noheader", "--array", "--format=%i"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return set(listed.stdout.split())


def _last_of_traceback(lines: Sequence[str]) -> str:
    """The line that names the exception, among those that submitit puts around it."""
    named = [line for line in lines if "Error" in line.partition(":")[0] and " " not in line.partition(":")[0]]
    return (named or lines or [""])[-1]


@contextmanager
def _out_of_reach_of_ctrl_c(local: bool) -> Iterator[None]:
    """Processes begun within don't end at once by the terminal's Ctrl-C, but save checkpoints when told to."""
    if not local:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
