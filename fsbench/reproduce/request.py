"""The command line of `fsbench reproduce`, taken apart and checked; nothing is composed yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fsbench.config.compose import Composer
from fsbench.config.primary import REPRODUCE
from fsbench.config.reproduce import ReproduceConfig
from fsbench.errors import UsageError, did_you_mean
from fsbench.papers.artefact import Artefact, Computed, Values

KEYS = tuple(ReproduceConfig.model_fields)
# Keys of measuring: `sharpness.samples=100` is `samples=100` of fsbench sharpness.
SHARPNESS = "sharpness."
# What the artefact settles itself.
_SETTLED = {"experiment": "the artefact names its own", "seed": "seeds=N takes the first N"}
_SWEEPS = ("range(", "choice(", "glob(", "interval(")


@dataclass(frozen=True)
class Request:
    """A command line of `fsbench reproduce`.

    Args:
        artefacts: in the order of the command line.
        chosen: KEY=VALUES for each artefact's runs: values of an axis, or one value that all cells get.
        sharpness: overrides for measuring.
    """

    artefacts: tuple[Artefact | Computed, ...]
    config: ReproduceConfig
    chosen: Mapping[str, Values]
    sharpness: Values


def read_request(words: Sequence[str], known: Mapping[str, Artefact | Computed], composer: Composer) -> Request:
    """Take a command line apart.

    Args:
        words: artefacts (names, globs, a paper's name) and KEY=VALUE.
        known: all artefacts by name.

    Raises:
        UsageError: no such artefact or key; a value that is not allowed.
    """
    artefacts = [known[name] for name in _named([word for word in words if "=" not in word], known)]
    axes = {axis for artefact in artefacts if isinstance(artefact, Artefact) for axis in artefact.axes}
    groups = set(composer.groups()) - {"hydra", "recipe", *_SETTLED}
    own: list[str] = []
    chosen: dict[str, Values] = {}
    sharpness: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            continue
        if key in KEYS or key.startswith("executor."):
            own.append(word)
        elif key in _SETTLED:
            raise UsageError(key, value, f"can't be given, {_SETTLED[key]}")
        elif key.startswith(SHARPNESS):
            sharpness.append(word.removeprefix(SHARPNESS))
        elif key in axes or key in groups or "." in key:
            if value.startswith(_SWEEPS):
                raise UsageError(key, value, "list the values, with commas between them")
            chosen[key] = _split(value)
        else:
            near = did_you_mean(key, [*KEYS, *axes, *groups])
            raise UsageError(key, value, f"no such key{near or '; see fsbench reproduce --help'}")
    config = composer.job(own, primary=REPRODUCE).config
    return Request(tuple(artefacts), config, chosen, tuple(sharpness))


def _named(patterns: Sequence[str], known: Iterable[str]) -> list[str]:
    """The artefacts that names, globs and papers' names stand for, each once."""
    names = list(known)
    if not patterns:
        raise UsageError("", "", "name a table or figure, such as kim2022/table1; `fsbench reproduce list` shows them")
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = [
            name for name in names if fnmatchcase(name, pattern) or name.partition("/")[0] == pattern.rstrip("/")
        ]
        if not matching:
            near = did_you_mean(pattern, [*names, *(name.partition("/")[0] for name in names)])
            raise UsageError("", "", f"{pattern}: no such table or figure{near}; `fsbench reproduce list` shows them")
        found |= dict.fromkeys(matching)
    return list(found)


def _split(text: str) -> Values:
    """`a,b` as ("a", "b"); commas in brackets and quotes separate nothing."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return tuple(dict.fromkeys(part.strip() for part in parts))
