"""Many command lines composed at once: lines that make the same choices share one composition."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsbench.config.compose import Job, compose_jobs
from fsbench.config.load import load
from fsbench.config.paths import conf_dir
from fsbench.config.primary import SHARPNESS
from fsbench.config.train import TrainConfig

if TYPE_CHECKING:
    from fsbench.config.sharpness import SharpnessConfig

# The value of another key, and nothing beside it: `seed: ${seed}`.
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_Choices = tuple[str, ...]
_Path = tuple[str, ...]


@dataclass(frozen=True)
class _Composed:
    """What a set of choices composes to.

    Args:
        values: the configuration, resolved.
        references: keys that take the value of another key.
        choices: of every group.
    """

    values: dict[str, Any]
    references: dict[_Path, _Path]
    choices: dict[str, str]


class Compositions:
    """Jobs of `fsbench train`, each what `compose_jobs` makes of its line, in a fraction of the time.

    Which files are composed depends on a line's choices (`model=resnet20`) alone; keys with values
    (`seed=1`, `dataset.noise=0.2`) are then set in turn, as Hydra does.
    """

    def __init__(self) -> None:
        self._groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
        self._composed: dict[_Choices, _Composed | None] = {}
        self._measuring: dict[_Choices, Job[SharpnessConfig]] = {}

    def job(self, line: Sequence[str]) -> Job[TrainConfig]:
        """The job of one line. Raises UsageError for whatever does not compose or check."""
        choices = tuple(word for word in line if word.partition("=")[0] in self._groups)
        if choices not in self._composed:
            self._composed[choices] = _compose(choices)
        composed = self._composed[choices]
        values = composed and _with_values(composed, [word for word in line if word not in choices])
        if not composed or values is None:
            # What is out of the ordinary is done, or explained, there.
            (job,) = compose_jobs(line, multirun=False)
            return job
        return Job(load(values, TrainConfig), dict(composed.choices), tuple(line))

    def measuring(self, line: Sequence[str]) -> Job[SharpnessConfig]:
        """The job of `fsbench sharpness` with this line. Raises UsageError likewise."""
        if tuple(line) not in self._measuring:
            (self._measuring[tuple(line)],) = compose_jobs(line, multirun=False, primary=SHARPNESS)
        return self._measuring[tuple(line)]


def _compose(choices: _Choices) -> _Composed | None:
    """None where the choices don't compose, or a value is made of others in a way of its own."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name="fsbench"):
        try:
            composed = compose("train", overrides=list(choices), return_hydra_config=True)
            config = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
            written: Any = OmegaConf.to_container(config, resolve=False)
            values: Any = OmegaConf.to_container(config, resolve=True)
        except (HydraException, OmegaConfBaseException, ValueError):
            return None
    chosen = {
        group: choice
        for group, choice in composed.hydra.runtime.choices.items()
        if not group.startswith(("hydra", "recipe", "executor")) and choice not in (None, "null")
    }
    references: dict[_Path, _Path] = {}
    for path, text in _texts(written):
        if found := _REFERENCE.fullmatch(text):
            references[path] = tuple(found.group(1).split("."))
        elif "${" in text and not text.startswith("${oc.env:"):
            return None
    return _Composed(values, references, chosen)


def _with_values(composed: _Composed, words: Sequence[str]) -> dict[str, Any] | None:
    """The configuration with keys set; None where that takes more than setting a plain key that is there."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException:
        return None
    values = copy.deepcopy(composed.values)
    references = dict(composed.references)
    for override in parsed:
        if override.is_add() or override.is_delete() or override.is_force_add() or override.is_sweep_override():
            return None
        path, value = tuple(override.key_or_group.split(".")), override.value()
        node = _node(values, path[:-1])
        if not isinstance(node, dict) or path[-1] not in node or isinstance(node[path[-1]], dict):
            return None
        if isinstance(value, dict) or "${" in str(value):
            return None
        node[path[-1]] = _plain(value)
        references.pop(path, None)
    for path, other in references.items():
        _node(values, path[:-1])[path[-1]] = _node(values, other)
    return values


def _plain(value: Any) -> Any:
    """As YAML has it: without the marks that the override grammar leaves on quoted text."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _node(values: Any, path: _Path) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _texts(values: Any, path: _Path = ()) -> list[tuple[_Path, str]]:
    """All texts of a configuration, with the keys that lead to them; those in lists with the list's."""
    if isinstance(values, str):
        return [(path, values)]
    items = values.items() if isinstance(values, dict) else [(None, one) for one in values or ()] if isinstance(
        values, list) else ()  # fmt: skip
    return [found for key, one in items for found in _texts(one, path if key is None else (*path, key))]
