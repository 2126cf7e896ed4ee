"""Composing `conf/` with command-line overrides: single runs, sweeps, and what went wrong in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbench.config.load import load
from fsbench.config.paths import conf_dir
from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Job:
    """One checked configuration, the group choices it came from, and the overrides that asked for it."""

    config: TrainConfig
    choices: dict[str, str]
    overrides: tuple[str, ...]


def compose_jobs(overrides: Sequence[str], *, multirun: bool, config_dir: str | None = None) -> list[Job]:
    """All jobs of a command line, each composed and checked before the first one starts.

    Args:
        overrides: Hydra overrides; with `multirun` they may hold sweeps (`a,b`, `range()`, `choice()`, `glob()`).
        config_dir: one more directory to look for config groups in.

    Raises:
        UsageError: for whatever does not compose or check.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UsageError("--config-dir", config_dir, "no such directory")
        # Quoted, since a path may hold characters of the override grammar.
        overrides = [*overrides, f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"]
    overrides = [normalised(override) for override in overrides]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name="fsbench"):
        return [_compose(one) for one in _expand(overrides, multirun)]


def normalised(override: str) -> str:
    """Hydra's own docs teach `+experiment=`; the group is in our defaults list, so the plus has to go."""
    for group in ("experiment", "setup"):
        if override.startswith(f"+{group}="):
            return override[1:]
    return override


def _expand(overrides: list[str], multirun: bool) -> list[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise UsageError("", "", f"{override}: must read KEY=VALUE; see fsbench train --help")
    current = ""
    try:
        parsed = [parser.parse_override(current := override) for override in overrides]
    except HydraException:
        key, _, value = current.partition("=")
        hint = f"values with brackets, quotes and the like go in quotes inside quotes: '{key}=\"...\"'"
        raise UsageError(key, value, f"can't be read; {hint}") from None
    for override in parsed:
        name = override.key_or_group
        if name.startswith("hydra.") and name != "hydra.searchpath":
            raise UsageError(name, override.value(), "fsbench has its own run directories and sweeps; use runs_dir=DIR")
        if override.is_delete():
            raise UsageError("", "", f"{name}: can't be deleted, every key is needed")
        if override.is_sweep_override() and not multirun:
            shown = (override.input_line or "").partition("=")[2]
            raise UsageError(name, shown, "several values; add -m to run each of them")
    if not multirun:
        return [overrides]
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None) or [[]]
    return [list(one) for one in batch]


def _compose(overrides: list[str]) -> Job:
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        composed = compose("train", overrides=overrides, return_hydra_config=True)
        choices = {
            group: choice
            for group, choice in composed.hydra.runtime.choices.items()
            if not group.startswith(("hydra", "recipe")) and choice not in (None, "null")
        }
        values: Any = OmegaConf.to_container(
            OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]), resolve=True
        )
    except (HydraException, OmegaConfBaseException) as failure:
        raise _explained(failure, overrides) from None
    own = tuple(override for override in overrides if not override.startswith("hydra."))
    return Job(load(values), choices, own)


def _explained(failure: Exception, overrides: list[str]) -> UsageError:
    """Name the override that can't be composed; fall back to Hydra's own first line."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    loader = GlobalHydra.instance().config_loader()
    # The search path may come from an override, so groups are looked up as this command line sees them.
    search = [override for override in overrides if override.startswith("hydra.searchpath=")]
    plain = compose("train", overrides=search)
    for override in OverridesParser.create(config_loader=loader).parse_overrides(overrides):
        key, value = override.key_or_group, override.value()
        groups = loader.get_group_options(key, None)
        if groups:
            options = [option for group in groups for option in _options(loader, key, group)]
            if isinstance(value, str) and value not in options:
                message = f"no such {key}{did_you_mean(value, options)}; allowed: {', '.join(options)}"
                return UsageError(key, value, message)
        elif not override.is_add() and OmegaConf.select(plain, key, throw_on_missing=False) is None:
            known = _keys(OmegaConf.to_container(plain)) + loader.get_group_options("", ObjectType.GROUP)
            if key not in known:
                near = did_you_mean(key, known)
                return UsageError(key, value, f"no such key{near or f'; to add one use +{key}={value}'}")
    return UsageError("", "", _first_line(failure))


def _options(loader: Any, group: str, name: str) -> list[str]:
    """The choice `name` of a group, or the choices in the folder of that name (`kim2022/table1`)."""
    from hydra.core.object_type import ObjectType

    inside = loader.get_group_options(f"{group}/{name}", ObjectType.CONFIG)
    return [f"{name}/{choice}" for choice in inside] or [name]


def _keys(node: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, child in node.items() if isinstance(node, dict) else ():
        keys += [prefix + name, *_keys(child, f"{prefix}{name}.")]
    return keys


def _first_line(failure: Exception) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return lines[0] if lines else type(failure).__name__
