"""A network's measures as lines for a reader."""

from __future__ import annotations

import math

from fsbench.measuring.record import Entry
from fsbench.runs.records import number


def lines(entries: dict[str, Entry], failed: dict[str, str]) -> list[str]:
    """An aligned table of value, ± and what it is, seconds; notes below it, each once.

    Args:
        failed: what went wrong with measures that have no entry, by name.
    """
    fewest = min((entry["images"]["used"] for entry in entries.values()), default=0)
    rows = [_row(column, entry, fewest) for column, entry in entries.items()]
    rows += [(name, f"failed: {reason}", "", "") for name, reason in failed.items()]
    told = [row for row in rows if row[3]]
    widths = [max((len(row[i]) for row in told), default=0) for i in range(3)]
    widths[0] = max(len(row[0]) for row in rows)
    shown = []
    for name, value, how, seconds in rows:
        cells = [name.ljust(widths[0])]
        cells += [value.ljust(widths[1]), how.ljust(widths[2]), f"{seconds:>8}"] if seconds else [value]
        shown.append("  " + "  ".join(cells).rstrip())
    notes: dict[str, list[str]] = {}
    for column, entry in entries.items():
        for note in entry["notes"]:
            notes.setdefault(note, []).append(column)
    for note, columns in notes.items():
        about = "" if len(columns) == len(entries) > 1 else f"{', '.join(columns)}: "
        shown.append(f"  note: {about}{note}")
    return shown


def images(entries: dict[str, Entry]) -> str:
    """`1000 of 60000 training images`; of the measures that take the images drawn, if there are any."""
    found = [entry["images"] for entry in entries.values()]
    one = min(found, key=lambda image: image["used"])
    kind = "training" if one["split"] == "train" else "test"
    return f"{one['used']} of {one['of']} {kind} images"


def _row(column: str, entry: Entry, fewest: int) -> tuple[str, str, str, str]:
    if "refused" in entry:
        return column, f"refused: {entry['refused']}", "", ""
    value = number(entry)
    error, how = _error(entry)
    if "evaluated_on" in entry:
        how = f"on {entry['evaluated_on']}"
    elif (used := entry["images"]["used"]) > fewest:
        how += f", all {used} images"
    shown = "-" if value is None else f"{value:.6g}"
    if error is not None:
        shown += f" ± {error:.2g}"
    return column, shown, how, f"{entry['seconds']:.2f} s"


def _error(entry: Entry) -> tuple[float | None, str]:
    """The standard error that is shown, and what it is of."""
    sampled = entry["images"]["used"] < entry["images"]["of"]
    over_images = entry.get("example_stderr") if sampled else None
    # null: nothing is known of it, of a single draw say
    over_draws = None if entry["exact"] else entry.get("stderr")
    if entry["exact"]:
        if over_images is not None:
            return over_images, "± over images"
        return None, "exact for these images" if sampled else "exact"
    if over_draws is None:
        return None, entry.get("method") or "no error known"
    if over_images is not None:
        return math.hypot(over_images, over_draws), "± over images and draws"
    return over_draws, "± over draws"
