"""`fsbench sharpness`: the measures of one network, or of a sweep of runs."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fsbench import __version__
from fsbench.cli.flags import parse_composed, show_instead
from fsbench.config.compose import Job, compose_jobs
from fsbench.config.primary import SHARPNESS
from fsbench.errors import Interrupted, UsageError, failing_in_a_line, one_line, traceback_wanted
from fsbench.lines import say, tell
from fsbench.measuring.measures import Measure, chosen_measures

if TYPE_CHECKING:
    from fsbench.config.sharpness import SharpnessConfig
    from fsbench.measuring.record import Entry, Record
    from fsbench.measuring.source import Source

HELP = """\
fsbench sharpness [-m] [KEY=VALUE ...]: how sharp the minimum of a trained network is, by the papers' measures.

What to measure: a finished run, or any network on any data set
  run=runs/<id>
  model= dataset=            with model.checkpoint=FILE, or model=timm model.name=NAME model.pretrained=true
Keys people reach for (`fsbench list measures` shows the measures with a line each):
  measures=[...]  samples=N|null  split=train|subset|test  seed=  dtype=float32|float64  device=auto|cpu|cuda
  memory=GIB  data_dir=  dataset.root=  out=DIR  overwrite=true
Options of single measures
  classes=N (trace: so many sampled classes an image, with a standard error)
  probes= (trace_hutchinson, trace_xtrace)  tolerance= (trace_hutchinson)
  subset_size= subsets= (fisher_determinant, spectral, frobenius_fisher)  logit_norm= (fisher_determinant)
  neighbourhood=sam|asam|fsam rho= eta= ascent_steps= (worst_case)  alphas=[...] (adversarial)
  eigenvalues=K eigenvalue_tolerance= (eigenvalues)
  rho= adaptive=false logit_norm= (average_case, worst_case_apgd)  draws= (the former, pacbayes)
  ball=l2|linf group_size= (worst_case_apgd)  apgd_steps= (worst_case_apgd, epsilon)  epsilon= (epsilon)

  fsbench sharpness run=runs/<id>
  fsbench sharpness run=runs/<id> measures=[minimum,normalized,fisher_determinant] samples=null
  fsbench sharpness -m 'run=glob(runs/*)' measures=[default,adversarial]
  fsbench sharpness model=timm model.name=resnet18 model.pretrained=true dataset=folder dataset.root=DIR
  fsbench sharpness model=resnet20 model.checkpoint=FILE dataset=cifar10
  fsbench table runs --by optimizer --columns test_accuracy,minimum_sharpness

± is one standard error; `Estimate.interval` of the library gives the interval by Student's t.
Images are not augmented, networks are in eval mode, the loss is cross-entropy. Results go into sharpness.json in the
run's directory; what is there is not measured again unless a setting that matters to it differs. Values of several
settings are kept beside each other; tables take those that were asked for last. A measure that is not defined for a
network is refused, says why, and leaves a gap in tables.
Exit codes: 0 done, 1 all refused or a measure failed, 2 bad input, 3 a sweep with failures, 130 interrupted.
Also: --cfg job (show the configuration), --config-dir DIR (groups of your own), --version.

With these choices:

"""


@dataclass(frozen=True)
class SharpnessOutcome:
    """The measures of one network as they came out, and the lines for a reader.

    Status: `measured` (any of it), `already measured`, `refused` (all of it), `failed` (any of it), `not finished`.
    """

    status: str
    lines: list[str]
    # By column, and by measure the reason.
    entries: dict[str, Entry] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


_STATUSES = ("measured", "already measured", "refused", "failed", "not finished")


def main(arguments: Sequence[str]) -> int:
    options = parse_composed("fsbench sharpness", arguments)
    if show_instead(options, HELP, SHARPNESS):
        return 0
    jobs = compose_jobs(options.overrides, multirun=options.multirun, config_dir=options.config_dir, primary=SHARPNESS)
    for job in jobs:
        chosen_measures(job.config.measures)
    if options.multirun:
        return _sweep(jobs)
    outcome = measure_one(jobs[0])
    say("\n".join(outcome.lines))
    return 1 if outcome.status in ("refused", "failed") else 0


def measure_one(job: Job[SharpnessConfig]) -> SharpnessOutcome:
    """Measure one network; raises FsbenchError where it can't be."""
    from fsbench.measuring.source import find_source

    source = find_source(job)
    with failing_in_a_line(source.title):
        return _measured(source, job.config)


def _sweep(jobs: list[Job[SharpnessConfig]]) -> int:
    """Measure one network after the other; what fails does not stop the others, unfinished runs are skipped.

    Returns 0, 1 if every measure of every network was refused, or 3 if anything failed.
    """
    found = _found(jobs)
    outcomes: list[SharpnessOutcome] = []
    try:
        for job, source in zip(jobs, found, strict=True):
            outcomes.append(_outcome_of(source, job.config))
            first, *rest = outcomes[-1].lines
            say("\n".join([f"[{len(outcomes)}/{len(jobs)}] {first}", *rest]))
    finally:
        counts = Counter(outcome.status for outcome in outcomes)
        missing = f", {len(jobs) - len(outcomes)} not begun or interrupted" if len(outcomes) < len(jobs) else ""
        say(", ".join(f"{counts[status]} {status}" for status in _STATUSES) + missing)
    if counts["failed"]:
        tell(f"fsbench: {counts['failed']} of {len(jobs)} failed; the same command measures what is missing")
        return 3
    return 1 if counts["refused"] and not counts["measured"] + counts["already measured"] else 0


def _found(jobs: list[Job[SharpnessConfig]]) -> list[Source | UsageError]:
    """The networks, or why a run can't be measured.

    Raises:
        UsageError: a run that was named does not exist, or no run is finished; nothing was begun.
    """
    from fsbench.measuring.source import Source, Unfinished, find_source

    found: list[Source | UsageError] = []
    for job in jobs:
        try:
            found.append(find_source(job))
        except UsageError as failure:
            if job.config.run is None or not Path(job.config.run).expanduser().is_dir():
                raise
            found.append(failure)
    unfinished = [one for one in found if isinstance(one, Unfinished)]
    if len(unfinished) == len(found):
        states = Counter(one.status for one in unfinished)
        counted = ", ".join(f"{count} {status}" for status, count in sorted(states.items()))
        raise UsageError("run", jobs[0].config.run if len(jobs) == 1 else "...", f"no run is finished ({counted})")
    places: dict[Path, Source] = {}
    for source in found:
        if isinstance(source, Source) and not source.is_run:
            other = places.setdefault(source.directory.path, source)
            if other.described != source.described:
                problem = "several networks or data sets of the sweep would share this directory"
                raise UsageError("out", source.directory.path, problem)
    return found


def _outcome_of(source: Source | UsageError, config: SharpnessConfig) -> SharpnessOutcome:
    from fsbench.measuring.source import Unfinished

    if isinstance(source, Unfinished):
        return SharpnessOutcome("not finished", [f"{source.value}: left out, not finished ({source.status})"])
    if isinstance(source, UsageError):
        return SharpnessOutcome("failed", [f"{source.value}: failed, {source.problem}"])
    try:
        return _measured(source, config)
    except Interrupted:
        raise
    except Exception as failure:
        if traceback_wanted():
            traceback.print_exc()
        return SharpnessOutcome("failed", [f"{source.title}: failed, {one_line(failure)}"])


def _measured(source: Source, config: SharpnessConfig) -> SharpnessOutcome:
    """Measure what is not recorded yet. Needs torch only where there is anything to measure."""
    from fsbench.measuring import display
    from fsbench.measuring.record import Record, answers

    chosen = chosen_measures(config.measures)
    record = Record(source)
    kept = record.kept()
    before = {column: entries[0] for column, entries in kept.items()}
    found = {one.name: None if config.overwrite else answers(one, config, kept, __version__) for one in chosen}
    entries = {column: entry for known in found.values() if known for column, entry in known.items()}
    # Those that were asked for last are the ones that tables take.
    revived = {
        column: entry
        for column, entry in entries.items()
        if entry is not before[column] and ("refused" not in entry or "refused" in before[column])
    }
    if revived:
        record.add(revived)
    missing = [one for one in chosen if found[one.name] is None]
    failed: dict[str, str] = {}
    if missing:
        fresh, failed = _computed(source, config, missing, record)
        entries |= fresh
    asked = {column: entries[column] for one in chosen if one.name not in failed for column in one.columns_of(config)}
    refused = all("refused" in entry for entry in asked.values())
    status = "failed" if failed else "refused" if refused else "measured" if missing else "already measured"
    lines = _lines(source, asked, len(chosen), len(missing))
    if record.unreadable is not None:
        lines.append(f"  note: {record.unreadable}; written anew")
    return SharpnessOutcome(status, lines + display.changes(asked, before, record.read()), asked, failed)


def _computed(
    source: Source, config: SharpnessConfig, missing: list[Measure], record: Record
) -> tuple[dict[str, Entry], dict[str, str]]:
    """New entries by column, and by measure that failed the reason, which is said on stderr.

    Raises Interrupted where a signal came.
    """
    from fsbench.measuring.measures import Failed
    from fsbench.measuring.processes import measure

    entries: dict[str, Entry] = {}
    failed: dict[str, str] = {}
    done = 0
    try:
        for found in measure(source, config, missing, record):
            if isinstance(found, Failed):
                failed[found.measure.name] = found.reason
            else:
                done += 1
                entries |= found
    except KeyboardInterrupt:
        kept = f"{done} of {len(missing)} measures are recorded"
        raise Interrupted(f"{source.title}: interrupted; {kept}, the same command goes on from here") from None
    finally:
        for reason in dict.fromkeys(failed.values()):
            names = ", ".join(name for name, why in failed.items() if why == reason)
            tell(f"fsbench: {source.title}: {names} failed, {reason}")
    return entries, failed


def _lines(source: Source, entries: dict[str, Entry], chosen: int, missing: int) -> list[str]:
    from fsbench.measuring import display

    already = "already measured" if not missing else f"{chosen - missing} of {chosen} already measured"
    parts = [display.images_line(entries)] if entries else []
    parts += [already] if missing < chosen else []
    return [f"{source.title}: {', '.join(parts) or 'nothing measured'}", *display.lines(entries)]
