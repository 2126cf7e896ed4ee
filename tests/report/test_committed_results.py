"""The committed tables are those that the code makes of the committed runs."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from fsbench.papers import artefacts
from fsbench.papers.artefact import Artefact
from fsbench.report.artefact import render

RESULTS = Path(__file__).parents[2] / "results"
TRAINED = [name for name, one in artefacts().items() if isinstance(one, Artefact) and (RESULTS / name).is_dir()]


def test_some_are_committed() -> None:
    assert len(TRAINED) >= 6


@pytest.mark.parametrize("name", TRAINED)
def test_rendered_again(name) -> None:
    artefact, directory, what = artefacts()[name], RESULTS / name, name.rpartition("/")[2]
    runs = pd.read_csv(directory / f"{what}_runs.csv", dtype=dict.fromkeys(artefact.axes, str))
    texts, _ = render(artefact, runs, json.loads((directory / "provenance.json").read_text())["cuts"])
    for file in (f"{what}.md", f"{what}.tex", f"{what}_runs.csv"):
        assert texts[file] == (directory / file).read_text(), file
    # Runs are stored with ten digits, so that of their means the last may differ.
    table = pd.read_csv(directory / f"{what}.csv")
    again = pd.read_csv(StringIO(texts[f"{what}.csv"]))
    pd.testing.assert_frame_equal(again, table, rtol=1e-7)
