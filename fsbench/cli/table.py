"""`fsbench table RUNS`: finished runs as a table on stdout; what it leaves out or mixes on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import Parser
from fsbench.errors import UsageError, did_you_mean

_COLUMNS = "test_accuracy,train_accuracy,generalization_gap,test_loss"


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="fsbench table",
        description="Mean and sample standard deviation over seeds of finished runs.",
        epilog="Keys: dataset, model, optimizer, any configuration key (optimizer.rho), any result of summary.json.",
    )
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="directories (default: runs)")
    parser.add_argument("--by", default="dataset,model,optimizer", help="keys of a line (default: %(default)s)")
    parser.add_argument("--columns", default=_COLUMNS, help="results to show (default: %(default)s)")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this value")
    parser.add_argument("--format", default="markdown", choices=["markdown", "csv", "latex"])
    options = parser.parse_intermixed_args(list(arguments))

    from fsbench.report.aggregate import aggregate, mixed_keys
    from fsbench.report.formats import FORMATS
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
    print(FORMATS[options.format](aggregate(rows, by, columns), by, columns), end="")
    for key, values in mixed_keys(rows, by, records.choices, records.configuration).items():
        print(f"note: a line averages runs that differ in {key} ({', '.join(values)}); add it to --by", file=sys.stderr)
    if left_out:
        print(f"note: runs left out because they are not finished: {left_out}", file=sys.stderr)
    return 0


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _matches(value: object, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value).lower() == wanted.lower() or (value is None and wanted == "null")
