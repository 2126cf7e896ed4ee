"""`fsbench list KIND`: what can be put on the command line, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import Parser
from fsbench.config.component import offered
from fsbench.config.paths import conf_dir
from fsbench.errors import UsageError, did_you_mean
from fsbench.measuring import measures
from fsbench.papers import artefacts

# what a person asks for: the config group
KINDS = {
    "models": "model",
    "datasets": "dataset",
    "optimizers": "optimizer",
    "bases": "base",
    "losses": "loss",
    "experiments": "experiment",
    "setups": "setup",
    "augmentations": "augment",
    "schedules": "schedule",
    "loggers": "logger",
    "executors": "executor",
}
MEASURES = "measures"
ARTEFACTS = "artefacts"
ALL = (*KINDS, MEASURES, ARTEFACTS)


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="fsbench list", description="What there is to choose from, a line each.")
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(ALL))
    parser.add_argument("-cd", "--config-dir", type=Path, help="config groups of your own, listed too")
    options = parser.parse_args(list(arguments))
    if options.kind is None:
        for kind, group in KINDS.items():
            print(f"{kind:14} {group}=")
        print(f"{MEASURES:14} measures=[...] of fsbench sharpness")
        print(f"{ARTEFACTS:14} of fsbench reproduce")
        return 0
    if options.kind == MEASURES:
        _print_measures()
        return 0
    if options.kind == ARTEFACTS:
        _print_artefacts()
        return 0
    group = KINDS.get(options.kind, options.kind)
    if group not in KINDS.values():
        problem = f"no such kind{did_you_mean(options.kind, ALL)}; allowed: {', '.join(ALL)}"
        raise UsageError("list", options.kind, problem)
    if options.config_dir and not options.config_dir.is_dir():
        raise UsageError("--config-dir", options.config_dir, "no such directory")
    roots = [conf_dir()] + ([options.config_dir] if options.config_dir else [])
    entries = {name: line for root in roots for name, line in described(root / group).items()}
    entries |= offered(group)
    width = max(map(len, entries), default=0)
    for name, line in sorted(entries.items()):
        print(f"{name:{width}}  {line}")
    return 0


def _print_measures() -> None:
    """Name on the command line, column of tables, what it is and where from; those of the default set starred."""
    known = measures.MEASURES.values()
    name, column = (max(len(getattr(one, key)) for one in known) for key in ("name", "column"))
    for one in known:
        star = "*" if one.name in measures.DEFAULT else " "
        print(f"{one.name:{name}} {star} {one.column:{column}}  {one.line} ({one.source})")
    print("* measured where measures= is not given; tables have the second column")


def _print_artefacts() -> None:
    known = artefacts()
    width = max(map(len, known), default=0)
    for one in known.values():
        print(f"{one.name:{width}}  {one.title} ({one.source})")


def described(group: Path) -> dict[str, str]:
    """Choice and description of every file below a config group; the description is its first comment."""
    return {
        path.relative_to(group).with_suffix("").as_posix(): _first_comment(path)
        for path in sorted(group.rglob("*.yaml"))
    }


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("#") and not line.startswith("# @package"):
                return line[1:].strip()
            if line.strip() and not line.startswith("#"):
                break
    return ""
