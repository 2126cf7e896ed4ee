"""A reader never meets half a file."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fsbench.errors import UsageError
from fsbench.runs.atomic import atomic_path, remove_parts, scratch_directory, write_json, write_text


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


# Writes half a file, or into a directory, until it is killed.
WRITER = """
import sys, time
from pathlib import Path
from fsbench.runs.atomic import atomic_path, scratch_directory
with (atomic_path if sys.argv[1] == "file" else scratch_directory)(Path(sys.argv[2])) as part:
    (part if sys.argv[1] == "file" else part / "x").write_text("half")
    print(part, flush=True)
    time.sleep(60)
"""


def writer(kind: str, where: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, kind, str(where)], stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path, kind) -> None:
    def write() -> None:
        if kind == "file":
            write_text(tmp_path / "x.json", "whole")
        else:
            with scratch_directory(tmp_path):
                pass

    with writer(kind, tmp_path / "x.json" if kind == "file" else tmp_path)[0] as process:
        (part,) = tmp_path.iterdir()
        assert part.stat().st_mode & 0o077 == 0 or kind == "file"
        write()
        remove_parts(tmp_path)
        assert part.exists()
        process.send_signal(signal.SIGKILL)
    assert part.exists()
    write()
    assert os.listdir(tmp_path) == (["x.json"] if kind == "file" else [])


def test_leftovers_of_another_name_are_not_its_business(tmp_path) -> None:
    (tmp_path / ".other.json.1.part").write_text("half")
    write_text(tmp_path / "x.json", "whole")
    assert sorted(os.listdir(tmp_path)) == [".other.json.1.part", "x.json"]
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == ["x.json"]


def test_eight_writers_with_one_process_number(tmp_path, monkeypatch) -> None:
    """In containers every process is the first."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "x.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_json(path, {"by": i, "more": [i] * 1000}), range(80)))
    found = json.loads(path.read_text())
    assert found["more"] == [found["by"]] * 1000
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_link_is_replaced_not_followed(tmp_path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "x.json").symlink_to("precious")
    write_text(tmp_path / "x.json", "whole")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "x.json").is_symlink()
