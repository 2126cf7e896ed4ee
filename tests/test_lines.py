"""Lines for people: text of others on a terminal, and streams that are closed, full, unread or without the letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fsbench.cli.main import main
from fsbench.lines import printable

QUICK = ("dataset=digits", "model=mlp", "model.widths=[8]", "trainer.epochs=1", "trainer.max_steps=3")
COMMAND = f"{sys.executable} -m fsbench"
STREAMS = {"stderr closed": "2>&-", "all closed": "<&- >&- 2>&-", "both full": ">/dev/full 2>/dev/full"}
IN_A_PROCESS = "all closed"  # the others in the slow set, full ones in this process too


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("97.2 ± 0.1 | ρ\u00a0≤ 1, Ångström 数", "97.2 ± 0.1 | ρ\u00a0≤ 1, Ångström 数"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\rb\x9b1m", "a\\rb\\x9b1m"),
        ("\u202egnp.exe\u2066\u200b", "\\u202egnp.exe\\u2066\\u200b"),
        ("\u2028\ud83d\U000e0041", "\\u2028\\ud83d\\U000e0041"),
    ],
    ids=["plain", "lines", "escape", "return", "turned", "others"],
)
def test_printable(text, shown) -> None:
    assert printable(text) == shown


def test_a_label_of_others_in_a_table(fsbench, quick) -> None:
    fsbench("train", *quick, "trainer.max_steps=1", "run_name=x")
    summary = json.loads(Path("runs/x/summary.json").read_text())
    summary["choices"]["model"] = "\x1b]0;title\x07 [a](http://b) ![c](d)"
    Path("runs/x/summary.json").write_text(json.dumps(summary))
    said = fsbench("table", "--by", "model", "--columns", "steps").out
    assert "| \\x1b]0;title\\x07 [a\\](http\\://b) ![c\\](d) |" in said
    assert not {"\x1b", "\x07"} & {*said}
    summary["choices"]["model"] = "=cmd|' /C calc'!A0"
    summary["config"]["trainer"]["epochs"] = -2
    Path("runs/x/summary.json").write_text(json.dumps(summary))
    said = fsbench("table", "--by", "model,trainer.epochs", "--columns", "steps", "--format", "csv").out
    assert said.splitlines()[1] == "'=cmd|' /C calc'!A0,-2,1,1.0,"


def shell(line: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=place, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "streams",
    [pytest.param(one, id=name, marks=() if name == IN_A_PROCESS else pytest.mark.slow)
     for name, one in STREAMS.items()],
)  # fmt: skip
def test_a_sweep_is_trained_whatever_becomes_of_its_lines(tmp_path, streams) -> None:
    done = shell(f"{COMMAND} train -m {' '.join(QUICK)} seed=0,1 {streams}", tmp_path)
    assert (done.returncode, len(list(tmp_path.glob("runs/*/summary.json")))) == (0, 2), done.stderr
    for path in tmp_path.rglob("*.json"):
        assert path.read_text().startswith("{")  # no file was given the number of a stream


def test_a_sweep_is_trained_where_nothing_can_be_written_to_its_streams(fsbench, monkeypatch) -> None:
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        code = main(["train", "-m", *QUICK, "seed=0,1"])
    assert (code, len(list(Path("runs").glob("*/summary.json")))) == (0, 2)


def test_tables(fsbench, tmp_path) -> None:
    assert fsbench("train", "-m", *QUICK, "seed=0,1").code == 0
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
