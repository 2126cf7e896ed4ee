"""Which runs a table lacks, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from fsbench.report.cells import numbers_of

# Cells named for one reason; a table that was only begun would fill pages otherwise.
_NAMED = 12


def gaps(frame: pd.DataFrame, axes: Sequence[str], values: Sequence[str]) -> list[str]:
    """A line for each reason and cell, with its seeds: `optimizer=fsam, seeds 1, 2: diverged`."""
    lacking = {value: [math.isnan(x) for x in numbers_of(frame, value)] for value in values}
    reasons: dict[str, dict[str, list[int]]] = {}
    for i, row in enumerate(frame[[*axes, "seed", "status"]].to_dict("records")):
        missing = [value for value in values if lacking[value][i]]
        if not missing:
            continue
        done = row["status"] == "done"
        reason = f"has no {', '.join(missing)}" if done else " ".join(str(row["status"]).split())
        cell = " ".join(f"{axis}={row[axis]}" for axis in axes)
        seeds = reasons.setdefault(reason, {}).setdefault(cell, [])
        if int(row["seed"]) not in seeds:
            seeds.append(int(row["seed"]))
    lines = []
    for reason, cells in reasons.items():
        for cell, seeds in list(cells.items())[:_NAMED]:
            lines.append(f"{cell}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}: {reason}")
        rest = list(cells.values())[_NAMED:]
        if rest:
            lines.append(f"and {sum(map(len, rest))} runs of {len(rest)} more cells: {reason}")
    return lines
