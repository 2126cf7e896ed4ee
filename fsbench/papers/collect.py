"""All artefacts, and what they print.

A paper is a file with a tuple `ARTEFACTS`; what papers print lies in `numbers/*.csv` beside them, as published,
misprints included.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from fsbench.errors import UsageError, first_line
from fsbench.papers.artefact import Artefact, Computed, Published

_OWN = Path(__file__).resolve().parent
# The artefacts of a directory's files (under ""), and of single papers by directory and name, as they were added.
_papers: dict[tuple[Path, str], tuple[Artefact | Computed, ...]] = {}


def artefacts() -> dict[str, Artefact | Computed]:
    """Every table and figure by its name (`kim2022/table1`): paper by paper, each in the order of the paper.

    Raises:
        UsageError: two have one name.
    """
    add_papers(_OWN)
    found: dict[str, Artefact | Computed] = {}
    for (directory, _), paper in _papers.items():
        for one in paper:
            if one.name in found:
                raise UsageError("papers", directory, f"{one.name} is there already")
            found[one.name] = one
    return found


def add_papers(directory: Path) -> None:
    """Take the papers of one more directory: every `*.py` there with a tuple `ARTEFACTS`; they are run.

    `abc2024.py` holds the artefacts `abc2024/...`; what they print lies in `numbers/*.csv` beside it.

    Raises:
        UsageError: there is no such directory, no paper in it, or one that can't be read.
    """
    place = Path(directory).expanduser().resolve()
    if (place, "") in _papers:
        return
    if not place.is_dir():
        raise UsageError("papers", directory, "no such directory")
    papers = [
        _checked(module.ARTEFACTS, path.stem, place)
        for path in sorted(place.glob("*.py"))
        if not path.stem.startswith("_") and "ARTEFACTS" in path.read_text(encoding="utf-8")
        if hasattr(module := _module(path, place), "ARTEFACTS")
    ]
    if not papers:
        raise UsageError("papers", directory, "holds no paper: a .py file with a tuple ARTEFACTS")
    _papers[place, ""] = tuple(one for paper in papers for one in paper)


def add_paper(name: str, artefacts: tuple[Artefact | Computed, ...], directory: Path) -> None:
    """Take one more paper, `abc2024`, with the artefacts `abc2024/...`; `numbers/*.csv` lies in the directory.

    Raises:
        UsageError: they are not called so, or are no artefacts.
    """
    _papers[directory.resolve(), name] = _checked(artefacts, name, directory)


def _module(path: Path, place: Path) -> ModuleType:
    if place == _OWN:
        return importlib.import_module(f"fsbench.papers.{path.stem}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # of a .py file there is one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as failure:  # whatever the file may raise
        problem = f"{path.name} can't be read, {type(failure).__name__}: {first_line(failure)}"
        raise UsageError("papers", place, problem) from failure
    return module


def _checked(found: object, paper: str, place: Path) -> tuple[Artefact | Computed, ...]:
    if not isinstance(found, tuple):
        raise UsageError("papers", place, f"{paper}.py: ARTEFACTS is a {type(found).__name__}, not a tuple")
    for one in found:
        if not isinstance(one, Artefact | Computed):
            problem = f"{paper}.py: ARTEFACTS holds a {type(one).__name__}, not an Artefact or Computed"
            raise UsageError("papers", place, problem)
        if not one.name.startswith(f"{paper}/"):
            raise UsageError("papers", place, f"{paper}.py: {one.name} has to be called {paper}/...")
    return found


def rows(file: str) -> list[dict[str, str]]:
    """The rows of a file as they stand there.

    Raises:
        UsageError: no paper brings such a file.
    """
    for directory in dict.fromkeys([_OWN, *(directory for directory, _ in _papers)]):
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
    found: list[dict[str, Any]] = []
    for row in rows(published.file):
        for column in (*published.columns.values(), *published.where, "mean"):
            if column not in row:
                raise UsageError("numbers", published.file, f"has no column {column}")
        if any(row[column] != wanted for column, wanted in published.where.items()):
            continue
        where = {axis: by_file.get(row[column], row[column]) for axis, column in published.columns.items()}
        std = float(row["std"]) if row.get("std") else None
        found.append({**where, "mean": float(row["mean"]), "std": std, "unit": published.unit})
    return found
