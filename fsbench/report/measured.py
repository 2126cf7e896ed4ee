"""What a reader must know of measures in a table: which runs lack them, and which were measured differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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


def mixed_settings(
    rows: list[dict[str, Any]], by: Sequence[str], columns: Sequence[str], measured: dict[str, dict[str, Any]]
) -> dict[str, dict[str, list[str]]]:
    """By column, the settings in which the measures of runs on one line of the table differ, with their values."""
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(str(row.get(name)) for name in by), []).append(measured[row["run"]])
    mixed: dict[str, dict[str, list[str]]] = {}
    for column in columns:
        for members in lines.values():
            settings = [one[column].settings for one in members if column in one and one[column].refused is None]
            for key in dict.fromkeys(key for one in settings for key in one):
                # Where all images were taken there is no number of samples, nor a seed that drew them.
                values = {_text(key, one.get(key)) for one in settings}
                if len(values) > 1:
                    known = mixed.setdefault(column, {}).setdefault(key, [])
                    known += sorted(values - set(known))
    return mixed


def _text(key: str, value: Any) -> str:
    if value is None:
        return "all" if key in ("samples", "classes") else "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
