"""The files and modules in which a user declares components of their own, and reading them.

They are named on the command line (`--plugin mine.py`), in the environment (`FSBENCH_PLUGINS`), or by installed
packages (entry points `fsbench.plugins`); never by a run directory, which anybody may have written.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError, first_line

VARIABLE = "FSBENCH_PLUGINS"
ENTRY_POINTS = "fsbench.plugins"
# Before the name of a file that is read as a module: no installed package is called so.
PREFIX = "fsbench_plugin_"

# Plugins that were read, with the sha256 of their files, and the one that is read now.
_read: dict[str, str] = {}
_reading: list[str] = []


def name_plugins(names: Sequence[str]) -> None:
    """Add plugins to those of the environment, where every process that is started finds them; files by full path."""
    found = [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    found += [os.path.abspath(name) if name.endswith(".py") else name for name in names]
    if found:
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(found))


def taken_out(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What `--plugin` names, wherever on the line it stands, and the rest of the line."""
    named: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--plugin":
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value:
            raise UsageError("--plugin", "(missing)", "needs a file, mine.py, or a module")
        named.append(value)
    return named, rest


def load_plugins() -> None:
    """Read the plugins of the environment and of installed packages, each once.

    Raises:
        UsageError: one is not there, can't be read, or declares what it may not.
    """
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if name.endswith(".py") and not os.path.isfile(name):
            raise UsageError("--plugin", name, "there is no such file")
        _load(name, partial(_of_file if name.endswith(".py") else importlib.import_module, name))
    for entry in _installed():
        _load(entry.value, entry.load)


@cache
def _installed() -> metadata.EntryPoints:
    return metadata.entry_points(group=ENTRY_POINTS)


def plugins_read() -> dict[str, str]:
    """The plugins that were read, and the sha256 of the file of each."""
    return dict(_read)


def _load(name: str, read: Callable[[], Any]) -> None:
    if name in _read or _reading:
        return
    _reading.append(name)  # what it declares looks into the table, which has plugins read first
    try:
        module = read()
    except UsageError as failure:
        raise UsageError("--plugin", name, str(failure)) from None
    except (Exception, SystemExit) as failure:  # whatever the file may raise
        problem = f"can't be read, {type(failure).__name__}: {first_line(failure)}"
        raise UsageError("--plugin", name, problem) from failure
    finally:
        _reading.clear()
    file = getattr(module, "__file__", None)
    _read[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _of_file(name: str) -> Any:
    path = Path(name)
    spec = importlib.util.spec_from_file_location(f"{PREFIX}{path.stem}", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
