"""What the papers print: `numbers/*.csv` beside the papers, as published, misprints included."""

from __future__ import annotations

import csv
from typing import Any

from fsbench.errors import UsageError
from fsbench.papers.artefact import Published
from fsbench.papers.collect import directories


def rows(file: str) -> list[dict[str, str]]:
    """The rows of a file as they stand there.

    Raises:
        UsageError: no paper brings such a file.
    """
    for directory in directories():
        if (path := directory / "numbers" / file).is_file():
            with path.open(encoding="utf-8", newline="") as text:
                return list(csv.DictReader(text))
    raise UsageError("numbers", file, "no paper brings such a file")


def read(published: Published) -> list[dict[str, Any]]:
    """The published numbers that are meant, by the axis values of their cells.

    Returns a row for each: the axes of `published.columns` with values as on the command line, `mean` and `std` (None
    where none was published) in the file's unit, and `unit`.

    Raises:
        UsageError: there is no such file, or it lacks a column.
    """
    by_file = {name: value for value, name in published.names.items()}
    found = []
    for row in rows(published.file):
        for column in (*published.columns.values(), *published.where, "mean"):
            if column not in row:
                raise UsageError("numbers", published.file, f"has no column {column}")
        if any(row[column] != wanted for column, wanted in published.where.items()):
            continue
        std = row.get("std")
        found.append(
            {axis: by_file.get(row[column], row[column]) for axis, column in published.columns.items()}
            | {"mean": float(row["mean"]), "std": float(std) if std else None, "unit": published.unit}
        )
    return found
