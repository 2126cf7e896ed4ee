"""What a reader must know of measures in a table: which runs lack them, and which were measured differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# By column and setting, the values that differ.
Mixed = dict[str, dict[str, list[str]]]


def lacking(rows: list[dict[str, Any]], columns: Sequence[str], measured: dict[str, dict[str, Any]]) -> dict[str, int]:
    """By column, how many of the runs were never measured (a refusal is a measurement), where any were not."""
    counts = {column: sum(column not in measured[row["run"]] for row in rows) for column in columns}
    return {column: count for column, count in counts.items() if count}


def refusals(rows: list[dict[str, Any]], columns: Sequence[str], measured: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each column and reason for which it was refused."""
    reasons: dict[tuple[str, str], int] = {}
    for row in rows:
        for column in columns:
            one = measured[row["run"]].get(column)
            if one is not None and one.refused is not None:
                reasons[column, one.refused] = reasons.get((column, one.refused), 0) + 1
    return [
        f"{column} was refused for {count} of {len(rows)} runs: {reason}" for (column, reason), count in reasons.items()
    ]


def gauss_newton(rows: list[dict[str, Any]], columns: Sequence[str], measured: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each column under which values of the Gauss-Newton matrix stand."""
    counts = {column: sum(one.gauss_newton for one in _values(rows, column, measured)) for column in columns}
    return [
        f"{column} is the Gauss-Newton value for {count} of {len(rows)} runs"
        for column, count in counts.items()
        if count
    ]


def mixed_settings(
    rows: list[dict[str, Any]], by: Sequence[str], columns: Sequence[str], measured: dict[str, dict[str, Any]]
) -> tuple[Mixed, Mixed]:
    """The settings in which the measures of runs on one line of the table differ, and those of its lines.

    The second holds what the first does not say already. How a value was computed (`method`) is one of the settings;
    it goes without saying where others differ, which it may follow from.
    """
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(str(row.get(name)) for name in by), []).append(row)
    averaged = [members for members in lines.values() if len(members) > 1]
    within: Mixed = {}
    across: Mixed = {}
    for column in columns:
        for members in averaged:
            for key, values in _differing(_values(members, column, measured)).items():
                known = within.setdefault(column, {}).setdefault(key, [])
                known += sorted(values - set(known), key=_by_size)
        for key, values in _differing(_values(rows, column, measured)).items():
            if values != set(within.get(column, {}).get(key, ())):
                across.setdefault(column, {})[key] = sorted(values, key=_by_size)
    return within, across


def _values(rows: list[dict[str, Any]], column: str, measured: dict[str, dict[str, Any]]) -> list[Any]:
    """Of the runs that have one."""
    found = [measured[row["run"]].get(column) for row in rows]
    return [one for one in found if one is not None and one.refused is None]


def _differing(measurements: list[Any]) -> dict[str, set[str]]:
    settings = [one.settings for one in measurements]
    # Where all images were taken there is no number of samples, nor a seed that drew them.
    found = {key: {_text(key, one.get(key)) for one in settings} for key in {k: None for one in settings for k in one}}
    differing = {key: values for key, values in found.items() if len(values) > 1}
    methods = {one.method or "-" for one in measurements}
    return differing or ({"method": methods} if len(methods) > 1 else {})


def _text(key: str, value: Any) -> str:
    if value is None:
        return "all" if key in ("samples", "classes") else "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_size(text: str) -> tuple[bool, float, str]:
    """Numbers in their order, before words."""
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text
