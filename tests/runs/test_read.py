"""Files that anybody may have written: a table of values, or one line that says why there is none."""

from __future__ import annotations

import os

import pytest

from fsbench.runs.read import Unreadable, read_json, read_yaml

JSON = {
    "cut": ('{"a": ', "not JSON"),
    "list": ("[1]", "not a table of values"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep table": ('{"a": ' * 100 + "1" + "}" * 100, "nested too deeply"),
    "digits": ('{"a": ' + "1" * 5000 + "}", "not JSON"),
    "bytes": (b"\xff\xfe", "not text"),
    "oversized": (b" " * (16 * 2**20 + 1), "larger than 16 MiB"),
}
YAML = {
    "cut": ("a: [", "not YAML"),
    "list": ("- 1", "not a table of values"),
    "deep": ("[" * 10_000, "nested too deeply"),
    "references": ("a: &a [1]\nb: *a\n", "not YAML"),
    "code": ("a: !!python/object/apply:os.getcwd []", "not YAML"),
    "number as key": ("1: 2", "a key is no text"),
    "oversized": (b" " * (2**18 + 1), "larger than 0.25 MiB"),
}
CASES = [(read_json, *case) for case in JSON.values()] + [(read_yaml, *case) for case in YAML.values()]


@pytest.mark.parametrize(("read", "content", "why"), CASES, ids=[*JSON, *(f"yaml {name}" for name in YAML)])
def test_what_is_unreadable(tmp_path, read, content, why) -> None:
    path = tmp_path / "x"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Unreadable) as met:
        read(path)
    assert str(met.value) == f"unreadable: {path} ({why})"


def test_what_is_no_file(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    said = {"pipe": "not a file", ".": "not a file", "loop": "Too many levels of symbolic links"}
    for name, why in said.items():
        with pytest.raises(Unreadable, match=why):
            read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing")


def test_what_is_readable(tmp_path) -> None:
    (tmp_path / "x").write_text('{"a": {"b": [1, null, 2.5]}}')
    assert read_json(tmp_path / "x") == read_yaml(tmp_path / "x") == {"a": {"b": [1, None, 2.5]}}
