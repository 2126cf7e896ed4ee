"""Finished runs, and tables that were written, as one HTML page that fetches nothing."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from fsbench.config.load import short_value
from fsbench.report import runs_table
from fsbench.report.curves import draw_runs
from fsbench.report.style import UNDATED, style
from fsbench.runs.directory import RunDirectory
from fsbench.runs.provenance import FILE, trained_with
from fsbench.runs.read import Unreadable, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fsbench.runs.records import Records

CURVES = ("test_accuracy", "train_accuracy")
# More settings, measures or lines of a figure are not drawn, more lines of a table not shown.
_SETTINGS, _MEASURES, _CURVES, _LINES = 6, 12, 10, 500


@dataclass(frozen=True)
class Link:
    """A cell that leads to a directory."""

    text: str
    place: str


@dataclass(frozen=True)
class Cells:
    """A table: its heads, the cells of each line, and which columns are names, not numbers."""

    head: Sequence[str]
    lines: Sequence[Sequence[str | Link]]
    names: Sequence[int]


@dataclass(frozen=True)
class Picture:
    """An SVG as the source of an image, in which nothing of it is markup of the page."""

    source: str
    alt: str
    caption: str


def page(title: str, records: Records, rows: Sequence[dict[str, Any]], directories: Iterable[Path], output: Path,
         by: Sequence[str] | None, columns: Sequence[str]) -> str:  # fmt: skip
    """The whole page.

    Args:
        rows: those of the records that are shown.
        directories: of tables that were written, each with a provenance.json.
        output: the file that links start from.
        by, columns: of the table of means, as for `fsbench table`; None: data set, model, optimizer, and what the runs
            differ in.

    Raises:
        UsageError: no run has such a key, or a number under such a column.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    template = environment.from_string((files("fsbench.report") / "page.html").read_text(encoding="utf-8"))
    artefacts = [_artefact(directory, output) for directory in directories]
    summary = [f"{len(rows)} finished runs" + (f"; {records.left_out}" if records.left_out else "")] if rows else []
    runs = _runs(records, rows, output, by, columns) if rows else None
    text = template.render(title=title, summary=summary, runs=runs, artefacts=artefacts)
    return text.encode("utf-8", "backslashreplace").decode()  # a name may be no text


def written_tables(root: Path) -> list[Path]:
    """Directories at or below `root` that hold tables and their provenance, and are no runs."""
    found = sorted(file.parent for file in root.rglob(FILE))
    return [place for place in found if not (place / "config.yaml").exists() and list(place.glob("*.csv"))]


def _runs(
    records: Records, rows: Sequence[dict[str, Any]], output: Path, by: Sequence[str] | None, columns: Sequence[str]
) -> dict[str, Any]:
    choices, configuration = records.choices, records.configuration
    axes = runs_table.differing(rows, choices, configuration)
    differing = [key for keys in axes.values() for key in keys]
    by = list(dict.fromkeys(("dataset", "model", "optimizer", *differing))) if by is None else by
    columns = [name for name in columns if name not in by]
    lines, panels = _lines_and_panels(rows, axes)
    settings = _settings(rows, panels)
    means = runs_table.grid_of(runs_table.aggregate(rows, by, columns), by, columns)
    measures = [name for name in dict.fromkeys(name for one in records.measured.values() for name in one)
                if any(_number(row.get(name)) is not None for row in rows)]  # fmt: skip
    mixed = runs_table.mixed_keys(rows, by, choices, configuration)
    notes = [f"A line averages runs that differ in {key} ({', '.join(values)})." for key, values in mixed.items()]
    if len(settings) > _SETTINGS:
        notes.append(f"Learning curves are drawn of {_SETTINGS} of {len(settings)} settings.")
    if len(measures) > _MEASURES:
        notes.append(f"{_MEASURES} of {len(measures)} measures are drawn.")
    shown = [name for name in dict.fromkeys((*columns, *measures)) if name not in by]
    return {
        "means": Cells(means.head, means.lines, range(means.left)),
        "notes": notes,
        "curves": list(_curves(settings, lines)),
        "measures": list(_scatters(rows, lines, measures)),
        "every": _every(rows, dict.fromkeys((*by, *differing)), shown, output),
        "common": [(key, short_value(rows[0].get(key))) for key in configuration if _is_common(rows, key)],
        "made": [_facts(one) for one in trained_with(RunDirectory(Path(row["run"])) for row in rows)["trained_with"]],
    }


def _is_common(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return key not in ("run_name", "runs_dir", "data_dir") and len({short_value(row.get(key)) for row in rows}) == 1


def _every(rows: Sequence[Mapping[str, Any]], keys: Iterable[str], columns: Sequence[str], output: Path) -> Cells:
    """A line for each run."""
    keys = [key for key in keys if key != "seed"]
    lines: list[list[str | Link]] = [
        [
            Link(Path(row["run"]).name, _link(Path(row["run"]), output)),
            *(short_value(row.get(key)) for key in keys),
            short_value(row.get("seed")),
            *(runs_table.cell_text(name, math.nan if (value := _number(row.get(name))) is None else value, math.nan)
              for name in columns),
        ]
        for row in rows
    ]  # fmt: skip
    return Cells(["run", *keys, "seed", *map(runs_table.head_text, columns)], lines, range(len(keys) + 1))


def _lines_and_panels(rows: Sequence[Mapping[str, Any]], axes: Mapping[str, list[str]]) -> tuple[list[str], list[str]]:
    """The keys that lines of a figure differ in, the method's if there are any, and those of its panels."""
    method = next((axis for axis, keys in axes.items() if keys[0] == "optimizer"), next(iter(axes), None))
    lines = axes[method] if method is not None else []
    if len({_label(row, lines) for row in rows}) > _CURVES:
        lines = lines[:1]  # more than a figure can tell apart
    return lines, [key for axis, keys in axes.items() if axis != method for key in keys]


def _drawable(points: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """As many lines as a figure can tell apart, and what is left out."""
    names = sorted(points["line"].unique(), key=runs_table.by_size)
    if len(names) <= _CURVES:
        return points, ""
    return points[points["line"].isin(names[:_CURVES])], f" {_CURVES} of {len(names)} lines are drawn."


def _curves(settings: Mapping[str, Sequence[Mapping[str, Any]]], lines: Sequence[str]) -> Iterable[Picture]:
    """Accuracies by epoch: a figure for each of the first settings, a line for each method."""
    for setting, members in list(settings.items())[:_SETTINGS]:
        epochs = [(row, epoch) for row in members for epoch in _metrics(row)]
        for y in CURVES:
            points = _points([(row, epoch, epoch.get("epoch"), epoch.get(y)) for row, epoch in epochs], lines)
            if len(points):
                points, cut = _drawable(points)
                drawn, caption = draw_runs(points, ("epoch", y), ", ".join(lines), "stderr")
                where = f"{setting}. " if setting else ""
                yield _picture(drawn, f"{y.replace('_', ' ')} by epoch", f"{where}{caption}{cut}")


def _settings(rows: Sequence[Mapping[str, Any]], panels: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each setting, in words."""
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        setting = ", ".join(f"{key} {short_value(row.get(key))}" for key in panels if row.get(key) is not None)
        settings.setdefault(setting, []).append(row)
    return dict(sorted(settings.items()))


def _scatters(rows: Sequence[Mapping[str, Any]], lines: Sequence[str], measures: Sequence[str]) -> Iterable[Picture]:
    """The test accuracy against each measure, a point for each run."""
    for x in measures[:_MEASURES]:
        points = _points([(row, {}, row.get(x), row.get("test_accuracy")) for row in rows], lines)
        if len(points):
            points, cut = _drawable(points)
            drawn, caption = draw_runs(points, (x, "test_accuracy"), ", ".join(lines), None)
            yield _picture(drawn, f"test accuracy against {x.replace('_', ' ')}", f"{caption}{cut}")


def _points(
    found: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], Any, Any]], lines: Sequence[str]
) -> pd.DataFrame:
    numbers = [(row, epoch, _number(x), _number(y)) for row, epoch, x, y in found]
    return pd.DataFrame(
        [
            {"run": row["run"], "line": _label(row, lines), "step": epoch.get("epoch", x), "x": x, "y": y}
            for row, epoch, x, y in numbers
            if x is not None and y is not None
        ]
    )


def _label(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(short_value(row[key]) for key in keys if row.get(key) is not None)


def _metrics(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        return RunDirectory(Path(row["run"])).read_metrics()
    except Unreadable:
        return []


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _picture(drawn: Figure, alt: str, caption: str) -> Picture:
    buffer = io.BytesIO()
    with style():
        drawn.savefig(buffer, format="svg", metadata=UNDATED["svg"])
    return Picture(_embedded(buffer.getvalue(), "svg+xml"), alt, caption)


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _link(place: Path, output: Path) -> str:
    """A relative address; the ./ before it keeps a name from being taken for a scheme."""
    return "./" + quote(os.fsencode(os.path.relpath(place, output.parent)))


def _artefact(directory: Path, output: Path) -> dict[str, Any]:
    """What was written into a directory: captions, figures, tables, and how they were made."""
    texts = [line for file in _own(directory, ".md") for line in _caption(file)]
    drawn = {file.stem: (file, kind) for kind in ("png", "svg") for file in _own(directory, f".{kind}")}
    pictures = [
        Picture(_embedded(file.read_bytes(), {"svg": "svg+xml"}.get(kind, kind)), stem, file.name)
        for stem, (file, kind) in drawn.items()
    ]
    tables = [_csv(file) for file in _own(directory, ".csv")]
    try:
        made = _facts(read_json(directory / FILE))
    except Unreadable:
        made = []
    return {"name": "/".join(directory.resolve().parts[-2:]), "caption": texts, "pictures": pictures, "tables": tables,
            "made": made, "place": _link(directory, output)}  # fmt: skip


def _own(directory: Path, suffix: str) -> list[Path]:
    """Files of a directory; a link may lead to what is not for showing."""
    return [file for file in sorted(directory.glob(f"*{suffix}")) if file.is_file() and not file.is_symlink()]


def _caption(file: Path) -> list[str]:
    """The sentences of a Markdown file: no headings, no tables."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith(("#", "|", "!", "<"))]


def _csv(file: Path) -> tuple[str, Cells]:
    """Its name, with what is left out, and its lines."""
    try:
        frame = pd.read_csv(file)
    except (ValueError, OSError):
        return f"{file.name}: can't be read", Cells([], [], [])
    name = file.name + (f", {_LINES} of {len(frame)} lines" if len(frame) > _LINES else "")
    frame = frame.head(_LINES)
    names = [i for i, dtype in enumerate(frame.dtypes) if not pd.api.types.is_numeric_dtype(dtype)]
    columns = [[_cell(value) for value in frame[name]] for name in frame]
    return name, Cells(list(map(str, frame)), list(zip(*columns, strict=True)), names)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A record of provenance as pairs, what lies in another one by its path."""
    facts: list[tuple[str, str]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            facts += [(f"{key} {name}", text) for name, text in _facts(value)]
        elif value is not None and key not in ("trained_with", "data", "overrides"):
            facts.append((key.replace("_", " "), value if isinstance(value, str) else json.dumps(value)))
    return facts
