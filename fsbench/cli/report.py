"""`fsbench report`: finished runs and written tables as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import Parser
from fsbench.cli.table import COLUMNS, chosen
from fsbench.errors import UsageError, did_you_mean
from fsbench.lines import say, tell


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="fsbench report",
        description="One HTML file of finished runs (means, learning curves, measures, what they were made of), and of "
        "tables that fsbench wrote, such as results/. It fetches nothing.",
        epilog="Example: fsbench report study -o study.html",
    )
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="directories (default: runs)")
    parser.add_argument(
        "--by", help="keys of a line of the means (default: dataset, model, optimizer, and what the runs differ in)"
    )
    parser.add_argument("--columns", default=COLUMNS, help="results to show (default: %(default)s)")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this value")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="the file (default: %(default)s)"
    )
    options = parser.parse_intermixed_args(list(arguments))
    output: Path = options.output
    if output.suffix not in (".html", ".htm"):
        raise UsageError("-o", output, "must end in .html")

    from fsbench.report import runs_table
    from fsbench.report.page import page, written_tables
    from fsbench.runs.atomic import write_text
    from fsbench.runs.directory import refuse_unwritable
    from fsbench.runs.records import read_records

    refuse_unwritable("-o", output.parent)
    records = read_records(options.runs)
    rows = chosen(records.rows, options.where)
    tables = {root: written_tables(root) for root in options.runs}
    for root, found in tables.items():
        if not found and not any(Path(row["run"]).is_relative_to(root) for row in records.rows):
            raise UsageError("runs", root, f"{records.none_finished}, and no table")
    if not rows and options.where:
        raise UsageError("--where", " ".join(options.where), f"none of {len(records.rows)} finished runs is like that")
    axes = runs_table.differing(rows, records.choices, records.configuration) if rows else {}
    default = ["dataset", "model", "optimizer", *(key for keys in axes.values() for key in keys)]
    by = runs_table.names_in(options.by) if options.by else list(dict.fromkeys(default))
    columns = [name for name in runs_table.names_in(options.columns) if name not in by]
    for option, names in (("--by", by), ("--columns", columns)):
        for name in names if rows else ():
            if not any(name in row for row in rows):
                known = dict.fromkeys(key for row in rows for key in row)
                raise UsageError(option, name, f"no run has such a key{did_you_mean(name, known)}")
    shown = [place for found in tables.values() for place in found]
    title = ", ".join(root.resolve().name for root in options.runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, page(title, records, rows, shown, output, by, columns))
    say(f"{output}: {len(rows)} runs, {len(shown)} tables, {output.stat().st_size / 1e6:.1f} MB")
    if records.left_out:
        tell(f"note: runs left out because they are not finished: {records.left_out}")
    return 0
