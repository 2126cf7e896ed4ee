"""Composing `conf/` with command-line overrides: single runs, sweeps, and what went wrong in one line."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Sequence
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
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.core.object_type import ObjectType
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
) -> list[Job[Any]]:
    """All jobs of a command line, each composed and checked before the first one starts.

    Args:
        overrides: Hydra overrides; with `multirun` they may hold sweeps (`a,b`, `range()`, `choice()`, `glob()`).
        config_dir: one more directory to look for config groups in.
        primary: the configuration of the command.

    Raises:
        UsageError: for whatever does not compose or check.
    """
    return Composer(config_dir).jobs(overrides, multirun=multirun, primary=primary)


def normalised(override: str) -> str:
    """Hydra's own docs teach `+experiment=`; the group is in our defaults list, so the plus has to go."""
    for group in ("experiment", "setup"):
        if override.startswith(f"+{group}="):
            return override[1:]
    return override


class Composer:
    """Composes many command lines; those that choose the same groups share the merging of files.

    Which files are merged depends on the chosen groups (`model=resnet20`) alone. Keys with values (`seed=1`) are then
    set on a copy, by the function by which Hydra sets them.

    Args:
        config_dir: one more directory to look for config groups in.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        from hydra import initialize_config_dir
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.global_hydra import GlobalHydra

        from fsbench.config.component import offer

        offer()
        if config_dir is not None and not Path(config_dir).is_dir():
            raise UsageError("--config-dir", config_dir, "no such directory")
        # Quoted, since a path may hold characters of the override grammar.
        place = f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]" if config_dir else None
        self._places = () if place is None else (place,)
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name="fsbench"):
            loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        self._loader = loader
        self._parsed: dict[str, Override] = {}
        self._searched: dict[tuple[str, ...], CachingConfigRepository] = {}
        self._known: dict[tuple[Any, ...], list[str]] = {}
        self._merged: dict[tuple[str, ...], tuple[bytes, dict[str, str]]] = {}

    def jobs(self, overrides: Sequence[str], *, multirun: bool, primary: Primary = TRAIN) -> list[Job[Any]]:
        """The jobs of a command line, as of `compose_jobs`."""
        lines = self._expand(overrides, multirun, primary)
        if len(lines) >= _MANY:
            tell(f"{len(lines)} configurations to compose and check first")
        return [self._job(line, primary) for line in lines]

    def job(self, overrides: Sequence[str], *, primary: Primary = TRAIN) -> Job[Any]:
        """The one job of a command line without sweeps."""
        return self.jobs(overrides, multirun=False, primary=primary)[0]

    def choices(self, word: str) -> list[str]:
        """The overrides that one word of a sweep stands for, `seed=1` and `seed=2` for `seed=1,2`."""
        return _values(self._parse(normalised(word)), TRAIN)

    def text(self, overrides: Sequence[str], *, primary: Primary = TRAIN) -> str:
        """The configuration of a command line as YAML, its values not checked."""
        from omegaconf import OmegaConf

        (line,) = self._expand(overrides, multirun=False, primary=primary)
        return OmegaConf.to_yaml(self._composed(line, primary)[0])

    def _expand(self, overrides: Sequence[str], multirun: bool, primary: Primary) -> list[list[str]]:
        """The command lines that a sweep stands for. Raises UsageError for what is refused before composing."""
        line = [normalised(override) for override in (*overrides, *self._places)]
        for word in line:
            if "=" not in word and not word.startswith("~"):
                raise UsageError("", "", f"{word}: must read KEY=VALUE; see fsbench {primary.name} --help")
        parsed = [self._parse(word) for word in line]
        for override in parsed:
            self._refuse(override, multirun, primary)
        # Hydra 1.3 takes no `group=null`; these are null unless chosen.
        unchosen = {f"{group}=null" for group in primary.nullable}
        values = [_values(override, primary) for override in parsed]
        if (count := math.prod(map(len, values))) > _MOST:
            raise UsageError("-m", "...", f"makes {count:,} runs; a sweep has at most {_MOST:,}")
        return [[o for o in one if o not in unchosen] for one in product(*values)]

    def _parse(self, word: str) -> Override:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        if word not in self._parsed:
            try:
                self._parsed[word] = OverridesParser.create(config_loader=self._loader).parse_override(word)
            except HydraException:
                key, _, value = word.partition("=")
                hint = f"values with brackets, quotes and the like go in quotes inside quotes: '{key}=\"...\"'"
                raise UsageError(key, value, f"can't be read; {hint}") from None
            self._parsed[word].config_loader = self._loader  # glob() looks the choices up there
        return self._parsed[word]

    def _refuse(self, override: Override, multirun: bool, primary: Primary) -> None:
        """Raise UsageError for what Hydra would take, or explain badly, and fsbench doesn't take."""
        from hydra.core.object_type import ObjectType

        name = override.key_or_group
        group = name.partition(".")[0].partition("/")[0]
        if primary.groups and group in self.groups() and group not in (*primary.groups, "hydra"):
            allowed = ", ".join(primary.groups)
            raise UsageError(name, override.value(), f"no such key in fsbench {primary.name}; its groups: {allowed}")
        if name == "hydra.searchpath":
            _refuse_absent(override)
        elif name.startswith("hydra."):
            raise UsageError(name, override.value(), "fsbench has its own run directories and sweeps; use runs_dir=DIR")
        if override.is_delete():
            raise UsageError("", "", f"{name}: can't be deleted, every key is needed")
        if override.is_sweep_override() and not multirun:
            hint = f"a list reads {name}=[{_value_text(override)}]; " if name in primary.lists else ""
            raise _refused(override, f"several values; {hint}add -m to run each of them")
        # An empty list chooses none, too.
        none = {"None": "null", "[]": "[]"}.get(str(override.value()))
        options = self._options(name, ObjectType.CONFIG) if none else []
        if options and (none == "[]" or name not in primary.nullable):
            raise UsageError(name, none, f"one is needed; allowed: {', '.join(options)}")

    def groups(self) -> list[str]:
        """The config groups, those without a file and a user's own among them."""
        from hydra.core.object_type import ObjectType

        return self._options("", ObjectType.GROUP)

    def _job(self, line: Sequence[str], primary: Primary) -> Job[Any]:
        check_signals()
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        # pydantic takes its time to import, and help needs none of it.
        from fsbench.config.load import load

        composed, choices = self._composed(line, primary)
        try:
            values: Any = OmegaConf.to_container(composed, resolve=True)
        except OmegaConfBaseException as failure:
            raise UsageError("", "", first_line(failure)) from None
        own = tuple(word for word in line if not word.startswith(("hydra.", "executor=", "executor.")))
        return Job(load(values, primary.kind()), dict(choices), own)

    def _composed(self, line: Sequence[str], primary: Primary) -> tuple[DictConfig, dict[str, str]]:
        """The configuration of a command line, not resolved, and the choices of all groups."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        from fsbench.config.explain import bad_choice, bad_key

        places = tuple(word for word in line if word.startswith("hydra.searchpath="))

        def options(group: str) -> list[str]:
            return self._options(group, None, places)

        overrides = [self._parse(word) for word in line]
        # As Hydra tells them apart.
        choosing = [o for o in overrides if options(o.key_or_group) and not isinstance(o.value(), dict)]
        setting = [o for o in overrides if o not in choosing and not o.key_or_group.startswith("hydra.")]
        words = [*places, *(o.input_line or "" for o in choosing)]
        try:
            if (key := (primary.name, *words)) not in self._merged:
                self._merged[key] = self._merge(words, primary)
            merged, choices = self._merged[key]
        except YAMLError as failure:
            raise UsageError("--config-dir", "a file there", f"is not YAML: {' '.join(str(failure).split())}") from None
        except (HydraException, OmegaConfBaseException, ValueError) as failure:
            raise bad_choice(failure, choosing, primary, options) from None
        composed: DictConfig = pickle.loads(merged)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(setting, composed)
        except (HydraException, OmegaConfBaseException, ValueError) as failure:
            raise bad_key(failure, overrides, primary, options, OmegaConf.to_container(pickle.loads(merged))) from None
        return composed, choices

    def _merge(self, chosen: Sequence[str], primary: Primary) -> tuple[bytes, dict[str, str]]:
        """The files of the chosen groups merged, pickled for copies to be quick, and the choices of all groups."""
        from hydra.types import RunMode
        from omegaconf import open_dict

        from fsbench.config.component import components

        merged = self._loader.load_configuration(primary.name, list(chosen), RunMode.RUN, from_shell=False)
        choices = {
            group: choice
            for group, choice in merged.hydra.runtime.choices.items()
            if not group.startswith(("hydra", "recipe", "executor")) and choice not in (None, "null")
        }
        with open_dict(merged):
            merged.pop("hydra")
            for name, measure in components("measure").items() if primary.takes_measures else ():
                merged[name] = {key: value for key, value in measure.as_node().items() if key != "name"}
        return pickle.dumps(merged), choices

    def _options(self, group: str, kind: ObjectType | None, places: tuple[str, ...] = ()) -> list[str]:
        """The choices of a group, or the groups in it, or (None) both; empty where there is no such group."""
        key = (group, kind, places)
        if key not in self._known:
            if places not in self._searched:
                # As Hydra's get_group_options does, which makes it anew for each group.
                made = self._loader._parse_overrides_and_create_caching_repo(None, list(places))
                self._searched[places] = made[1]
            self._known[key] = self._searched[places].get_group_options(group, kind)
        return self._known[key]


def _refuse_absent(searchpath: Override) -> None:
    """Raise UsageError unless the places where groups are looked for are a list, whose directories are there."""
    places: Any = searchpath.value()
    for place in places if isinstance(places, list) else [None]:
        kind, _, path = str(place).rpartition("://")
        if place is None or kind not in ("file", "pkg") or (kind == "file" and not Path(path).is_dir()):
            raise _refused(searchpath, "must be a list of directories: [file:///DIR]")


def _values(override: Override, primary: Primary) -> list[str]:
    """The overrides that a sweep (`a,b`, `range()`, `choice()`, `glob()`) stands for, or the one override."""
    from hydra.core.override_parser.types import Glob, RangeSweep
    from hydra.errors import HydraException

    if not override.is_sweep_override():
        return [override.input_line or ""]
    if override.key_or_group in primary.directories and isinstance(override.value(), Glob):
        found = _matching(override, primary.directories[override.key_or_group])
        return [f"{override.get_key_element()}={quoted(path)}" for path in found]
    value = override.value()
    if isinstance(value, RangeSweep):
        start, stop, step = (float(one or 0) for one in (value.start, value.stop, value.step))
        if step == 0 or (stop - start) / step > _MOST:
            problem = "its step is 0" if step == 0 else f"a sweep has at most {_MOST:,} runs"
            raise _refused(override, f"can't be swept: {problem}")
    try:
        found = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, ValueError) as failure:
        raise _refused(override, f"can't be swept: {first_line(failure)}") from None
    if not found:
        raise _refused(override, "stands for no value at all")
    return found


def _value_text(override: Override) -> str:
    """The value as it was typed."""
    return (override.input_line or "").partition("=")[2]


def _refused(override: Override, problem: str) -> UsageError:
    return UsageError(override.key_or_group, _value_text(override), problem)


def _matching(override: Override, holding: str) -> list[str]:
    """The directories holding a file `holding` that a glob() matches, sorted."""
    pattern: Any = override.value()
    found = {os.path.normpath(p) for one in pattern.include for p in glob(os.path.expanduser(one), recursive=True)}
    kept = sorted(
        p for p in found
        if os.path.isfile(os.path.join(p, holding)) and not any(fnmatch(p, one) for one in pattern.exclude)
    )  # fmt: skip
    if not kept:
        raise _refused(override, f"matches no directory with a {holding}")
    return kept


def quoted(text: str) -> str:
    """Text as a quoted string of the override grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
