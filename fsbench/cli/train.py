"""`fsbench train`: one run, or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fsbench.cli.flags import parse_composed, show_instead
from fsbench.config.compose import Job, compose_jobs
from fsbench.errors import FsbenchError, UsageError, traceback_wanted
from fsbench.lines import say, tell
from fsbench.runs.read import Unreadable
from fsbench.stop_signal import StopSignal, stop_signal
from fsbench.training.outcome import (
    Outcome,
    TrainingTask,
    already_done,
    by_torchrun,
    described,
    directory_of,
    failed_line,
    finished,
    run,
)

HELP = """\
fsbench train [-m] [KEY=VALUE ...]: train one model, or with -m every combination of comma-separated values.

Choose from the groups (`fsbench list` GROUP shows them with a line each):
  dataset=  model=  optimizer=  base=  loss=  augment=  schedule=  setup=  experiment=  logger=  executor=
Keys people reach for:
  seed=  runs_dir=  data_dir=  trainer.epochs=  trainer.batch_size=  trainer.device=auto|cpu|cuda
  trainer.precision=fp32|tf32|bf16|fp16  trainer.devices=N  optimizer.lr=  optimizer.rho=

  fsbench train optimizer=fsam model=wrn28_10
  fsbench train dataset=fashion_mnist model=lenet optimizer=asam trainer.epochs=5
  fsbench train -m optimizer=sgd,sam,asam,fsam seed=0,1,2 dataset=digits model=cnn
  fsbench train -m optimizer=fsam optimizer.rho=0.01,0.05,0.1,0.5 optimizer.eta=0.001,0.1,1
  fsbench train experiment=kim2022/table1 model=wrn28_2 optimizer=fsam
  fsbench train -m optimizer=sam,fsam seed=0,1,2,3 executor=ray executor.gpus=0.25     # or executor=slurm
  fsbench train optimizer=sam trainer.devices=4        (or: torchrun --nproc-per-node=4 -m fsbench train optimizer=sam)

`optimizer=fsam` is Fisher SAM (Kim et al. 2022), not Friendly SAM, which is `optimizer=friendly_sam`.
A finished run is not repeated, an interrupted one goes on where it stopped.
Exit codes: 0 done, 1 failed, 2 bad input, 3 a sweep with failures, 4 diverged, 130 interrupted.
Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU leave a checkpoint first; another Ctrl-C ends at once.
Hydra imports, and so runs, what an installed plugin or hydra.searchpath=[pkg://...] names.
Also: --cfg job (show the configuration), --config-dir DIR (groups of your own), --hydra-help, --version.

With these choices:

"""


def main(arguments: Sequence[str]) -> int:
    options = parse_composed("fsbench train", arguments)
    if show_instead(options, HELP):
        return 0
    if by_torchrun():
        from fsbench.cli.torchrun import main as one_of_several

        return one_of_several(options)
    with stop_signal() as stop:
        jobs = compose_jobs(options.overrides, multirun=options.multirun, config_dir=options.config_dir)
        return train(jobs, options.multirun, stop)


def train(jobs: list[Job], multirun: bool, stop: StopSignal) -> int:
    """Train one run here, or what is more or elsewhere as a sweep."""
    alone = not multirun and jobs[0].config.executor.name == "serial"
    return train_one(jobs[0], stop) if alone else sweep(jobs, stop)


def train_one(job: Job, stop: StopSignal) -> int:
    """Train one run and say what came out on stdout."""
    directory, results = finished(job)
    if results is not None:
        say(f"{already_done(job, directory, results)} (overwrite=true trains it again)")
        return 0
    try:
        say(f"{directory.path}: done, {described(run(job, stop))}")
    except FsbenchError:
        raise
    except Exception as failure:
        if traceback_wanted():
            raise
        raise FsbenchError(failed_line(directory, failure)) from failure
    return 0


def sweep(jobs: list[Job], stop: StopSignal) -> int:
    """Train all that is missing, on the executor asked for; a failed run does not stop the others.

    Returns 0; 3 if any run failed, 2 if all did because of bad input.
    """
    # Its options need pydantic, and help needs none of it.
    from fsbench.executors import build_executor

    unique = without_repetitions(jobs)
    config = unique[0].config
    if any(job.config.executor != config.executor for job in unique):
        raise UsageError("executor", "...", "a sweep is carried out by one executor")
    executor = build_executor(config.executor, device=config.trainer.device, runs_dir=Path(config.runs_dir), stop=stop)
    outcomes: list[Outcome] = []
    try:
        for outcome in executor.run([TrainingTask(job) for job in unique]):
            outcomes.append(outcome)
            say(f"[{len(outcomes)}/{len(unique)}] {outcomes[-1].line}")
    finally:
        counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
        missing = f", {len(unique) - len(outcomes)} not begun or interrupted" if len(outcomes) < len(unique) else ""
        busy = sum(outcome.busy for outcome in outcomes)
        missing += f", {busy} busy in another process" if busy else ""
        say(", ".join(f"{count} {status}" for status, count in counts.items()) + missing)
    wrong = {"failed": counts["failed"], "are busy in another process": busy}
    if not any(wrong.values()):
        return 0
    counted = ", ".join(f"{count} of {len(unique)} runs {how}" for how, count in wrong.items() if count)
    tell(f"fsbench: {counted}; the same command runs what is missing")
    return 2 if all(isinstance(outcome.failure, UsageError) for outcome in outcomes) else 3


def without_repetitions(jobs: list[Job]) -> list[Job]:
    """Jobs without repetitions. Raises UsageError where different runs would share one directory."""
    unique: dict[Path, Job] = {}
    for job in jobs:
        with suppress(Unreadable):  # the others go on without it
            finished(job)
        path = directory_of(job).path
        if path in unique and unique[path].config != job.config:
            raise UsageError("run_name", job.config.run_name, "several runs of the sweep would share this directory")
        unique[path] = job
    return list(unique.values())
