"""Why a command line does not compose, in one line that names the override at fault."""

from __future__ import annotations

from typing import Any

from fsbench.config.primary import Primary
from fsbench.errors import UsageError, did_you_mean, first_line


def explained(failure: Exception, overrides: list[str], primary: Primary) -> UsageError:
    """Name the override that can't be composed; fall back to Hydra's own first line. Needs Hydra initialised."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    # Groups and the search path first: which keys there are depends on them.
    chosen = [o.input_line or "" for o in parsed if o.key_or_group == "hydra.searchpath"]
    for override in parsed:
        key, value = override.key_or_group, override.value()
        groups = loader.get_group_options(key, None)
        if not groups:
            continue
        options = [option for group in groups for option in _options(loader, key, group)]
        if value not in options and not (key in primary.nullable and value is None):
            message = f"no such {key}{did_you_mean(str(value), options)}; allowed: {', '.join(options)}"
            return UsageError(key, value, message)
        chosen.append(override.input_line or "")
    plain = OmegaConf.to_container(compose(primary.name, overrides=chosen))
    known = _keys(plain) + list(primary.groups or loader.get_group_options("", ObjectType.GROUP))
    named = {override.key_or_group for override in parsed}
    for override in parsed:
        key = override.key_or_group
        group, dot, _ = key.partition(".")
        if dot and group in (primary.groups or ()) and key not in known and group not in named:
            choices = ", ".join(loader.get_group_options(group, ObjectType.CONFIG))
            return UsageError(key, override.value(), f"choose a {group} first: {group}=NAME, one of {choices}")
        if not override.is_add() and key not in known and not key.startswith("hydra."):
            near = did_you_mean(key, known)
            return UsageError(
                key, override.value(), f"no such key{near or f'; to add one use +{key}={override.value()}'}"
            )
    return UsageError("", "", first_line(failure))


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
