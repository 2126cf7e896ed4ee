"""An optimizer under test: how it is made and stepped, as the lines of Python that a script begins with."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError

# How a step is made of a closure that clears, computes and returns: `--api`.
APIS = {
    "closure": "    return optimizer.step(closure)",
    "backward_first": "    loss = closure()\n    optimizer.step(closure)\n    return loss",
    "first_second": "    loss = closure()\n    optimizer.first_step(zero_grad=True)\n    closure()\n"
    "    optimizer.second_step(zero_grad=True)\n    return loss",
}  # fmt: skip
# Names of an argument that takes the class of the base.
_BASES = ("base", "base_optimizer", "base_cls", "optimizer_cls")


@dataclass(frozen=True)
class Subject:
    """A class, and how to use it.

    Args:
        target: `module:Class`.
        base: `torch.optim.SGD`, the class that it wraps.
        api: one of `APIS`, or a file that defines `make` and `step` itself; None: by the class's methods.
        options: keyword arguments by name, as text: {"adaptive": "True"}.
    """

    target: str
    base: str
    api: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The lines that define `make(params, **options)` and `step(optimizer, closure)`.

        Raises:
            UsageError: there is no such module, class, file or option.
        """
        if self.api is not None and self.api not in APIS:
            return _text(self.api)
        module, _, name = self.target.partition(":")
        found = self._class()
        takes = inspect.signature(found).parameters
        api = self.api or ("first_second" if hasattr(found, "first_step") else "closure")
        base = next((argument for argument in _BASES if argument in takes), None)
        given = [f"{base}={self.base}"] if base else []
        given += [f"{key}={_literal(key, value)}" for key, value in self.options.items()]
        arguments = ", ".join(["params", *given, "**options"])
        made = f"def make(params, **options):\n    return {name}({arguments})"
        stepped = f"def step(optimizer, closure):\n{APIS[api]}"
        return f"import torch\nfrom {module} import {name}\n\n\n{made}\n\n\n{stepped}\n"

    @property
    def package(self) -> str:
        """The distribution and its version, where it has one: `pytorch_optimizer 4.1.0`."""
        top = self.target.partition(":")[0].partition(".")[0]
        names = importlib.metadata.packages_distributions().get(top, [top])
        try:
            return f"{names[0]} {importlib.metadata.version(names[0])}"
        except importlib.metadata.PackageNotFoundError:
            return top

    def load(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """`make` and `step`."""
        names: dict[str, Any] = {}
        exec(compile(self.source, self.target, "exec"), names)
        return names["make"], names["step"]

    def _class(self) -> Any:
        module, colon, name = self.target.partition(":")
        if not colon or not name.isidentifier():
            raise UsageError("", "", f"{self.target}: must read MODULE:CLASS, such as fsbench.optim:FSAM")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError as failure:
            raise UsageError("", "", f"{self.target}: {failure}") from None
        except AttributeError:
            raise UsageError("", "", f"{self.target}: {module} has no {name}") from None


def _text(file: str) -> str:
    try:
        text = Path(file).read_text(encoding="utf-8")
        defined = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    except (OSError, UnicodeError, SyntaxError) as failure:
        allowed = f"must be one of {', '.join(APIS)}, or a Python file"
        raise UsageError("--api", file, f"{allowed} ({failure})") from None
    if lacking := {"make", "step"} - defined:
        raise UsageError("--api", file, f"does not define {' and '.join(sorted(lacking))}")
    return text


def _literal(key: str, value: str) -> str:
    """A number, True, False or a text as Python writes it."""
    try:
        return repr(ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(value, value)))
    except (ValueError, SyntaxError):
        return repr(value)
