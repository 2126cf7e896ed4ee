"""`fsbench compare`: from a question about methods to a verdict."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import Parser, words_parser
from fsbench.compare.plan import Comparison, Run, make_comparison, sorted_words
from fsbench.config.compose import Composer
from fsbench.config.primary import COMPARE
from fsbench.errors import Interrupted, UsageError
from fsbench.lines import aligned, say, tell
from fsbench.measuring.cost import Estimator, duration
from fsbench.runs.directory import refuse_unwritable
from fsbench.runs.provenance import command_provenance, trained_with, without_places, write_provenance
from fsbench.stop_signal import StopSignal, stop_signal

_HELP = """\
fsbench compare optimizer=A,B,... [KEY=VALUE ...]: which method is better here, and is the difference more than chance?

  fsbench compare dataset=fashion_mnist model=lenet optimizer=sgd,sam,asam,fsam seeds=8 trials=12 budget=passes
  fsbench compare optimizer=sgd,sam dataset=digits model=mlp plan=true        # runs, hours, what they could show
  fsbench compare optimizer=sgd,sam dataset=digits model=mlp dataset.noise=0.2,0.4 seeds=5 out=results/noise
  fsbench compare optimizer=sgd,sam --arm 'wide: optimizer=sam optimizer.rho=0.5' pairs=[sam-sgd,wide-sam]

Each method gets trials=N of its own hyperparameters, the same number for all: points of a Sobol sequence in the
ranges that it and its base declare (`fsbench list optimizers NAME` shows them), but what the command line gives. The
point with the highest accuracy on images held out is chosen, and trained again on all images with fresh seeds, the same
for all. With trials=0 all have the values of the setup. Equal epochs favour methods of two passes, equal passes those
of one: budget=both shows the two.

Beside the options below:
  KEY=A,B            a key with several values (dataset.noise=0.2,0.4): the methods are compared in each setting
  GROUP=NAME, GROUP.KEY=VALUE (trainer.epochs=3)   change every run; what is given is not searched
  search.KEY=[LOW,HIGH]                            another range, such as search.optimizer.rho=[0.01,0.2]
  --arm 'NAME: KEY=VALUE ...'                      a method with options of its own; may be given several times
  executor=ray|slurm, executor.KEY=VALUE           runs side by side; fsbench train executor=ray --help shows the keys
  --config-dir DIR   config groups of your own     --format json   the tables for programs

Runs are those of `fsbench train`, in runs_dir; what is finished is not done again, and the same command goes on where
it was interrupted. The tables go to stdout, and with out=DIR to comparison.md, runs.csv, means.csv, verdicts.csv,
trials.csv and provenance.json there.
Exit codes: 0 done, 2 bad input, 3 some runs failed, 130 interrupted.
Also: --cfg job (show the options), --version.

Options:

"""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_intermixed_args(list(arguments))
    composer = Composer(options.config_dir)
    if options.help:
        print(_HELP + composer.text([], primary=COMPARE), end="")
        return 0
    if options.cfg:
        own, *_ = sorted_words(options.words)
        print(composer.text(own, primary=COMPARE), end="")
        return 0
    comparison = make_comparison(options.words, options.arm, composer)
    config = comparison.config
    if config.plan and options.format == "json":
        raise UsageError("--format", "json", "not with plan=true, which is for reading")
    if config.plan:
        for line in (*_plan_lines(comparison), *comparison.notes):
            say(line)
        return 0
    for key in ("runs_dir", "out"):
        if (directory := getattr(config, key)) is not None:
            refuse_unwritable(key, Path(directory))
    with stop_signal() as stop:
        failed = _train(comparison, comparison.trials, stop)
        if comparison.searched:
            failed += _train(comparison, comparison.finals, stop)
            _show(comparison, options)
    if failed:
        tell(f"fsbench: {failed} runs failed; the same command goes on with what is missing")
    return 3 if failed else 0


def _parser() -> Parser:
    parser = words_parser("fsbench compare")
    parser.add_argument("--arm", action="append", default=[], metavar="NAME: KEY=VALUE ...")
    parser.add_argument("--format", default="markdown", choices=["markdown", "json"])
    return parser


def _train(comparison: Comparison, runs: Sequence[Run], stop: StopSignal) -> int:
    """Train what has not ended; returns how many failed other than by divergence."""
    from fsbench.executors import build_executor
    from fsbench.training.outcome import TrainingTask

    config = comparison.config
    missing = {run.directory.path: run for run in runs if not run.ended}
    executor = build_executor(config.executor, device=config.device, runs_dir=Path(config.runs_dir), stop=stop)
    ended = 0
    try:
        for outcome in executor.run([TrainingTask(run.job) for run in missing.values()]):
            ended += 1
            if isinstance(outcome.failure, UsageError) and ended == 1:
                raise outcome.failure
            tell(f"[{ended}/{len(missing)}] {outcome.line}")
    except Interrupted as failure:
        raise Interrupted(f"{failure} ({ended} of {len(missing)} runs ended)") from None
    return sum(not run.ended for run in missing.values())


def _show(comparison: Comparison, options: argparse.Namespace) -> None:
    """Print what was found, and write it where that was asked for."""
    from fsbench.compare.table import Findings

    findings = Findings(comparison)
    print(json.dumps(findings.as_json, indent=1) if options.format == "json" else findings.text, end="")
    if (out := comparison.config.out) is None:
        return
    arms = [word for arm in options.arm for word in ("--arm", arm)]
    command = shlex.join(["fsbench", "compare", *without_places(options.words), *arms])
    paths = findings.write(Path(out), f"`{command}`")
    trained = trained_with([run.directory for run in (*comparison.trials, *comparison.finals)])
    paths.append(write_provenance(Path(out), command_provenance(command) | trained))
    tell(f"{out}: {' '.join(path.name for path in paths)}")


def _plan_lines(comparison: Comparison) -> list[str]:
    """What would be run, how long it may take, and what so many seeds could show."""
    from fsbench.compare.table import Findings
    from fsbench.report.statistics import LEVEL
    from fsbench.report.verdicts import detectable_effect

    config = comparison.config
    estimator = Estimator(config.device, Path(config.runs_dir))
    rows: list[tuple[str, ...]] = [("method", "trials", "seeds", "to train", "steps", "passes", "a run")]
    seconds = 0.0
    for cell in comparison.cells:
        cost = estimator.training(cell.job.config)
        finals = list(comparison.runs(cell).values()) if cell.searched else []
        left = len(cell.trials) + config.seeds - sum(run.ended for run in (*(run for _, run in cell.trials), *finals))
        seconds += left * cost.seconds
        steps = "?" if cost.steps is None else f"{cost.steps:,}"
        counts = (len(cell.trials), config.seeds, left, steps, f"{cell.passes:g}", duration(cost.seconds))
        rows.append((str(cell), *map(str, counts)))
    lines = [*aligned(rows, right=range(1, len(rows[0])))]
    lines.append(f"about {duration(seconds)} in all; speed assumed where no run is finished: {estimator.basis}")
    count = len(comparison.compared)
    effect = detectable_effect(config.seeds, LEVEL / count)
    lines.append(
        f"{count} comparisons of {config.seeds} seeds each show, with 80 % power, a difference of {effect:.2f} times "
        "the standard deviation that differences between two methods have over seeds"
    )
    if comparison.searched:
        known = [row for row in Findings(comparison).verdicts.to_dict("records") if not math.isnan(row["std"])]
        settings = list(comparison.cells[0].setting)
        for row in known:
            where = " ".join([row["comparison"], *(f"{key}={row[key]}" for key in settings)])
            lines.append(f"  {where}: {effect * row['std']:.4f} by the {row['n']} seeds there are")
    return lines
