"""Composing `conf/` with command-line overrides: single runs, sweeps, and what went wrong in one line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import glob
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fsbench.config.paths import conf_dir
from fsbench.config.primary import TRAIN, Primary
from fsbench.errors import UsageError, check_signals, first_line
from fsbench.lines import tell

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

Config = TypeVar("Config")

# Composing so many takes longer than one waits without a word.
_MANY = 100

# Runs of a sweep; more than anybody means take the memory before the first is composed.
_MOST = 100_000


@dataclass(frozen=True)
class Job(Generic[Config]):
    """One checked configuration, the group choices it came from, and the overrides that asked for it."""

    config: Config
    choices: dict[str, str]
    overrides: tuple[str, ...]


def compose_jobs(
    overrides: Sequence[str], *, multirun: bool, config_dir: str | None = None, primary: Primary = TRAIN
) -> list[Job]:
    """All jobs of a command line, each composed and checked before the first one starts.

    Args:
        overrides: Hydra overrides; with `multirun` they may hold sweeps (`a,b`, `range()`, `choice()`, `glob()`).
        config_dir: one more directory to look for config groups in.
        primary: the configuration of the command.

    Raises:
        UsageError: for whatever does not compose or check.
    """
    with _initialised():
        line = _line(overrides, config_dir)
        lines = _expand(line, multirun, primary)
        if len(lines) >= _MANY:
            tell(f"{len(lines)} configurations to compose and check first")
        return [_job(one, primary) for one in lines]


def compose_text(overrides: Sequence[str], *, config_dir: str | None = None, primary: Primary = TRAIN) -> str:
    """The composed configuration as YAML, its values not checked."""
    from omegaconf import OmegaConf

    with _initialised():
        (line,) = _expand(_line(overrides, config_dir), multirun=False, primary=primary)
        return OmegaConf.to_yaml(_without_hydra(_composed(line, primary)))


@contextmanager
def _initialised() -> Iterator[None]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from fsbench.config.component import offer

    offer()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name="fsbench"):
        yield


def _line(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UsageError("--config-dir", config_dir, "no such directory")
        # Quoted, since a path may hold characters of the override grammar.
        overrides = [*overrides, f"hydra.searchpath=[{_quoted(f'file://{Path(config_dir).resolve()}')}]"]
    return [normalised(override) for override in overrides]


def normalised(override: str) -> str:
    """Hydra's own docs teach `+experiment=`; the group is in our defaults list, so the plus has to go."""
    for group in ("experiment", "setup"):
        if override.startswith(f"+{group}="):
            return override[1:]
    return override


def _expand(overrides: list[str], multirun: bool, primary: Primary) -> list[list[str]]:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise UsageError("", "", f"{override}: must read KEY=VALUE; see fsbench {primary.name} --help")
    current = ""
    try:
        parsed = [parser.parse_override(current := override) for override in overrides]
    except HydraException:
        key, _, value = current.partition("=")
        hint = f"values with brackets, quotes and the like go in quotes inside quotes: '{key}=\"...\"'"
        raise UsageError(key, value, f"can't be read; {hint}") from None
    others = [] if primary.groups is None else {*loader.get_group_options("", ObjectType.GROUP)} - {"hydra"}
    for override in parsed:
        override.config_loader = loader  # glob() looks the choices up there
        name = override.key_or_group
        if (group := name.partition(".")[0].partition("/")[0]) in others and group not in primary.groups:
            allowed = ", ".join(primary.groups)
            raise UsageError(name, override.value(), f"no such key in fsbench {primary.name}; its groups: {allowed}")
        if name == "hydra.searchpath":
            _refuse_absent(override)
        elif name.startswith("hydra."):
            raise UsageError(name, override.value(), "fsbench has its own run directories and sweeps; use runs_dir=DIR")
        if override.is_delete():
            raise UsageError("", "", f"{name}: can't be deleted, every key is needed")
        if override.is_sweep_override() and not multirun:
            shown = (override.input_line or "").partition("=")[2]
            hint = f"a list reads {name}=[{shown}]; " if name in primary.lists else ""
            raise UsageError(name, shown, f"several values; {hint}add -m to run each of them")
        # An empty list chooses none, too.
        none = {"None": "null", "[]": "[]"}.get(str(override.value()))
        if none and (none == "[]" or name not in primary.nullable) and loader.get_group_options(name):
            allowed = ", ".join(loader.get_group_options(name))
            raise UsageError(name, none, f"one is needed; allowed: {allowed}")
    # Hydra 1.3 takes no `group=null`; these are null unless chosen.
    unchosen = {f"{group}=null" for group in primary.nullable}
    values = [_values(override, primary) for override in parsed]
    if (count := math.prod(map(len, values))) > _MOST:
        raise UsageError("-m", "...", f"makes {count:,} runs; a sweep has at most {_MOST:,}")
    return [[o for o in one if o not in unchosen] for one in product(*values)]


def _refuse_absent(searchpath: Override) -> None:
    """Raise UsageError unless the places where groups are looked for are a list, whose directories are there."""
    places: Any = searchpath.value()
    for place in places if isinstance(places, list) else [None]:
        kind, _, path = str(place).rpartition("://")
        if place is None or kind not in ("file", "pkg") or (kind == "file" and not Path(path).is_dir()):
            shown = (searchpath.input_line or "").partition("=")[2]
            raise UsageError("hydra.searchpath", shown, "must be a list of directories: [file:///DIR]")


def _values(override: Override, primary: Primary) -> list[str]:
    """The overrides that a sweep (`a,b`, `range()`, `choice()`, `glob()`) stands for, or the one override."""
    from hydra.core.override_parser.types import Glob, RangeSweep
    from hydra.errors import HydraException

    if not override.is_sweep_override():
        return [override.input_line or ""]
    if override.key_or_group in primary.directories and isinstance(override.value(), Glob):
        found = _matching(override, primary.directories[override.key_or_group])
        return [f"{override.get_key_element()}={_quoted(path)}" for path in found]
    shown = (override.input_line or "").partition("=")[2]
    value = override.value()
    if isinstance(value, RangeSweep) and (value.step == 0 or (value.stop - value.start) / value.step > _MOST):
        problem = "its step is 0" if value.step == 0 else f"a sweep has at most {_MOST:,} runs"
        raise UsageError(override.key_or_group, shown, f"can't be swept: {problem}")
    try:
        found = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, ValueError) as failure:
        raise UsageError(override.key_or_group, shown, f"can't be swept: {first_line(failure)}") from None
    if not found:
        raise UsageError(override.key_or_group, shown, "stands for no value at all")
    return found


def _matching(override: Override, holding: str) -> list[str]:
    """The directories holding a file `holding` that a glob() matches, sorted."""
    pattern: Any = override.value()
    found = {os.path.normpath(p) for one in pattern.include for p in glob(os.path.expanduser(one), recursive=True)}
    kept = sorted(
        p for p in found
        if os.path.isfile(os.path.join(p, holding)) and not any(fnmatch(p, one) for one in pattern.exclude)
    )  # fmt: skip
    if not kept:
        shown = (override.input_line or "").partition("=")[2]
        raise UsageError(override.key_or_group, shown, f"matches no directory with a {holding}")
    return kept


def _quoted(text: str) -> str:
    """Text as a quoted string of the override grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _composed(overrides: list[str], primary: Primary) -> DictConfig:
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from fsbench.config.explain import explained

    try:
        return compose(primary.name, overrides=overrides, return_hydra_config=True)
    except YAMLError as failure:
        raise UsageError("--config-dir", "a file there", f"is not YAML: {' '.join(str(failure).split())}") from None
    except (HydraException, OmegaConfBaseException, ValueError) as failure:
        raise explained(failure, overrides, primary) from None


def _without_hydra(composed: DictConfig) -> DictConfig:
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])


def _job(overrides: list[str], primary: Primary) -> Job:
    check_signals()
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # pydantic takes its time to import, and help needs none of it.
    from fsbench.config.load import load

    composed = _composed(overrides, primary)
    choices = {
        group: choice
        for group, choice in composed.hydra.runtime.choices.items()
        if not group.startswith(("hydra", "recipe", "executor")) and choice not in (None, "null")
    }
    try:
        values: Any = OmegaConf.to_container(_without_hydra(composed), resolve=True)
    except OmegaConfBaseException as failure:
        raise UsageError("", "", first_line(failure)) from None
    own = tuple(override for override in overrides if not override.startswith(("hydra.", "executor=", "executor.")))
    return Job(load(values, primary.kind()), choices, own)
