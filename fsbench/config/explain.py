"""Why a command line does not compose, in one line that names the override at fault."""

from __future__ import annotations

from typing import Any

from fsbench.errors import UsageError, did_you_mean, first_line


def explained(failure: Exception, overrides: list[str]) -> UsageError:
    """Name the override that can't be composed; fall back to Hydra's own first line. Needs Hydra initialised."""
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
