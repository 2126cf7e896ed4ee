"""A reproduction by two workers is the one that is carried out one run after the other."""

from __future__ import annotations

import json

import pytest
from executors.engines import ENGINES, assert_same_runs, end, start


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_reproduction_on_an_engine(fsbench, papers, tmp_path, engine) -> None:
    package, chosen = ENGINES[engine]
    pytest.importorskip(package)
    words = ("reproduce", "--papers", str(papers), "made2099", "scale=tiny", "device=cpu")
    alone = fsbench(*words, "runs_dir=alone", "results_dir=serial")
    ended = end(start(tmp_path, *words, "runs_dir=pooled", "results_dir=results", *chosen))
    assert (alone.code, ended.code) == (0, 0)
    assert sum(line.endswith(", 1 measure") for line in ended.err.splitlines()) == 2
    assert_same_runs(tmp_path / "pooled", tmp_path / "alone")
    for run in (tmp_path / "alone").glob("*/sharpness.json"):
        mine, theirs = (
            json.loads((tmp_path / root / run.parent.name / "sharpness.json").read_text())["measures"]["fisher_trace"]
            for root in ("pooled", "alone")
        )
        assert mine["value"] == theirs["value"]
    command = json.loads((tmp_path / "results/made2099/table1/provenance.json").read_text())["command"]
    assert command == "fsbench reproduce made2099 scale=tiny device=cpu"
