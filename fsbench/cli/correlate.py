"""`fsbench correlate RUNS`: whether measures go with generalization, by Kendall's tau over finished runs."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsbench.cli.flags import runs_parser
from fsbench.cli.table import chosen, refuse_short_name, tell_mixed
from fsbench.errors import UsageError
from fsbench.lines import printable, tell
from fsbench.measuring.measures import measure_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fsbench.report.correlation import RankCorrelation, Tau


def main(arguments: Sequence[str]) -> int:
    parser = runs_parser(
        "fsbench correlate",
        description="Kendall's tau of measures with a result over finished runs: overall, and granulated, that is "
        "within one hyperparameter at a time (Jiang et al. 2020), with bootstrap intervals over seeds.",
        epilog="Example: fsbench correlate study --by optimizer,dataset.noise -o results/mine",
    )
    parser.add_argument("--with", dest="target", default="generalization_gap", metavar="RESULT",
                        help="what measures are to go with (default: %(default)s)")  # fmt: skip
    parser.add_argument("--columns", help="measures, or any column with a number (default: all measures there are)")
    parser.add_argument("--by", metavar="KEYS", help="hyperparameters; those joined by + change together: "
                        "optimizer+optimizer.rho (default: what the runs differ in)")  # fmt: skip
    parser.add_argument("--format", default="markdown", choices=["markdown", "csv", "json"])
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="a directory for table, figure and provenance")
    options = parser.parse_intermixed_args(list(arguments))

    from fsbench.report.correlation import figure_of
    from fsbench.report.runs_table import differing, mixed_keys, names_in, refuse_absent
    from fsbench.report.text import csv_text, json_records
    from fsbench.runs.directory import RunDirectory, refuse_unwritable
    from fsbench.runs.provenance import command_provenance, trained_with, without_places
    from fsbench.runs.records import read_records

    if options.output is not None:
        refuse_unwritable("-o", options.output)
    records = read_records(options.runs)
    rows = chosen(records.rows, options.where)
    if not rows:
        raise UsageError("runs", " ".join(map(str, options.runs)), records.none_finished)
    measures = {name for row in rows for name in records.measured.get(row["run"], {})}
    columns = names_in(options.columns) if options.columns is not None else sorted(measures)
    columns = [name for name in columns if name != options.target]
    if not columns:
        raise UsageError("--columns", options.columns or "(none)", "no run was measured; see fsbench sharpness --help")
    found_in = differing(rows, records.choices, records.configuration)
    by = found_in if options.by is None else _declared(options.by)
    asked = [
        ("--with", options.target),
        *(("--columns", name) for name in columns),
        *(("--by", key) for key in _keys(by)),
    ]
    for option, name in asked:
        refuse_short_name(option, name, name)
        refuse_absent(rows, option, name)
    found = _found(rows, columns, options.target, by)
    frame, text = _frame(found), _text(found)
    texts = {"markdown": text, "csv": csv_text(frame), "json": json.dumps(json_records(frame), indent=1) + "\n"}
    print(printable(texts[options.format]), end="")
    for key, values in mixed_keys(rows, _keys(by), records.choices, records.configuration).items():
        tell(f"note: runs taken for seeds of each other differ in {key} ({', '.join(values)}); add it to --by")
    tell_mixed(rows, _keys(by), [name for name in columns if measure_of(name) is not None], records)
    if records.left_out:
        tell(f"note: runs left out because they are not finished: {records.left_out}")
    if options.output is not None:
        command = shlex.join(["fsbench", "correlate", *without_places(arguments)])
        title = f"Do measures go with the {options.target.replace('_', ' ')}?"
        trained = trained_with(RunDirectory(Path(row["run"])) for row in rows)
        _write(options.output, f"# {title}\n\n`{command}`\n\n{text}", frame, figure_of(found, options.target),
               command_provenance(command) | trained)  # fmt: skip
    return 0


def _declared(text: str) -> dict[str, list[str]]:
    """The keys of each axis that the command line names."""
    from fsbench.report.runs_table import JOIN, names_in

    return {axis: [key.strip() for key in axis.split(JOIN)] for axis in names_in(text)}


def _keys(by: Mapping[str, list[str]]) -> list[str]:
    return [key for keys in by.values() for key in keys]


def _found(
    rows: list[dict[str, Any]], columns: Sequence[str], target: str, by: Mapping[str, list[str]]
) -> dict[str, RankCorrelation]:
    """The correlation of each column, the largest granulated one first."""
    import pandas as pd

    from fsbench.report.correlation import rank_correlation

    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in (*columns, target)})
    for name in (*columns, target):
        try:
            frame[name] = pd.to_numeric(frame[name])
        except (ValueError, TypeError):
            raise UsageError("--with" if name == target else "--columns", name, "is not a number") from None
    axes = pd.DataFrame({axis: [[row.get(key) for key in keys] for row in rows] for axis, keys in by.items()})
    axes = axes.map(str)
    found = {name: rank_correlation(frame[name], frame[target], axes) for name in columns}
    return dict(sorted(found.items(), key=lambda item: -_or_last(item[1].granulated.value, item[1].overall.value)))


def _or_last(*values: float) -> float:
    """The first that is a number."""
    return next((value for value in values if not math.isnan(value)), -math.inf)


def _taus(one: RankCorrelation) -> dict[str, Tau]:
    """By what pairs they are of."""
    return {"all": one.overall, **one.by_axis, "granulated": one.granulated}


def _frame(found: Mapping[str, RankCorrelation]) -> pd.DataFrame:
    """A line for each column and kind of pairs: what the CSV holds."""
    import pandas as pd

    return pd.DataFrame(
        {"column": name, "pairs": pairs, "n": one.n, "tau": tau.value, "low": tau.low, "high": tau.high}
        for name, one in found.items()
        for pairs, tau in _taus(one).items()
    )


def _text(found: Mapping[str, RankCorrelation]) -> str:
    """The table as Markdown, and how it is read."""
    from fsbench.report.correlation import HOW_TO_READ
    from fsbench.report.table import Grid, markdown

    kinds = list(dict.fromkeys(kind for one in found.values() for kind in _taus(one)))
    kinds.append(kinds.pop(kinds.index("granulated")))
    lines = [
        [name.replace("_", " "), str(one.n), *(_cell(_taus(one).get(kind)) for kind in kinds)]
        for name, one in found.items()
    ]
    return markdown(Grid(["measure", "n", *kinds], lines, left=1)) + f"\n{HOW_TO_READ}\n"


def _cell(tau: Tau | None) -> str:
    """`0.71 [0.64, 0.78]`."""
    if tau is None or math.isnan(tau.value):
        return "-"
    return f"{tau.value:.2f}" + ("" if math.isnan(tau.low) else f" [{tau.low:.2f}, {tau.high:.2f}]")


def _write(output: Path, text: str, frame: pd.DataFrame, drawn: Figure, record: dict[str, Any]) -> None:
    """Write correlation.md, .csv, .png and .svg, then provenance.json."""
    from fsbench.report.style import save
    from fsbench.report.text import csv_text
    from fsbench.runs.atomic import write_text
    from fsbench.runs.provenance import write_provenance

    output.mkdir(parents=True, exist_ok=True)
    paths = [output / "correlation.md", output / "correlation.csv"]
    for path, content in zip(paths, (text, csv_text(frame)), strict=True):
        write_text(path, content)
    paths += save(drawn, output / "correlation")
    paths.append(write_provenance(output, record))
    tell(f"{output}: {' '.join(path.name for path in paths)}")
