"""Text of others on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsbench.lines import printable


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
