"""Every artefact at the scale `tiny`, from nothing to its files: three of them always, the others in the slow set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsbench.papers import artefacts
from fsbench.papers.artefact import Computed

FAST = ("kim2022/fig2", "tsuzuku2019/appA", "ibayashi2021/fig2")
# Those compute on MNIST itself; the others are trained on the embedded digits.
ON_MNIST = ("ibayashi2021/fig1", "ibayashi2021/fig3")

CASES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in artefacts() if name not in ON_MNIST
]


@pytest.mark.parametrize("name", CASES)
def test_at_tiny(fsbench, name) -> None:
    ended = fsbench("reproduce", name, "scale=tiny", "device=cpu", "progress=false")
    assert ended.code == 0, ended.err
    paper, what = name.split("/")
    directory = Path("results") / paper / what
    written = {path.suffix for path in directory.iterdir()}
    assert {".csv", ".md", ".tex", ".json"} <= written
    text = (directory / f"{what}.md").read_text()
    # The digits have ten classes: no top-5 accuracy is recorded of them.
    missing = text.partition("## Missing")[2].splitlines()
    assert all("top5" in line for line in missing if line.startswith("- "))
    record = json.loads((directory / "provenance.json").read_text())
    assert record["scale"] == "tiny"
    if not isinstance(artefacts()[name], Computed):
        assert {".png", ".svg"} <= written
        # What was cut stands in the caption.
        assert "epochs" in text or "Left out" in text
        again = fsbench("reproduce", name, "scale=tiny", "device=cpu", "progress=false")
        assert again.code == 0
        assert "to train" not in again.err
