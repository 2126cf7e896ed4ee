"""Eight processes at once write the same files, each with the same process number, as in containers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from drill.processes import Place, readable, same_files, same_runs

pytestmark = pytest.mark.slow

COUNT = 8
# Every process in a container of its own is the first.
FIRST = "import os, sys; os.getpid = lambda: 1; from fsbench.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
SMALL = ("dataset=digits", "model=mlp", "model.widths=[16]", "trainer.epochs=1", "trainer.progress=false")


def at_once(place: Place, lines: list[list[str]]) -> float:
    """Start them all and see that each ends well; returns how long they took."""
    begun = time.monotonic()
    processes = [place.start(*line, program=("-c", FIRST)) for line in lines]
    ended = [(process.communicate(timeout=600)[1], process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * len(lines), ended
    assert place.litter() == []
    readable(place.path)
    return time.monotonic() - begun


def test_sharpness_of_one_run(tmp_path, capsys) -> None:
    place = Place(tmp_path)
    place.run("train", *SMALL, "run_name=x")
    names = ["trace", "fisher_trace", "frobenius", "fisher_rao", "normalized", "minimum", "worst_case", "spectral"]
    lines = [["sharpness", "run=runs/x", f"measures=[{name}]", "samples=50", "progress=false"] for name in names]
    seconds = at_once(place, lines)
    content = json.loads((tmp_path / "runs/x/sharpness.json").read_text())
    # All are there: nothing is measured again.
    place.run("sharpness", "run=runs/x", f"measures=[{','.join(names)}]", "samples=50", "progress=false")
    assert json.loads((tmp_path / "runs/x/sharpness.json").read_text()) == content
    with capsys.disabled():
        print(f"\nsharpness of one run: {COUNT} writers, {seconds:.1f} s, all entries kept")


def test_one_artefact_and_its_runs(papers, tmp_path, capsys) -> None:
    """Runs that another process is at work on are waited for; the files are those of one process alone."""
    place = Place(tmp_path)
    asked = ["reproduce", "--papers", str(papers), "made2099/table1", "made2099/fig1", "kim2022/fig1", "scale=tiny",
             "device=cpu", "progress=false"]  # fmt: skip
    place.run(*asked, "runs_dir=alone-runs", "results_dir=alone")
    seconds = at_once(place, [[*asked, "runs_dir=runs", "results_dir=results"]] * COUNT)
    same_files(tmp_path / "results", tmp_path / "alone")
    same_runs(tmp_path / "runs", tmp_path / "alone-runs")
    with capsys.disabled():
        print(f"\nreproduce: {COUNT} writers, {seconds:.1f} s, the same files and runs as of one alone")


def test_one_sweep(tmp_path, capsys) -> None:
    """No run is trained twice, none fails because another process has it."""
    place = Place(tmp_path)
    line = ["train", "-m", *SMALL, "trainer.epochs=3", "optimizer=sgd,sam", "seed=0,1"]
    place.run(*line, "runs_dir=alone")
    seconds = at_once(place, [[*line, "runs_dir=runs"]] * COUNT)
    same_runs(tmp_path / "runs", tmp_path / "alone")
    for run in (tmp_path / "runs").iterdir():
        assert Path(run, "train.log").read_text().count("epoch 1/3") == 1
    with capsys.disabled():
        print(f"\nsweep: {COUNT} writers, {seconds:.1f} s, no run trained twice")
