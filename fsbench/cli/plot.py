"""`fsbench plot`: curves of finished runs, or one point a run, as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fsbench.cli.flags import runs_parser
from fsbench.config.load import short_value
from fsbench.errors import UsageError, did_you_mean
from fsbench.lines import say, tell
from fsbench.measuring.measures import MEASURES, measure_of
from fsbench.report.style import BANDS, UNDATED

_ENDINGS = (".svg", ".png", ".pdf")


def main(arguments: Sequence[str]) -> int:
    parser = runs_parser(
        "fsbench plot",
        description="Draws finished runs: curves over epochs, means over a configuration key, or one point a run.",
        epilog="--x decides. A configuration key (optimizer.rho): the mean of --y over runs is drawn at each of its "
        "values, with a band. Another column that has one number a run, a result (test_accuracy) or a measure "
        "(hessian_trace): each run is a point. A column of metrics.jsonl (epoch): the mean of --y over runs is drawn "
        "epoch by epoch, with a band. An axis other than that of epochs is logarithmic where its values are positive "
        "and a factor of 100 apart. "
        "Example: fsbench plot runs --x epoch --y test_accuracy --by optimizer -o curves.svg",
    )
    parser.add_argument("--x", required=True, help="column along the horizontal axis")
    parser.add_argument("--y", required=True, help="column along the vertical axis")
    parser.add_argument("--by", default="", help="keys whose values are told apart, such as model,optimizer")
    bands = "; ".join(f"{name}: {words}" for name, words in BANDS.items())
    parser.add_argument("--band", default="stderr", choices=list(BANDS), help=f"{bands} (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, a name in .svg, .png or .pdf")
    options = parser.parse_intermixed_args(list(arguments))
    x, y, output = options.x, options.y, options.output
    if output.suffix not in _ENDINGS:
        raise UsageError("-o", output, f"must end in one of {', '.join(_ENDINGS)}")

    import pandas as pd

    from fsbench.report.curves import draw_runs
    from fsbench.report.runs_table import matches, mixed_keys, names_in
    from fsbench.report.style import style
    from fsbench.runs.atomic import atomic_path
    from fsbench.runs.records import read_records

    by = names_in(options.by)
    records = read_records(options.runs)
    rows = records.rows
    if not rows:
        raise UsageError("runs", " ".join(map(str, options.runs)), records.none_finished)
    keys = dict.fromkeys([*records.choices, *records.configuration])
    columns = dict.fromkeys(key for row in rows for key in row)
    for option, name, given in [("--by", name, name) for name in by] + [
        ("--where", condition.partition("=")[0], condition) for condition in options.where
    ]:
        if name not in columns:
            raise _unknown(option, given, name, keys, columns)
    for condition in options.where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise UsageError("--where", condition, "must read KEY=VALUE")
        rows = [row for row in rows if matches(row.get(key), value)]
        if not rows:
            raise UsageError("--where", condition, f"none of {len(records.rows)} finished runs is like that")

    found = [(row, row) for row in rows]
    results = [key for key in columns if key not in keys and key != "run"]
    of_epochs: dict[str, None] = {}
    if curve := x not in columns:
        found = [(row, epoch) for row in rows for epoch in _metrics(row["run"])]
        of_epochs = dict.fromkeys(key for _, epoch in found for key in epoch)
        if x not in of_epochs:
            raise _unknown("--x", x, x, [*of_epochs, *results], [*of_epochs, *columns])
    if y not in (of_epochs if curve else columns):
        raise _unknown("--y", y, y, of_epochs if curve else results, of_epochs if curve else columns)
    try:
        points = pd.DataFrame(
            {
                "run": [row["run"] for row, _ in found],
                "line": [", ".join(short_value(row.get(name)) for name in by) for row, _ in found],
                "step": [point.get("epoch") if curve else point.get(x) for _, point in found],
                "x": pd.to_numeric([point.get(x) for _, point in found]),
                "y": pd.to_numeric([point.get(y) for _, point in found]),
            }
        )
    except (ValueError, TypeError):
        raise UsageError("--x", f"{x} --y={y}", "both must be numbers; others go with --by") from None
    points = points.replace([float("inf"), float("-inf")], float("nan")).dropna(subset=["x", "y"])
    if points.empty:
        raise UsageError("--y", y, f"no run has both {x} and {y}")
    averaged = curve or x in keys
    drawn, caption = draw_runs(points, (x, y), ", ".join(by), options.band if averaged else None)
    with style():
        drawn.supxlabel("\n".join(textwrap.wrap(caption, 85)), fontsize=6.5, color="0.35")
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(output) as part:
            drawn.savefig(part, format=output.suffix[1:], metadata=UNDATED[output.suffix[1:]])
    say(f"{output}: {caption}")
    if lacking := len(rows) - points["run"].nunique():
        tell(f"note: {lacking} of {len(rows)} runs are left out, which lack {x} or {y}")
    if averaged:
        for key, values in mixed_keys(rows, [*by, x], records.choices, records.configuration).items():
            tell(f"note: a line averages runs that differ in {key} ({', '.join(values)}); add it to --by")
    if records.left_out:
        tell(f"note: runs left out because they are not finished: {records.left_out}")
    return 0


def _metrics(run: str) -> list[dict[str, Any]]:
    from fsbench.runs.directory import RunDirectory
    from fsbench.runs.read import Unreadable

    try:
        return RunDirectory(Path(run)).read_metrics()
    except Unreadable as failure:
        tell(f"note: {failure}")
        return []


def _unknown(option: str, given: str, name: str, listed: Iterable[str], columns: Iterable[str]) -> UsageError:
    """There is no such column: one that is near, what measures it if it is a measure, and those that there are."""
    there = f"; there are {', '.join(listed)}"
    if (short := MEASURES.get(name)) is not None and short.column in columns:
        return UsageError(option, given, f"no such column; the measure's is {short.column}")
    if (measure := measure_of(name) or short) is not None:
        command = f"`fsbench sharpness -m 'run=glob(runs/*)' measures=[{measure.name}]` does it"
        return UsageError(option, given, f"no run there was measured, {command}{there}")
    return UsageError(option, given, f"no such column{did_you_mean(name, columns)}{there}")
