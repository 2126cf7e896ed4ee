"""`fsbench report`: finished runs and written tables as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import runs_parser
from fsbench.cli.table import COLUMNS, chosen
from fsbench.errors import UsageError
from fsbench.lines import say, tell


def main(arguments: Sequence[str]) -> int:
    parser = runs_parser(
        "fsbench report",
        description="One HTML file of finished runs (means, learning curves, measures, what they were made of), and of "
        "tables that fsbench wrote, such as results/. It fetches nothing.",
        epilog="Example: fsbench report study -o study.html",
    )
    parser.add_argument(
        "--by", help="keys of a line of the means (default: dataset, model, optimizer, and what the runs differ in)"
    )
    parser.add_argument("--columns", default=COLUMNS, help="results to show (default: %(default)s)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="the file (default: %(default)s)"
    )
    options = parser.parse_intermixed_args(list(arguments))
    output: Path = options.output
    if output.suffix not in (".html", ".htm"):
        raise UsageError("-o", output, "must end in .html")

    from fsbench.report.page import page, written_tables
    from fsbench.report.runs_table import names_in
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
    by = names_in(options.by) if options.by else None
    shown = [place for found in tables.values() for place in found]
    title = ", ".join(root.resolve().name for root in options.runs)
    text = page(title, records, rows, shown, output, by, names_in(options.columns))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text)
    say(f"{output}: {len(rows)} runs, {len(shown)} tables, {output.stat().st_size / 1e6:.1f} MB")
    if records.left_out:
        tell(f"note: runs left out because they are not finished: {records.left_out}")
    return 0
