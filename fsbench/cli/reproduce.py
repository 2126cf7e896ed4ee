"""`fsbench reproduce`: the papers' tables and figures."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fsbench.cli.flags import Parser, words_parser
from fsbench.config.compose import Composer
from fsbench.config.primary import REPRODUCE
from fsbench.errors import Diverged, Interrupted, UsageError, one_line, traceback_wanted
from fsbench.executors import build_executor
from fsbench.executors.executor import Executor
from fsbench.lines import say, tell
from fsbench.measuring.cost import Estimator
from fsbench.papers import add_papers, artefacts
from fsbench.papers.artefact import SCALES, Artefact, Computed
from fsbench.reproduce.computed import compute_artefact, computed_cuts, is_computed, options_of
from fsbench.reproduce.listing import list_lines, plan_lines, runs_left
from fsbench.reproduce.plan import Plan, deciding, make_plan
from fsbench.reproduce.request import Request, read_request
from fsbench.reproduce.run import RunOutcome, RunTask, missing_tasks
from fsbench.reproduce.write import refuse_smaller, write_artefact
from fsbench.runs.directory import refuse_unwritable
from fsbench.runs.provenance import without_places
from fsbench.stop_signal import at_once, stop_signal

_HELP = """\
fsbench reproduce ARTEFACT ... [KEY=VALUE ...]: the papers' tables and figures, published numbers beside measured ones.

  fsbench reproduce list                                        # what there is, and how many runs it takes
  fsbench reproduce kim2022/table1 scale=paper plan=true          # every run, its steps and hours; nothing is started
  fsbench reproduce kim2022/table1 scale=small model=resnet20,wrn28_2 seeds=3
  fsbench reproduce jia2020/table3 ibayashi2021/fig1 'tsuzuku2019/*' kim2022
  fsbench reproduce kim2022/table1 scale=tiny render=true         # draws again from the runs on disk, trains nothing
  fsbench reproduce kim2022/table4 dataset=folder dataset.root=DIR stands_for=cifar10     # a copy of CIFAR-10

Beside the options below:
  AXIS=A,B           restricts an axis of the artefact, such as model=, optimizer=, dataset.noise=
  dataset=NAME       other images; stands_for=NAME keeps the paper's numbers beside them, and its tuned settings
  GROUP=NAME, GROUP.KEY=VALUE (trainer.epochs=3)  change every run
  sharpness.KEY=VALUE (sharpness.samples=100)     change how it is measured
  executor=ray|slurm, executor.KEY=VALUE         runs side by side; fsbench train executor=ray --help shows the keys
  --papers DIR       tables and figures of your own: DIR/<paper>.py with a tuple ARTEFACTS; the files are run as Python
  --config-dir DIR   config groups of your own, such as DIR/experiment/mine.yaml for what such a paper runs

Runs are those of `fsbench train`, in runs_dir; what is finished and measured is not done again, and the same command
goes on where it was interrupted. A run that fails leaves a gap with its reason. Whatever was cut (epochs, images,
seeds, cells, data set) is said in the caption. Files go to results_dir/<paper>/<artefact>/.
Exit codes: 0 done, 2 bad input, 3 some runs failed, 130 interrupted.
Also: --cfg job (show the options), --version.

Options:

"""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_intermixed_args(list(arguments))
    own = [word for word in options.words if "=" in word]
    composer = Composer(options.config_dir)
    if options.help:
        print(_HELP + composer.text([], primary=REPRODUCE), end="")
        return 0
    if options.cfg:
        print(composer.text(own, primary=REPRODUCE), end="")
        return 0
    for directory in options.papers:
        add_papers(Path(directory))
    known = artefacts()
    if "list" in options.words:
        return _list(known, [word for word in options.words if word != "list"], composer)
    request = read_request(options.words, known, composer)

    def plan() -> list[Plan]:
        return [make_plan(one, request, composer) for one in request.artefacts if isinstance(one, Artefact)]

    command = shlex.join(["fsbench", "reproduce", *without_places(options.words)])
    if request.config.plan:
        return _show(plan(), request)
    work = _Work(request, plan, command)
    if request.config.render:
        return work.render()
    with stop_signal() as stop:
        config = request.config
        return work.run(
            build_executor(config.executor, device=config.device, runs_dir=Path(config.runs_dir), stop=stop)
        )


def _parser() -> Parser:
    parser = words_parser("fsbench reproduce")
    parser.add_argument("--papers", action="append", default=[], metavar="DIR")
    return parser


def _list(known: dict[str, Artefact | Computed], words: Sequence[str], composer: Composer) -> int:
    named = [word for word in words if "=" not in word]
    request = read_request(words if named else [*words, *known], known, composer)
    config = request.config
    scales = (config.scale,) if any(word.startswith("scale=") for word in words) else SCALES
    for line in list_lines(request.artefacts, scales, Path(config.results_dir)):
        say(line)
    return 0


def _show(plans: Sequence[Plan], request: Request) -> int:
    for artefact in request.artefacts:
        if isinstance(artefact, Computed):
            say(f"{artefact.name}, scale={request.config.scale}: {artefact.title}: computed, no training")
            for sentence in computed_cuts(artefact, options_of(artefact, request)):
                say(f"  {sentence}")
    for line in plan_lines(plans, Estimator(request.config.device, Path(request.config.runs_dir))):
        say(line)
    return 0


@dataclass
class _Work:
    """A request and what became of it.

    Args:
        plan: makes the plans, anew once the runs that decide on values of others have ended.
    """

    request: Request
    plan: Callable[[], list[Plan]]
    command: str
    failed: int = 0
    busy: int = 0
    reasons: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plans = self.plan()

    def directory(self, artefact: Artefact | Computed) -> Path:
        return Path(self.request.config.results_dir) / artefact.name

    def render(self) -> int:
        """Draw again what was asked for, from the runs that are there."""
        self._refuse()
        if not any(run.finished for plan in self.plans for run in plan.runs):
            names = ", ".join(artefact.name for artefact in self.request.artefacts)
            raise UsageError("render", "true", f"no run of {names} is finished at scale={self.request.config.scale}")
        for plan in self.plans:
            self._write(plan)
        for artefact in self.request.artefacts:
            if isinstance(artefact, Computed):
                say(f"{artefact.name}: computed, not drawn from runs; without render=true it is computed")
        return 0

    def run(self, executor: Executor) -> int:
        """Compute, train and measure what is missing, and write each artefact as soon as its last run has ended."""
        self._refuse()
        for artefact in self.request.artefacts:
            if isinstance(artefact, Computed):
                self._compute(artefact)
        config = self.request.config
        if config.executor.name == "serial" and config.device == "cuda" and missing_tasks(self.plans):
            self._refuse_absent_device()
        self._carry_out(executor, [plan for plan in self.plans if not plan.waits])
        if waiting := {plan.artefact.name for plan in self.plans if plan.waits}:
            self.plans = self.plan()
            self._carry_out(executor, [plan for plan in self.plans if plan.artefact.name in waiting])
            for plan in self.plans:
                # Values that could not be chosen after all.
                for reason in dict.fromkeys(run.waits for run in plan.runs if run.waits):
                    self.failed += 1
                    tell(f"{plan.artefact.name}: {reason}")
        counts = {"failed": self.failed, "busy in another process": self.busy}
        if not any(counts.values()):
            return 0
        ended = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
        tell(f"fsbench: {ended}; the same command goes on with what is missing")
        return 3

    def _carry_out(self, executor: Executor, plans: Sequence[Plan]) -> None:
        """Run what is missing; each of these plans is written as soon as its last run has ended."""
        tasks = [task for task in missing_tasks(self.plans) if task.directory.path not in self.reasons]
        candidates = deciding(self.plans)
        left, unwritten = {task.directory.path for task in tasks}, list(plans)
        outcomes: list[RunOutcome] = []

        def write_complete() -> None:
            for plan in list(unwritten):
                if left.isdisjoint(run.directory.path for run in (*plan.runs, *plan.deciding)):
                    self._write(plan)
                    unwritten.remove(plan)

        write_complete()
        try:
            for outcome in executor.run(tasks):
                path = outcome.task.directory.path
                outcomes.append(outcome)
                self._refuse_bad_input(outcomes, tasks)
                tell(f"[{len(outcomes)}/{len(tasks)}] {outcome.line}")
                if outcome.busy:
                    self.busy += 1
                    self.reasons[path] = outcome.reason
                elif outcome.reason and not (path in candidates and isinstance(outcome.trained.failure, Diverged)):
                    self.failed += 1
                    self.reasons[path] = outcome.reason
                left.discard(path)
                write_complete()
        except Interrupted as failure:
            raise Interrupted(f"{failure} ({runs_left(self.plans)})") from None

    def _refuse(self) -> None:
        """See that all can be written and nothing larger is overwritten, before anything is begun."""
        for key in ("results_dir", "runs_dir"):
            refuse_unwritable(key, Path(getattr(self.request.config, key)))
        for artefact in self.request.artefacts:
            refuse_smaller(self.directory(artefact), artefact.name, self.request.config.scale)

    def _refuse_absent_device(self) -> None:
        """Raise UsageError where there is no CUDA device: no run could be trained."""
        from fsbench.distributed.devices import build_device

        try:
            build_device("cuda")
        except UsageError as failure:
            raise UsageError("device", failure.value, failure.problem) from None

    def _refuse_bad_input(self, outcomes: Sequence[RunOutcome], tasks: Sequence[RunTask]) -> None:
        """Raise UsageError where there is nothing to show but bad input: at once if no run has other images."""
        failure = outcomes[0].trained.failure
        last = len(outcomes) == len(tasks) or (outcomes[0].no_data and len({task.data for task in tasks}) == 1)
        finished = any(run.finished for plan in self.plans for run in plan.runs)
        if last and not finished and isinstance(failure, UsageError):
            raise failure

    def _write(self, plan: Plan) -> None:
        name = plan.artefact.name
        done = sum(run.finished for run in plan.runs)
        if not done:
            say(f"{name}: no run is finished, nothing to show")
            return
        paths = write_artefact(plan, self.directory(plan.artefact), self.command, self.reasons)
        _say_written(name, f"{done} of {len(plan.runs)} runs", paths)

    def _compute(self, artefact: Computed) -> None:
        directory = self.directory(artefact)
        if is_computed(artefact, options_of(artefact, self.request), directory):
            say(f"{artefact.name}: already computed, in {directory} (remove that directory to compute it again)")
            return

        def progress(line: str) -> None:
            if self.request.config.progress:
                tell(f"{artefact.name}: {line}")

        try:
            with at_once():
                paths = compute_artefact(artefact, self.request, directory, progress, self.command)
        except KeyboardInterrupt:
            raise Interrupted(f"{artefact.name}: interrupted; the same command begins it again") from None
        except UsageError:
            raise
        except Exception as failure:
            if traceback_wanted():
                traceback.print_exc()
            self.failed += 1
            say(f"{artefact.name}: failed, {one_line(failure)}")
            return
        _say_written(artefact.name, "computed", paths)


def _say_written(name: str, what: str, paths: Sequence[Path]) -> None:
    say(f"{name}: {what}; {paths[0].parent}: {' '.join(path.name for path in paths)}")
