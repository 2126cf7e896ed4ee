"""`fsbench runs`: what became of the runs in a directory, and removing some of them."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsbench.cli.flags import Parser
from fsbench.errors import FsbenchError, UsageError, did_you_mean
from fsbench.lines import aligned, say, tell
from fsbench.runs.atomic import finite
from fsbench.runs.directory import RunDirectory
from fsbench.runs.read import Unreadable, read_json
from fsbench.runs.records import run_directories

_STATUSES = ("done", "running", "interrupted", "failed", "diverged", "unreadable", "unknown")
_COLUMNS = ("run", "status", "test_accuracy", "age", "size", "message")


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="fsbench runs",
        description="What became of the runs in a directory: status, test accuracy, age (time since the status last "
        "changed) and size on disk.",
        epilog="A killed run is interrupted: the command that began it goes on from its checkpoint. CSV and JSON have "
        "accuracies in [0, 1], ages in seconds and sizes in bytes. --remove takes the selected runs away, with "
        "their weights and measures; a run that a process works on stays, and so do files that no run wrote.",
    )
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="directories (default: runs)")
    parser.add_argument("--status", help=f"only these, such as failed,diverged: {', '.join(_STATUSES)}")
    parser.add_argument("--format", default="text", choices=["text", "csv", "json"], help="(default: %(default)s)")
    parser.add_argument("--remove", action="store_true", help="remove the runs that are listed, after a question")
    parser.add_argument("--yes", action="store_true", help="with --remove: do not ask")
    options = parser.parse_intermixed_args(list(arguments))
    if options.yes and not options.remove:
        raise UsageError("", "", "--yes goes with --remove")
    wanted = _STATUSES if options.status is None else [name.strip() for name in options.status.split(",")]
    for name in wanted:
        if name not in _STATUSES:
            allowed = f"allowed: {', '.join(_STATUSES)}"
            raise UsageError("--status", name, f"no such status{did_you_mean(name, _STATUSES)}; {allowed}")
    places: dict[Path, Path] = {}
    for root in options.runs:
        if not root.is_dir():
            raise UsageError("runs", root, "no such directory")
        places |= {path.resolve(): path for path in run_directories(root)}
    found = [_described(RunDirectory(path)) for path in places.values()]
    chosen = [run for run in found if run["status"] in wanted]
    if not chosen:
        counts = Counter(run["status"] for run in found)
        others = ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])
        where = " ".join(map(str, options.runs))
        tell(f"{where}: no run there is {' or '.join(wanted)} ({others})" if found else f"{where}: no run there")
    if chosen or options.format != "text":
        _print(chosen, options.format)
    return _remove(chosen, ask=not options.yes) if options.remove and chosen else 0


def _described(directory: RunDirectory) -> dict[str, Any]:
    """Columns of the listing: accuracy in [0, 1], age in seconds, size in bytes; None for what there is not."""
    status, message = directory.read_status()
    accuracy, age = None, None
    if status == "done":
        try:
            accuracy = directory.read_results()["test_accuracy"]
        except Unreadable as failure:
            status, message = "unreadable", str(failure)
    try:
        changed = datetime.strptime(read_json(directory.status_file)["time"], "%Y-%m-%dT%H:%M:%S%z")
        age = (datetime.now(UTC) - changed).total_seconds()
    except (FileNotFoundError, Unreadable, KeyError, TypeError, ValueError):
        pass
    files = (os.path.join(where, name) for where, _, names in os.walk(directory.path) for name in names)
    size = sum(os.lstat(file).st_size for file in files if os.path.lexists(file))
    return dict(zip(_COLUMNS, (str(directory.path), status, accuracy, age, size, message), strict=True))


def _print(runs: list[dict[str, Any]], form: str) -> None:
    if form == "json":
        print(json.dumps(finite(runs), indent=1))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(runs)
    else:
        lines = [("run", "status", "accuracy", "age", "size", "")]
        for run in runs:
            accuracy = "-" if run["test_accuracy"] is None else f"{100 * run['test_accuracy']:.2f} %"
            age = "-" if run["age"] is None else _age(run["age"])
            lines.append((run["run"], run["status"], accuracy, age, _size(run["size"]), run["message"]))
        for line in aligned(lines, right=range(2, 5)):
            say(line)


def _remove(runs: list[dict[str, Any]], ask: bool) -> int:
    """Returns 1 if any run is left."""
    total = f"{len(runs)} run{'s' * (len(runs) > 1)}, {_size(sum(run['size'] for run in runs))}"
    if ask:
        print(f"Remove these {total}? [y/N] ", end="", file=sys.stderr, flush=True)
        if not (answer := sys.stdin.readline()):
            raise UsageError("", "", "--remove: nobody answers; --yes removes without a question")
        if answer.strip().lower() not in ("y", "yes"):
            tell("nothing is removed")
            return 0
    removed = 0
    for run in runs:
        try:
            left = RunDirectory(Path(run["run"])).remove()
        except FsbenchError as failure:
            tell(f"fsbench: {failure}")
            continue
        removed += 1
        if left:
            tell(f"{run['run']}: the run is removed; files that it did not write are left ({', '.join(left[:3])})")
    tell(f"removed {removed} of {total}")
    return 0 if removed == len(runs) else 1


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _size(size: float) -> str:
    power = min(int(math.log10(max(size, 1)) // 3), 4)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
