"""A plain table as CSV, Markdown and LaTeX, for what is computed and not trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fsbench.report import grid
from fsbench.report.caption import sentences
from fsbench.report.escape import markdown_text
from fsbench.report.numbers import significant
from fsbench.runs.atomic import write_text


def write_frame(
    frame: pd.DataFrame,
    directory: Path,
    name: str,
    caption: str | Sequence[str],
    *,
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    figures: Sequence[Path] = (),
) -> list[Path]:
    """Write `<name>.csv`, `<name>.md` and `<name>.tex` into `directory`, each whole or not at all.

    Args:
        frame: its columns in order; the CSV has the numbers as they are, under the names of the columns.
        caption: one text, or sentences.
        title: the Markdown file's heading; None: `name`.
        headers: what a column is called in Markdown and LaTeX, with its unit.
        formats: a column's format specification (`.2f`); other numbers have four significant digits.
        figures: pictures beside the file that the Markdown shows above the table.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = sentences([caption] if isinstance(caption, str) else caption)
    formats = formats or {}
    # By position: two columns may have one name.
    columns = [[_text(value, formats.get(str(key))) for value in frame.iloc[:, i]] for i, key in enumerate(frame)]
    left = next((i for i, dtype in enumerate(frame.dtypes) if pd.api.types.is_numeric_dtype(dtype)), len(columns))
    table = grid.Grid(
        head=[(headers or {}).get(str(key), str(key)) for key in frame],
        lines=[list(line) for line in zip(*columns, strict=True)],
        left=left,
    )
    shown = [f"![{markdown_text(name)}]({path.name})" for path in figures if path.suffix == ".png"]
    paragraphs = [f"# {title or name}", markdown_text(text), *shown, grid.markdown(table).rstrip("\n")]
    paths = [directory / f"{name}.{suffix}" for suffix in ("csv", "md", "tex")]
    write_text(paths[0], frame.to_csv(index=False, lineterminator="\n"))
    write_text(paths[1], "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n")
    write_text(paths[2], grid.latex_table([("", table)], text, f"tab:{name}"))
    return paths


def _text(value: Any, specification: str | None) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, str | bool):
        return str(value)
    if specification is not None:
        return format(value, specification)
    return significant(float(value)) if isinstance(value, float) else str(value)
