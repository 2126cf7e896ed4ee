"""Why a command line does not compose, in one line that names the override at fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fsbench.config.primary import Primary
from fsbench.errors import UsageError, did_you_mean, first_line

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

# The choices of a group, and the folders of choices in it.
Options = Callable[[str], list[str]]


def bad_choice(failure: Exception, parsed: Sequence[Override], primary: Primary, options: Options) -> UsageError:
    """Name the choice for which there is no file; fall back to Hydra's own first line."""
    for override in parsed:
        key, value = override.key_or_group, override.value()
        names = [] if isinstance(value, dict) else options(key)
        # Of a folder of choices each of them: kim2022/table1.
        allowed = [one for name in names for one in ([f"{name}/{i}" for i in options(f"{key}/{name}")] or [name])]
        if allowed and value not in allowed and not (key in primary.nullable and value is None):
            message = f"no such {key}{did_you_mean(str(value), allowed)}; allowed: {', '.join(allowed)}"
            return UsageError(key, value, message)
    return UsageError("", "", first_line(failure))


def bad_key(
    failure: Exception, parsed: Sequence[Override], primary: Primary, options: Options, merged: Any
) -> UsageError:
    """Name the key that is not in the merged files; fall back to Hydra's own first line."""
    known = [*_keys(merged), *(primary.groups or options(""))]
    named = {override.key_or_group for override in parsed}
    for override in parsed:
        key, value = override.key_or_group, override.value()
        group, dot, _ = key.partition(".")
        if dot and group in (primary.groups or ()) and key not in known and group not in named:
            problem = f"choose a {group} first: {group}=NAME, one of {', '.join(options(group))}"
            return UsageError(key, value, problem)
        if not override.is_add() and key not in known and not key.startswith("hydra."):
            near = did_you_mean(key, known)
            return UsageError(key, value, f"no such key{near or f'; to add one use +{key}={value}'}")
    return UsageError("", "", first_line(failure))


def _keys(node: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, child in node.items() if isinstance(node, dict) else ():
        keys += [prefix + name, *_keys(child, f"{prefix}{name}.")]
    return keys
