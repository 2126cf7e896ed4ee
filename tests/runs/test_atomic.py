"""A reader never meets half a file."""

from __future__ import annotations

import errno
import os

import pytest

from fsbench.errors import UsageError
from fsbench.runs.atomic import atomic_path, remove_parts, write_json, write_text


def test_a_failure_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), atomic_path(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["summary.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_usage_error(tmp_path, number) -> None:
    with pytest.raises(UsageError, match="no space left on the disk"), atomic_path(tmp_path / "x") as part:
        part.write_text("half")
        raise OSError(number, "full")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path) -> None:
    (tmp_path / ".checkpoint.pt.123.part").write_text("half")
    write_text(tmp_path / "config.yaml", "a: 1\n")
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == ["config.yaml"]
