"""The table of `fsbench table`: means over runs that differ only in their seed, and notes on what they mix."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fsbench.errors import UsageError, did_you_mean
from fsbench.report.table import Grid, markdown, tabular
from fsbench.report.text import csv_text, parsed_number

if TYPE_CHECKING:
    from fsbench.runs.records import Measured

# Differences that are the replication itself, or incidental, not the experiment.
_NO_EXPERIMENT = {
    "seed", "dataset.seed", "run", "run_name", "runs_dir", "data_dir", "overwrite", "trainer.device", "trainer.workers",
    "trainer.progress", "trainer.checkpoint_every", "trainer.compare_every", "dataset.label",
}  # fmt: skip

# Between the keys of one axis.
JOIN = "+"

Row = Mapping[str, Any]
# By run and column, how the number came about.
Measurements = Mapping[str, Mapping[str, "Measured"]]
# By column and setting, the values that differ.
Mixed = dict[str, dict[str, list[str]]]


def aggregate(
    rows: Sequence[Row], by: Sequence[str], columns: Sequence[str], known: Iterable[str] = ()
) -> pd.DataFrame:
    """One line per combination of `by`: n, then `<column>_mean` and `<column>_std` (n - 1; NaN where n = 1).

    Runs that have nothing under a column count in n, but not in that column's mean and deviation. Shares are in [0, 1].

    Args:
        known: names that a misspelt one may stand for, beside those that runs have.

    Raises:
        UsageError: no run has such a key or a number under such a column.
    """
    # Of some hundred keys those that are shown.
    frame = pd.DataFrame([{name: row[name] for name in (*by, *columns) if name in row} for row in rows])
    for option, names in (("--by", by), ("--columns", columns)):
        for name in names:
            refuse_absent(rows, option, name, known)
    for name in columns:
        try:
            frame[name] = pd.to_numeric(frame[name])
        except (ValueError, TypeError):
            raise UsageError("--columns", name, "is not a number; use it with --by") from None
    frame[list(by)] = frame[list(by)].map(_text)
    groups = frame.groupby(list(by), sort=False)
    table = groups.size().to_frame("n")
    # ln det of a singular matrix is -inf: so is then the mean, and there is no deviation.
    with np.errstate(invalid="ignore"):
        for name in columns:
            table[f"{name}_mean"], table[f"{name}_std"] = groups[name].mean(), groups[name].std()
    return table.reset_index().sort_values(list(by), key=lambda c: c.map(by_size), ignore_index=True)


def refuse_absent(rows: Sequence[Row], option: str, name: str, known: Iterable[str] = ()) -> None:
    """Raise UsageError where no run has such a key; `known` as for `aggregate`."""
    if not any(name in row for row in rows):
        keys = dict.fromkeys(key for row in rows for key in row)
        raise UsageError(option, name, f"no run has such a key{did_you_mean(name, [*keys, *known])}")


def formatted(table: pd.DataFrame, form: str, by: Sequence[str], columns: Sequence[str]) -> str:
    """The aggregated table as `markdown`, `latex`, `csv` or `json` (records with the columns of the CSV)."""
    if form == "csv":
        return csv_text(table)
    if form == "json":
        return json.dumps([{key: _json(value) for key, value in line.items()} for line in table.to_dict("records")],
                          indent=2, ensure_ascii=False) + "\n"  # fmt: skip
    grid = grid_of(table, by, columns)
    return tabular(grid) if form == "latex" else markdown(grid)


def grid_of(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> Grid:
    """The aggregated table as texts."""
    lines = [
        [
            *(line[name] for name in by),
            str(line["n"]),
            *(cell_text(c, line[f"{c}_mean"], line[f"{c}_std"]) for c in columns),
        ]
        for line in table.to_dict("records")
    ]
    return Grid([*by, "n", *map(head_text, columns)], lines, left=len(by))


def head_text(column: str) -> str:
    """`test accuracy %` over a column of shares."""
    return column.replace("_", " ") + (" %" if _is_share(column) else "")


def differing(rows: Sequence[Row], choices: Sequence[str], configuration: Sequence[str]) -> dict[str, list[str]]:
    """The axes in which runs differ beyond the seed, each with its keys: what lies below a choice belongs to it.

    `optimizer+optimizer.rho` is one axis where both differ.
    """
    first = list(mixed_keys(rows, [], choices, configuration))
    below = mixed_keys(rows, first, choices, configuration)
    axes = [[key, *(other for other in below if other.startswith(f"{key}."))] for key in first]
    return {JOIN.join(keys): keys for keys in axes}


def names_in(text: str) -> list[str]:
    """The names of a list with commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def matches(value: Any, wanted: str) -> bool:
    """Whether a row's value is the one on the command line."""
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return str(value).lower() == wanted.lower() or (value is None and wanted == "null")


def mixed_keys(
    rows: Sequence[Row], by: Sequence[str], choices: Sequence[str], configuration: Sequence[str]
) -> dict[str, list[str]]:
    """Choices and configuration keys, other than the seed, in which runs of one line of the table differ.

    Where a choice (`model`) differs, the keys below it (`model.depth`) are not named too.
    """
    keys = [key for key in dict.fromkeys([*choices, *configuration]) if key not in {*by, *_NO_EXPERIMENT}]
    texts = pd.DataFrame([[_text(row.get(key)) for key in keys] for row in rows], columns=keys)
    lines = texts.groupby([[_text(row.get(name)) for row in rows] for name in by] or (lambda run: 0))
    mixed: dict[str, list[str]] = {}
    for key in keys:
        if key.partition(".")[0] not in {"logger", *mixed} - {key}:
            different = texts[key][lines[key].transform("nunique") > 1]
            if len(different):
                mixed[key] = sorted(different.unique(), key=by_size)
    return mixed


def mixed_settings(
    rows: Sequence[Row], by: Sequence[str], columns: Sequence[str], measured: Measurements
) -> tuple[Mixed, Mixed]:
    """The settings in which the measures of runs on one line of the table differ, and those of its lines.

    The second holds what the first does not say already. How a value was computed (`method`) is one of the settings;
    it goes without saying where others differ, which it may follow from.
    """
    within: Mixed = {}
    across: Mixed = {}
    averaged = _averaged(rows, by)
    for column in columns:
        for line in averaged:
            for key, values in _differing(_with_value(line, column, measured)).items():
                known = within.setdefault(column, {}).setdefault(key, [])
                known += sorted(values - set(known), key=by_size)
        for key, values in _differing(_with_value(rows, column, measured)).items():
            if values != set(within.get(column, {}).get(key, ())):
                across.setdefault(column, {})[key] = sorted(values, key=by_size)
    return within, across


def lacking(rows: Sequence[Row], columns: Sequence[str], measured: Measurements) -> dict[str, int]:
    """By column, how many of the runs were never measured (a refusal is a measurement), where any were not."""
    return dict(Counter(column for column in columns for row in rows if column not in measured[row["run"]]))


def substitutes(rows: Sequence[Row], columns: Sequence[str], measured: Measurements) -> Iterator[str]:
    """A line for each column under which values of the Gauss-Newton matrix stand, then for each that was refused."""
    for column in columns:
        if count := sum(one.gauss_newton for one in _with_value(rows, column, measured)):
            yield f"{column} is the Gauss-Newton value for {count} of {len(rows)} runs"
    asked = ((column, measured[row["run"]].get(column)) for row in rows for column in columns)
    refused = Counter((column, one.refused) for column, one in asked if one is not None and one.refused is not None)
    for (column, reason), count in refused.items():
        yield f"{column} was refused for {count} of {len(rows)} runs: {reason}"


def _is_share(column: str) -> bool:
    """The column lies in [0, 1] and is shown in percent."""
    # adversarial_accuracy_0.5: the accuracy at alpha = 0.5
    return column.endswith(("accuracy", "error", "generalization_gap")) or column.startswith("adversarial_accuracy_")


def cell_text(column: str, mean: float, std: float) -> str:
    """`97.22 ± 0.13`, or the mean alone where there is no deviation."""
    if math.isnan(mean):
        return "-"
    scale, digits, fewer = (100, ".2f", ".2f") if _is_share(column) else (1, ".4g", ".2g")
    return f"{mean * scale:{digits}}" + ("" if math.isnan(std) else f" ± {std * scale:{fewer}}")


def _json(value: Any) -> Any:
    """A value that JSON can hold: null for NaN, a text for an infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _averaged(rows: Sequence[Row], by: Sequence[str]) -> list[list[Row]]:
    """The runs of each line of the table that has several."""
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(_text(row.get(name)) for name in by), []).append(row)
    return [line for line in lines.values() if len(line) > 1]


def _with_value(rows: Sequence[Row], column: str, measured: Measurements) -> list[Measured]:
    found = (measured[row["run"]].get(column) for row in rows)
    return [one for one in found if one is not None and one.refused is None]


def _differing(measurements: Sequence[Measured]) -> dict[str, set[str]]:
    settings = [one.settings for one in measurements]
    keys = dict.fromkeys(key for one in settings for key in one)
    # Where all images were taken there is no number of samples, nor a seed that drew them.
    found = {
        key: {
            "all" if key in ("samples", "classes") and one.get(key) is None else _text(one.get(key)) for one in settings
        }
        for key in keys
    }
    methods = {one.method or "-" for one in measurements}
    differing = {key: values for key, values in found.items() if len(values) > 1}
    return differing or ({"method": methods} if len(methods) > 1 else {})


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def by_size(text: str) -> tuple[bool, float, str]:
    """Numbers in their order, before words in theirs."""
    found = parsed_number(text)
    return (True, 0.0, text) if found is None else (False, found, "")
