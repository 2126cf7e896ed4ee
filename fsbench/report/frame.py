"""The runs of an artefact as a frame of its cells: one line for each result and combination of axis values.

A frame of runs has one line per planned run: the artefact's axes as text, `seed`, `status` (`done`, or why something is
missing), `run` (its directory) and the results by name. All tables and figures are made of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from fsbench.papers.artefact import Artefact, Lines, Scatter, Table
from fsbench.papers.collect import read
from fsbench.report.statistics import mean_std, pearson
from fsbench.report.text import parsed_number, same_value, unit_scale

# Cells that are named for one reason; a table that was only begun would fill pages otherwise.
_NAMED = 12


def labels_of(shows: Table | Lines | Scatter) -> dict[str, str]:
    """The label of each result that a form shows."""
    if isinstance(shows, Table):
        return {shows.value: shows.label, **dict(shows.more)}
    return dict(shows.panels if isinstance(shows, Lines) else shows.measures)


def groups(
    frame: pd.DataFrame, axes: Sequence[str], sort: bool = True
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The parts of a frame that have the same values of these axes, each with those values by axis.

    Args:
        sort: the first axis slowest, values in their declared order; False: as the frame has them.
    """
    if not axes:
        yield {}, frame
        return
    for values, part in frame.groupby(list(axes), sort=sort, observed=True):
        yield dict(zip(axes, values, strict=True)), part


def in_order(values: pd.Series) -> list[str]:
    """The different values of an axis, in their declared order."""
    return list(values.sort_values().unique())


def unfold(runs: pd.DataFrame, axis: str, results: Iterable[str]) -> pd.DataFrame:
    """One line per run and strength of what was measured at several strengths, `adversarial_accuracy_0.1`.

    Returns the frame with a column `axis`, the strength, and for each of the results (`adversarial_accuracy`) what was
    measured there.
    """
    strengths = {
        column.removeprefix(f"{result}_") for result in results for column in runs if column.startswith(f"{result}_")
    }
    parts = [
        runs.assign(**{axis: strength}, **{result: runs.get(f"{result}_{strength}", math.nan) for result in results})
        for strength in sorted((strength for strength in strengths if parsed_number(strength) is not None), key=float)
    ]
    # Run by run, as the frame has them.
    return pd.concat(parts).sort_index(kind="stable") if parts else runs.assign(**{axis: "-"})


def cell_frame(artefact: Artefact, runs: pd.DataFrame) -> pd.DataFrame:
    """One line per result and cell, in the unit of its label: what the artefact's CSV holds.

    Columns: the axes, `result`, `label`, `n` runs that have the result of those `planned`, their `mean` and sample
    standard deviation `std`, `published_mean`, `published_std` and `difference`, measured less published. Axes and
    results are categories in their declared order. `by_seed`, the values, is not in the CSV.
    """
    shows, labels = artefact.shows, labels_of(artefact.shows)
    axes = [*artefact.axes, *([shows.x] if isinstance(shows, Lines) and shows.x not in artefact.axes else [])]
    printed = published_numbers(artefact)
    long = runs[["seed", *axes, *labels]].melt(["seed", *axes], var_name="result")
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for key, part in long.groupby([*axes, "result"], sort=False):
        where, result = dict(zip(axes, key, strict=False)), key[-1]
        scale = unit_scale(labels[result])
        by_seed = zip(part["seed"], scale * part["value"], strict=True)
        values = dict(sorted((seed, value) for seed, value in by_seed if not math.isnan(value)))
        published, deviation = (scale * one for one in find_published(printed, result, where))
        mean, std = mean_std(list(values.values()))
        lines[key] = {
            **where, "result": result, "label": labels[result], "n": len(values), "planned": len(part), "mean": mean,
            "std": std, "published_mean": published, "published_std": deviation, "difference": mean - published,
            "by_seed": values,
        }  # fmt: skip
    frame = pd.DataFrame(lines.values())
    declared = {**artefact.axes, "result": tuple(labels)}
    for axis in [*axes, "result"]:
        found = list(frame[axis].unique())
        known = [value for value in declared.get(axis, ()) if value in found]
        frame[axis] = pd.Categorical(frame[axis], known if len(known) == len(found) else found, ordered=True)
    return frame


def correlations(artefact: Artefact, shows: Scatter, runs: pd.DataFrame) -> pd.DataFrame:
    """One line per panel of a scatter, row by row: Pearson's correlation of a measure with the horizontal axis."""
    printed = published_numbers(artefact)
    lines = []
    for where, part in groups(runs, shows.panels, sort=False):
        for measure, label in shows.measures:
            r = pearson(part[shows.x], part[measure])
            published, _ = find_published(printed, measure, where)
            lines.append(
                {
                    **where, "x": shows.x, "measure": measure, "label": label, "n": r.n, "r": r.r, "low": r.low,
                    "high": r.high, "published_r": published, "difference": r.r - published,
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


# The result of a published number, the axis values of its cell, its mean and standard deviation (NaN: not published).
Printed = tuple[str, Mapping[str, str], float, float]


def published_numbers(artefact: Artefact) -> list[Printed]:
    """The paper's numbers, as shares and not in percent; an axis that the paper does not name is not in its cell."""
    first = next(iter(labels_of(artefact.shows)))
    return [
        (
            published.value or first,
            {axis: row[axis] for axis in published.columns},
            row["mean"] / published.factor,
            math.nan if row["std"] is None else row["std"] / published.factor,
        )
        for published in artefact.published
        for row in read(published)
    ]


def find_published(printed: Sequence[Printed], result: str, where: Mapping[str, str]) -> tuple[float, float]:
    """Mean and standard deviation that the paper has for a result in a cell; NaN where it has none.

    Of several the one that names most axes is meant most closely.
    """
    fitting = [
        one
        for one in printed
        if one[0] == result and all(axis in where and same_value(value, where[axis]) for axis, value in one[1].items())
    ]
    _, _, mean, std = max(fitting, key=lambda one: len(one[1]), default=("", {}, math.nan, math.nan))
    return mean, std


def gaps(runs: pd.DataFrame, axes: Sequence[str], results: Sequence[str]) -> list[str]:
    """A line for each reason and cell in which runs lack results: `optimizer=fsam, seeds 1, 2: diverged`."""
    seeds: dict[str, dict[str, list[int]]] = {}
    for run in runs[runs[list(results)].isna().any(axis=1)].to_dict("records"):
        lacking = [result for result in results if math.isnan(run[result])]
        reason = f"has no {', '.join(lacking)}" if run["status"] == "done" else " ".join(run["status"].split())
        cell = " ".join(f"{axis}={run[axis]}" for axis in axes)
        seeds.setdefault(reason, {}).setdefault(cell, []).append(run["seed"])
    lines = []
    for reason, by_cell in seeds.items():
        for cell, found in list(by_cell.items())[:_NAMED]:
            found = sorted(set(found))  # a run at several strengths is there several times
            lines.append(f"{cell}, seed{'s' * (len(found) > 1)} {', '.join(map(str, found))}: {reason}")
        if rest := [set(found) for found in list(by_cell.values())[_NAMED:]]:
            lines.append(f"and {sum(map(len, rest))} runs of {len(rest)} more cells: {reason}")
    return lines
