"""`fsbench list KIND`: what can be put on the command line, a line each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import Parser
from fsbench.config.component import components, offered
from fsbench.config.load import override_value
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
    parser.add_argument("name", nargs="?", metavar="NAME", help="the options of this one")
    parser.add_argument("-cd", "--config-dir", type=Path, help="config groups of your own, listed too")
    parser.add_argument("--format", default="text", choices=["text", "json"], help="(default: %(default)s)")
    options = parser.parse_args(list(arguments))
    if options.name is not None:
        entries = _options(options.kind, options.name)
    else:
        entries = _entries(options.kind, options.config_dir)
    if options.format == "json":
        print(json.dumps(entries, indent=1))
        return 0
    name, column = (max((len(str(entry.get(key, ""))) for entry in entries), default=0) for key in ("name", "column"))
    group = None
    for entry in entries:
        if entry.get("group") != group:
            group = entry["group"]
            print(f"{group}:")
        star = "*" if entry.get("default") else " "
        measure = f" {star} {entry['column']:{column}}" if "column" in entry else ""
        source = f" ({entry['source']})" if "source" in entry else ""
        indent = "  " if group else ""
        print(f"{indent}{entry['name']:{name}}{measure}  {entry['line']}{source}".rstrip())
    if options.kind == MEASURES:
        print("* measured where measures= is not given; tables have the second column")
    return 0


def _entries(kind: str | None, config_dir: Path | None) -> list[dict[str, str | bool]]:
    """Name and line of each, with the source of measures and artefacts; the kinds themselves for None.

    Raises:
        UsageError: there is no such kind, or no such directory.
    """
    if kind is None:
        lines = {kind: f"{group}=" for kind, group in KINDS.items()}
        lines |= {MEASURES: "measures=[...] of fsbench sharpness", ARTEFACTS: "of fsbench reproduce"}
        return [{"name": name, "line": line} for name, line in lines.items()]
    if kind == MEASURES:
        return [
            {"name": one.name, "column": one.column, "line": one.line, "source": one.source,
             "default": one.name in measures.DEFAULT, "group": group}
            for group, members in measures.grouped_measures().items()
            for one in members
        ]  # fmt: skip
    if kind == ARTEFACTS:
        return [{"name": one.name, "line": one.title, "source": one.source} for one in artefacts().values()]
    group = KINDS.get(kind, kind)
    if group not in KINDS.values():
        problem = f"no such kind{did_you_mean(kind, ALL)}; allowed: {', '.join(ALL)}"
        raise UsageError("list", kind, problem)
    if config_dir and not config_dir.is_dir():
        raise UsageError("--config-dir", config_dir, "no such directory")
    roots = [conf_dir(), *([config_dir] if config_dir else [])]
    found = {name: line for root in roots for name, line in choices_in(root / group).items()}
    return [{"name": name, "line": line} for name, line in sorted((found | offered(group)).items())]


def _options(kind: str, name: str) -> list[dict[str, str | bool]]:
    """The options of a choice: their values and what they mean. Raises UsageError where there is no such choice."""
    group = KINDS.get(kind, kind)
    if (file := conf_dir() / group / f"{name}.yaml").is_file() and group == "base":
        return _base_options(file)
    if file.is_file():
        lines = re.findall(r"^(\w+): +(.*?)(?: +# (.*))?$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        return [{"name": f"{group}.{key}={value}", "line": meaning} for key, value, meaning in lines]
    if name not in offered(group):
        near = did_you_mean(name, {**choices_in(conf_dir() / group), **offered(group)})
        raise UsageError("list", f"{kind} {name}", f"no such choice{near}; fsbench list {kind} shows them")
    component = components(group)[name]
    meanings, node = component.meanings(), component.as_node()
    for option, (low, high) in getattr(component, "search", {}).items():
        meanings[option] = f"{meanings.get(option, '')} fsbench compare searches {low:g} to {high:g}.".strip()
    return [
        {"name": f"{group}.{option}={override_value(node[option])}", "line": meanings.get(option, "")}
        for option in component.model_fields
        if option in node and option not in (component.key, "plugin")
    ]


def _base_options(file: Path) -> list[dict[str, str | bool]]:
    """The options of a base with the learning rate, and what `fsbench compare` searches of them."""
    import yaml

    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    search = getattr(components("base")[found["base"].pop("name")], "search", {})
    entries: list[dict[str, str | bool]] = []
    for group, key, value in ((group, key, value) for group, own in found.items() for key, value in own.items()):
        ends = search.get(key)
        line = f"fsbench compare searches {ends[0]:g} to {ends[1]:g}." if ends else ""
        entries.append({"name": f"{group}.{key}={override_value(value)}", "line": line})
    return entries


def choices_in(group: Path) -> dict[str, str]:
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
