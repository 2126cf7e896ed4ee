"""The components that can be chosen for a config group: each is one class, with its name, options, checks and facts."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

from fsbench.config.options import Options
from fsbench.config.paths import conf_dir
from fsbench.errors import did_you_mean
from fsbench.plugins import load_plugins

# Where the components of a group are declared.
_DECLARED_IN = {
    "model": "fsbench.config.model",
    "dataset": "fsbench.config.dataset",
    "augment": "fsbench.config.augment",
    "optimizer": "fsbench.config.optimizer",
    "base": "fsbench.config.optimizer",
    "loss": "fsbench.config.loss",
    "schedule": "fsbench.config.schedule",
    "logger": "fsbench.config.train",
    "executor": "fsbench.config.executor",
    "measure": "fsbench.config.sharpness",
}
_GROUPS: dict[str, type[Component]] = {}
_TABLE: dict[str, dict[str, type[Component]]] = {}


class Component(Options):
    """One choice of a config group, as the checked record of its options.

    A group is a subclass; a component is a subclass of its group's, and in the table by being defined:

        class WideResNet(ModelOptions, name="wrn"):
            depth: int

    A field of the group's type takes whatever the table holds under the name that is given.

    Attributes:
        group: the config group.
        key: the option that holds the component's name.
        title: what tables and figures call it.
        builder: what makes it: the object, or where it is, `module:object`, imported when it is needed.
        source: sha256 of the text that declares a component of a user's; empty for those of fsbench.
        file: that text's file, where it has one.
        own: options of its own that its group has as well.
        node: what its config node holds beside its options, or instead of their defaults.
    """

    group: ClassVar[str]
    key: ClassVar[str] = "name"
    title: ClassVar[str | None] = None
    builder: ClassVar[str | Callable[..., Any]] = ""
    source: ClassVar[str] = ""
    file: ClassVar[str] = ""
    own: ClassVar[tuple[str, ...]] = ()
    node: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, group: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if group is not None:
            cls.group = group
            _GROUPS[group], _TABLE[group] = cls, {}
        if name is not None:
            _TABLE[cls.group][name] = cls
            # The default of the option that holds the name; pydantic collects the fields after this.
            setattr(cls, cls.key, name)

    @model_validator(mode="wrap")
    @classmethod
    def _by_name(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        known = components(cls.group)
        if cls in known.values() or not isinstance(value, Mapping):
            given = isinstance(value, Mapping)
            return handler({key: one for key, one in value.items() if one != "???"} if given else value)
        name = value.get(cls.key, cls.model_fields[cls.key].default)
        if not isinstance(name, str):
            raise PydanticCustomError("unnamed", "has to be given", {"key": cls.key})
        if name not in known:
            allowed = f"must be one of {', '.join(known)}{did_you_mean(str(name), known)}"
            raise PydanticCustomError("unknown", "{allowed}", {"key": cls.key, "name": name, "allowed": allowed})
        return known[name].model_validate(value)  # type: ignore[return-value]

    @classmethod
    def line(cls) -> str:
        """The first line of its docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """What is said of its options below their declarations."""
        found: dict[str, str] = {}
        for kind in reversed(cls.__mro__):
            if not issubclass(kind, Component) or kind.source:
                continue
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            assert isinstance(body, ast.ClassDef)
            for one, after in pairwise(body.body):
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(after, ast.Expr):
                    found[one.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
        return found

    @classmethod
    def built_by(cls) -> Any:
        """The function that builds it, imported now."""
        return pkgutil.resolve_name(cls.builder) if isinstance(cls.builder, str) else cls.builder

    @classmethod
    def as_node(cls) -> dict[str, Any]:
        """Its config node: the name and its options at their defaults."""
        options: dict[str, Any] = {}
        for option, field in cls.model_fields.items():
            if not field.is_required():
                options[option] = field.get_default(call_default_factory=True)
            elif option in cls.own or option not in _GROUPS[cls.group].model_fields:
                options[option] = "???"  # has to be given
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
        return {**plain, **cls.node}

    def __reduce__(self) -> Any:
        # By name: the class of a user's component is there once the plugin is read.
        return _GROUPS[self.group].model_validate, (self.model_dump(),)

    def arguments(self) -> dict[str, Any]:
        """Its own options, without those that its whole group has."""
        shared = {"plugin", *_GROUPS[self.group].model_fields}.difference(self.own)
        return {name: getattr(self, name) for name in type(self).model_fields if name not in shared}


def components(group: str) -> dict[str, type[Component]]:
    """The components of a config group by name, those of plugins among them."""
    load_plugins()
    importlib.import_module(_DECLARED_IN[group])
    return _TABLE[group]


def group_of(name: str) -> type[Component]:
    """The type of all components of a config group."""
    importlib.import_module(_DECLARED_IN[name])
    return _GROUPS[name]


def offered(group: str) -> dict[str, str]:
    """Name and line of the components that no file of conf/ names: of groups without one, and those a user brings."""
    in_files = (conf_dir() / group).is_dir()
    found = components(group) if group in _DECLARED_IN else {}
    return {name: component.line() for name, component in found.items() if component.source or not in_files}


def offer() -> None:
    """Let Hydra offer these as choices of their groups."""
    from hydra.core.config_store import ConfigStore

    for group in _DECLARED_IN.keys() - {"measure"}:
        for name in offered(group):
            ConfigStore.instance().store(name, components(group)[name].as_node(), group, provider="fsbench")
