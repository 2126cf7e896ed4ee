"""Reading what lies in a run directory, whoever wrote it: whatever can't be read is `Unreadable`, and nothing else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from fsbench.errors import UsageError

# The largest of ours has a few hundred KiB.
_JSON_BYTES = 16 * 2**20
# Its reader is slow; ours have 4 KiB.
_YAML_BYTES = 2**18
_DEPTH = 20


class Unreadable(UsageError):
    """A file that is there and can't be read.

    Args:
        why: what is wrong with it.
        advice: what to do, after a semicolon.
    """

    def __init__(self, path: Path | str, why: str, advice: str = "") -> None:
        super().__init__("", "", f"unreadable: {path} ({why}){advice and '; '}{advice}")
        self.path, self.why = Path(path), why

    def __reduce__(self):
        return UsageError, ("", "", self.problem)

    def advising(self, advice: str) -> Unreadable:
        return Unreadable(self.path, self.why, advice)


def read_json(path: Path) -> dict[str, Any]:
    """The table of values that a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it is no plain file of text, too large, not JSON, nested too deeply, or no table.
    """
    return _parsed(path, _text(path, _JSON_BYTES))


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """As `read_json`; empty where the file is not there, or can't be read."""
    try:
        return read_json(path)
    except (FileNotFoundError, Unreadable):
        return {}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The tables of values that the lines of a file hold; raises as `read_json`."""
    return [_parsed(path, line) for line in _text(path, _JSON_BYTES).splitlines()]


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return _table(path, json.loads(text))
    except RecursionError:
        raise Unreadable(path, "nested too deeply") from None
    except ValueError:
        raise Unreadable(path, "not JSON") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The table of values that a YAML file holds; raises as `read_json`."""
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """Without references, which make a few lines as large as one likes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError
            return super().compose_node(parent, index)

    text = _text(path, _YAML_BYTES)
    try:
        return _table(path, yaml.load(text, PlainLoader))
    except RecursionError:
        raise Unreadable(path, "nested too deeply") from None
    except (yaml.YAMLError, ValueError):
        raise Unreadable(path, "not YAML") from None


def _text(path: Path, largest: int) -> str:
    try:
        # Not waiting for the other end of a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as failure:
        raise Unreadable(path, str(failure.strerror)) from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(path, "not a file")
        if found.st_size > largest:
            raise Unreadable(path, f"larger than {largest / 2**20:g} MiB")
        with open(handle, "rb", closefd=False) as file:
            return file.read(largest).decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(path, "not text") from None
    except OSError as failure:
        raise Unreadable(path, str(failure.strerror)) from None
    finally:
        os.close(handle)


def _table(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(path, "not a table of values")
    level: list[Any] = [value]
    for _ in range(_DEPTH):
        if any(not isinstance(key, str) for outer in level if isinstance(outer, dict) for key in outer):
            raise Unreadable(path, "a key is no text")
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, (dict, list))]
        if not level:
            return value
    raise Unreadable(path, "nested too deeply")
