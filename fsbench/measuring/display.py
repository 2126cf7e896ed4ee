"""A network's measures as lines for a reader."""

from __future__ import annotations

import math

from fsbench.lines import shortened
from fsbench.measuring.record import Entry
from fsbench.runs.records import number

# Its value stands under hessian_top_eigenvalue already.
_PRINTED_ELSEWHERE = "hessian_eigenvalue_1"


def lines(entries: dict[str, Entry]) -> list[str]:
    """An aligned table of value, ± and what it is, seconds; notes below it, each once."""
    entries = {column: entry for column, entry in entries.items() if column != _PRINTED_ELSEWHERE}
    fewest = min((entry["images"]["used"] for entry in entries.values()), default=0)
    rows = [_row(column, entry, fewest) for column, entry in entries.items()]
    told = [row for row in rows if row[3]]
    widths = [max((len(row[i]) for row in told), default=0) for i in range(3)]
    widths[0] = max((len(row[0]) for row in rows), default=0)
    printed = []
    for name, value, how, seconds in rows:
        cells = [name.ljust(widths[0])]
        cells += [value.ljust(widths[1]), how.ljust(widths[2]), f"{seconds:>8}"] if seconds else [value]
        printed.append("  " + "  ".join(cells).rstrip())
    notes: dict[str, list[str]] = {}
    for column, entry in entries.items():
        for note in entry["notes"]:
            notes.setdefault(shortened(note), []).append(column)
    for note, columns in notes.items():
        about = "" if len(columns) == len(entries) > 1 else f"{', '.join(columns)}: "
        printed.append(f"  note: {about}{note}")
    return printed


def changes(entries: dict[str, Entry], before: dict[str, Entry], now: dict[str, Entry]) -> list[str]:
    """A line for each column of which tables had another value before, or keep that one after a refusal.

    Args:
        entries: what was asked for.
        before, now: the current entries of the record before and after.
    """
    said = []
    for column, entry in entries.items():
        old, current = before.get(column), now.get(column)
        if old is None or current is None or "refused" in old or column == _PRINTED_ELSEWHERE:
            continue
        if "refused" in entry and "refused" not in current:
            said.append(f"  note: {column}: tables keep {_other_settings(current, entry)}{_value(current)}")
        elif old["settings"] != current["settings"] or _value(old) != _value(current):
            said.append(f"  note: {column}: before: {_other_settings(old, current)}{_value(old)}")
    return said


def images_line(entries: dict[str, Entry]) -> str:
    """`1000 of 60000 training images`; of the measures that take the images drawn, if there are any."""
    found = [entry["images"] for entry in entries.values()]
    one = min(found, key=lambda image: image["used"])
    kind = "test" if one["split"] == "test" else "training"
    return f"{one['used']} of {one['of']} {kind} images"


def _other_settings(entry: Entry, other: Entry) -> str:
    """The settings of an entry that the other does not have: `5000 images, `."""
    mine, theirs = entry["settings"], other["settings"]
    said = []
    used = entry.get("images", {}).get("used")
    if used is not None and used != other.get("images", {}).get("used"):
        said.append(f"{used} images")
    for key in {**mine, **theirs}:
        value = mine.get(key)
        # The seed may be that of the draw alone, which there is none of where all images were taken.
        if key == "samples" or value == theirs.get(key) or (key == "seed" and not (key in mine and key in theirs)):
            continue
        if value is None:
            said.append("all classes" if key == "classes" else f"no {key}")
        else:
            said.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return "".join(f"{one}, " for one in said)


def _row(column: str, entry: Entry, fewest: int) -> tuple[str, str, str, str]:
    if "refused" in entry:
        return column, f"refused: {shortened(entry['refused'])}", "", ""
    error, how = _error(entry)
    if "evaluated_on" in entry:
        how = f"on {entry['evaluated_on']}"
    elif (used := entry["images"]["used"]) > fewest:
        how += f", all {used} images"
    printed = _value(entry)
    if error is not None:
        printed += f" ± {error:.2g}"
    return column, printed, how, f"{entry['seconds']:.2f} s"


def _value(entry: Entry) -> str:
    value = number(entry)
    return "-" if value is None else f"{value:.6g}"


def _error(entry: Entry) -> tuple[float | None, str]:
    """The standard error that is shown, and how the value came about; an error of zero is none."""
    sampled = entry["images"]["used"] < entry["images"]["of"]
    over_images = (entry.get("example_stderr") or None) if sampled else None
    if entry["exact"]:
        if over_images:
            return over_images, "± over images"
        return None, "exact for these images" if sampled else "exact"
    gauss_newton = "Gauss-Newton" if (entry.get("method") or "").startswith("gauss-newton") else ""
    if entry.get("seed") is None:
        over, parts = [over_images], ["images"]
    elif not entry.get("stderr"):
        # A single draw, say, tells nothing of its error; that over images alone would say too little.
        over, parts = [], []
    else:
        over, parts = [over_images, entry["stderr"]], ["images", "draws"]
    known = [(error, part) for error, part in zip(over, parts, strict=True) if error]
    if not known:
        return None, gauss_newton or _method(entry)
    how = f"± over {' and '.join(part for _, part in known)}"
    return math.hypot(*(error for error, _ in known)), f"{gauss_newton}, {how}" if gauss_newton else how


def _method(entry: Entry) -> str:
    """`sam, rho 0.05, one step`"""
    settings, method = entry["settings"], entry.get("method") or "no error known"
    if "neighbourhood" not in settings:
        return method
    sizes = [f"{key} {settings[key]:g}" for key in ("rho", "eta") if settings[key] is not None]
    return ", ".join([settings["neighbourhood"], *sizes, method])
