"""`fsbench table RUNS`: finished runs as a table on stdout; what it leaves out or mixes on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsbench.cli.flags import Parser
from fsbench.errors import UsageError, did_you_mean
from fsbench.measuring.measures import MEASURES, measure_of

_COLUMNS = "test_accuracy,train_accuracy,generalization_gap,test_loss"


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="fsbench table",
        description="Mean and sample standard deviation over seeds of finished runs.",
        epilog="Keys: dataset, model, optimizer, any configuration key (optimizer.rho), any result of summary.json, "
        "any measure of fsbench sharpness (`fsbench list measures`): --columns test_accuracy,minimum_sharpness",
    )
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="directories (default: runs)")
    parser.add_argument("--by", default="dataset,model,optimizer", help="keys of a line (default: %(default)s)")
    parser.add_argument("--columns", default=_COLUMNS, help="results to show (default: %(default)s)")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this value")
    parser.add_argument("--format", default="markdown", choices=["markdown", "csv", "latex"])
    options = parser.parse_intermixed_args(list(arguments))

    from fsbench.report.aggregate import aggregate, mixed_keys
    from fsbench.report.formats import FORMATS
    from fsbench.report.measured import lacking, mixed_settings, refusals
    from fsbench.runs.records import read_records

    records = read_records(options.runs)
    rows = records.rows
    for condition in options.where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise UsageError("--where", condition, "must read KEY=VALUE")
        if rows and not any(key in row for row in rows):
            raise UsageError("--where", condition, f"no run has such a key{did_you_mean(key, rows[0])}")
        rows = [row for row in rows if _matches(row.get(key), value)]
    left_out = ", ".join(f"{count} {status}" for status, count in sorted(records.unfinished.items()))
    if not rows:
        if records.rows:
            raise UsageError(
                "--where", " ".join(options.where), f"none of {len(records.rows)} finished runs is like that"
            )
        where = " ".join(map(str, options.runs))
        raise UsageError("runs", where, "no finished run there" + (f" ({left_out})" if left_out else ""))
    by = _names(options.by)
    columns = [name for name in _names(options.columns) if name not in by]
    measures = [name for name in [*columns, *by] if measure_of(name) is not None]
    for name in columns:
        if name in MEASURES and measure_of(name) is None:
            raise UsageError("--columns", name, f"tables have it as {MEASURES[name].column}")
    absent = lacking(rows, measures, records.measured)
    for name, count in absent.items():
        if count == len(rows):
            option = "--by" if name in by else "--columns"
            raise UsageError(option, name, f"no run was measured; {_command(rows, [name])} does it")
    known = [measure.column for measure in MEASURES.values()]
    print(FORMATS[options.format](aggregate(rows, by, columns, known), by, columns), end="")
    for key, values in mixed_keys(rows, by, records.choices, records.configuration).items():
        print(f"note: a line averages runs that differ in {key} ({', '.join(values)}); add it to --by", file=sys.stderr)
    for name, settings in mixed_settings(rows, by, measures, records.measured).items():
        shown = "; ".join(f"{key} ({', '.join(values)})" for key, values in settings.items())
        print(f"note: a line averages {name} measured with different settings: {shown}", file=sys.stderr)
    for line in refusals(rows, measures, records.measured):
        print(f"note: {line}", file=sys.stderr)
    if absent:
        shown = ", ".join(f"{count} of {len(rows)} runs lack {name}" for name, count in absent.items())
        lacks = [row for row in rows if any(name not in records.measured[row["run"]] for name in absent)]
        print(f"note: {shown}; {_command(lacks, list(absent))} measures them", file=sys.stderr)
    if left_out:
        print(f"note: runs left out because they are not finished: {left_out}", file=sys.stderr)
    return 0


def _command(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """What measures the columns for all runs beside these."""
    parents = sorted({str(Path(row["run"]).parent) for row in rows})
    patterns = ",".join(f"{parent}/*" for parent in parents)
    pattern = patterns if len(parents) == 1 else f"[{patterns}]"
    names = dict.fromkeys(measure.name for column in columns if (measure := measure_of(column)))
    return f"`fsbench sharpness -m 'run=glob({pattern})' measures=[{','.join(names)}]`"


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _matches(value: object, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value).lower() == wanted.lower() or (value is None and wanted == "null")
