"""`fsbench table RUNS`: finished runs as a table on stdout; what it leaves out or mixes on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsbench.cli.flags import runs_parser
from fsbench.errors import UsageError, did_you_mean
from fsbench.lines import printable, shortened, tell
from fsbench.measuring.measures import MEASURES, Measure, measure_of

if TYPE_CHECKING:
    from fsbench.runs.records import Records

_DEVIATION = "note: ± is the standard deviation over runs; a run's own standard errors are in its sharpness.json"
# Runs that a suggested command names one by one.
_NAMED = 8
COLUMNS = "test_accuracy,train_accuracy,generalization_gap,test_loss"


def main(arguments: Sequence[str]) -> int:
    parser = runs_parser(
        "fsbench table",
        description="Mean and sample standard deviation over seeds of finished runs.",
        epilog="Keys: dataset, model, optimizer, any configuration key (optimizer.rho), any result of summary.json, "
        "any measure of fsbench sharpness (`fsbench list measures`): --columns test_accuracy,minimum_sharpness",
    )
    parser.add_argument("--by", default="dataset,model,optimizer", help="keys of a line (default: %(default)s)")
    parser.add_argument("--columns", default=COLUMNS, help="results to show (default: %(default)s)")
    parser.add_argument("--format", default="markdown", choices=["markdown", "csv", "latex", "json"])
    options = parser.parse_intermixed_args(list(arguments))

    from fsbench.report import runs_table
    from fsbench.runs.records import read_records

    by = runs_table.names_in(options.by)
    columns = [name for name in runs_table.names_in(options.columns) if name not in by]
    for option, names, given in (("--by", by, options.by), ("--columns", columns, options.columns)):
        if not names:
            raise UsageError(option, given, "names nothing; see fsbench table --help")
    conditioned = [condition.partition("=")[0] for condition in options.where]
    records = read_records(options.runs, asked=[*by, *columns, *conditioned])
    rows = chosen(records.rows, options.where)
    if not rows:
        problem = records.none_finished + _without_runs(options.runs)
        raise UsageError("runs", " ".join(map(str, options.runs)), problem)
    for option, names in (("--by", by), ("--columns", columns)):
        for name in names:
            refuse_short_name(option, name, name)
    for name in by:
        if measure_of(name) is not None:
            raise UsageError("--by", name, "is a measure, which hardly any two runs share; name it in --columns")
    measures = [name for name in columns if measure_of(name) is not None]
    absent = runs_table.lacking(rows, measures, records.measured)
    for name, count in absent.items():
        if count == len(rows):
            command = _command(rows, [name], listed=bool(options.where))
            raise UsageError("--columns", name, f"no run was measured; {command} does it")
    known = [measure.column for measure in MEASURES.values() if measure.has(measure.column)]
    print(
        printable(runs_table.formatted(runs_table.aggregate(rows, by, columns, known), options.format, by, columns)),
        end="",
    )
    for key, values in runs_table.mixed_keys(rows, by, records.choices, records.configuration).items():
        tell(f"note: a line averages runs that differ in {key} ({', '.join(values)}); add it to --by")
    tell_mixed(rows, by, measures, records)
    if absent:
        lack = ", ".join(f"{count} of {len(rows)} runs lack {name}" for name, count in absent.items())
        lacks = [row for row in rows if any(name not in records.measured[row["run"]] for name in absent)]
        command = _command(lacks, list(absent), listed=bool(options.where))
        tell(f"note: {lack}; {command} measures them")
    if measures:
        tell(_DEVIATION)
    if unreadable := [str(path) for path in records.unreadable]:
        more = f" and {len(unreadable) - 2} more" if len(unreadable) > 2 else ""
        tell(f"note: unreadable: {', '.join(unreadable[:2])}{more}")
    if records.left_out:
        tell(f"note: runs left out because they are not finished: {records.left_out}")
    return 0


def chosen(rows: list[dict[str, Any]], conditions: Sequence[str]) -> list[dict[str, Any]]:
    """The rows that meet all conditions `KEY=VALUE`.

    Raises:
        UsageError: no run has such a key, or none of those that there are is like that.
    """
    from fsbench.report.runs_table import matches

    count = len(rows)
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals:
            raise UsageError("--where", condition, "must read KEY=VALUE")
        if rows and not any(key in row for row in rows):
            refuse_short_name("--where", key, condition)
            if measure_of(key) is not None:
                raise UsageError("--where", condition, f"no run was measured; {_command(rows, [key])} does it")
            raise UsageError("--where", condition, f"no run has such a key{did_you_mean(key, rows[0])}")
        rows = [row for row in rows if matches(row.get(key), value)]
    if count and not rows:
        raise UsageError("--where", " ".join(conditions), f"none of {count} finished runs is like that")
    return rows


def tell_mixed(rows: list[dict[str, Any]], by: Sequence[str], measures: Sequence[str], records: Records) -> None:
    """Say on stderr in what settings the measures of these rows differ, and which of them stand for others."""
    from fsbench.report import runs_table

    within, across = runs_table.mixed_settings(rows, by, measures, records.measured)
    for name, settings in within.items():
        tell(f"note: a line averages {name} measured with different settings: {_settings_text(settings)}")
    for name, settings in across.items():
        tell(f"note: {name}: lines were measured with different settings: {_settings_text(settings)}")
    for line in runs_table.substitutes(rows, measures, records.measured):
        tell(f"note: {shortened(line)}")


def _settings_text(settings: dict[str, list[str]]) -> str:
    return "; ".join(f"{key} ({', '.join(values)})" for key, values in settings.items())


def refuse_short_name(option: str, name: str, value: str) -> None:
    """Raise UsageError for `minimum`, which tables have as minimum_sharpness."""
    if (measure := MEASURES.get(name)) is not None and measure_of(name) is None:
        column = measure.column if measure.has(measure.column) else f"{name}_accuracy_ALPHA and {name}_loss_ALPHA"
        raise UsageError(option, value, f"tables have it as {column}")


def _without_runs(roots: list[Path]) -> str:
    """Where the numbers of networks are that are no runs, if there are any."""
    from fsbench.runs.records import networks

    if not (found := [place for root in roots for place in networks(root)]):
        return ""
    there, more = ("is a network", "") if len(found) == 1 else (f"are {len(found)} networks", ", ...")
    return f"; there {there} without a run, whose numbers are in {found[0]}/sharpness.json{more}"


def _command(rows: list[dict[str, Any]], columns: list[str], *, listed: bool = False) -> str:
    """The command that measures the columns for all runs beside these; `listed`: for these alone if they are few."""
    parents = sorted({str(Path(row["run"]).parent) for row in rows})
    patterns = ",".join(f"{parent}/*" for parent in parents)
    runs = f"'run=glob({patterns if len(parents) == 1 else f'[{patterns}]'})'"
    if listed and len(rows) <= _NAMED:
        runs = f"run={','.join(row['run'] for row in rows)}"
    measures = {measure.name: measure for column in columns if (measure := measure_of(column)) is not None}
    options = "".join(_named_by(measure, columns) for measure in measures.values())
    return f"`fsbench sharpness -m {runs} measures=[{','.join(measures)}]{options}`"


def _named_by(measure: Measure, columns: list[str]) -> str:
    """The option that the columns are named by: ` alphas=[0.5,7]`, ` eigenvalues=3`."""
    named = dict.fromkeys(found for column in columns if (found := measure.named_in(column)) is not None)
    if not named:
        return ""
    value = max(named, key=int) if measure.named_by == "eigenvalues" else f"[{','.join(named)}]"
    return f" {measure.named_by}={value}"
