"""Standard streams that are closed, full, without a reader or without the letters: the work goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = ("dataset=digits", "model=mlp", "model.widths=[8]", "trainer.epochs=1", "trainer.max_steps=3")
COMMAND = f"{sys.executable} -m fsbench"
STREAMS = {"stderr closed": "2>&-", "all closed": "<&- >&- 2>&-", "both full": ">/dev/full 2>/dev/full"}


def shell(line: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=place, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("streams", STREAMS.values(), ids=STREAMS)
def test_a_sweep_is_trained_whatever_becomes_of_its_lines(tmp_path, streams) -> None:
    done = shell(f"{COMMAND} train -m {' '.join(QUICK)} seed=0,1 {streams}", tmp_path)
    assert (done.returncode, len(list(tmp_path.glob("runs/*/summary.json")))) == (0, 2), done.stderr
    for path in tmp_path.rglob("*.json"):
        assert path.read_text().startswith("{")  # no file was given the number of a stream


def test_tables(tmp_path) -> None:
    assert shell(f"{COMMAND} train -m {' '.join(QUICK)} seed=0,1", tmp_path).returncode == 0
    full = shell(f"{COMMAND} table > /dev/full", tmp_path)
    assert (full.returncode, full.stderr) == (1, "fsbench: OSError: [Errno 28] No space left on device\n")
    assert shell(f"{COMMAND} table | true; exit ${{PIPESTATUS[0]}}", tmp_path).returncode == 0
    plain = shell(f"{COMMAND} table", tmp_path, PYTHONIOENCODING="ascii")
    assert plain.returncode == 0
    assert " +- " in plain.stdout
    assert " ± " in shell(f"{COMMAND} table", tmp_path, PYTHONIOENCODING="utf-8").stdout


def test_an_interruption_in_generated_code_ends_with_130(tmp_path) -> None:
    """As Ctrl-C in the middle of an import, where a dataclass is made."""
    (tmp_path / "interrupted.py").write_text(
        "from fsbench.cli import main\n"
        "main._dispatch = lambda arguments: exec('raise KeyboardInterrupt')\n"
        "raise SystemExit(main.main([]))\n"
    )
    done = shell(f"{sys.executable} -m interrupted", tmp_path)
    assert (done.returncode, done.stderr) == (130, "fsbench: interrupted\n")
