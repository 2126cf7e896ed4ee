"""`fsbench correlate`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fsbench.report.correlation import rank_correlation
from fsbench.runs.records import read_records


@pytest.fixture
def study(fsbench, quick) -> Path:
    fsbench("train", "-m", *quick, "optimizer=sgd,sam", "dataset.noise=0,0.4", "seed=0,1", "runs_dir=study")
    fsbench("sharpness", "-m", "run=glob(study/*)", "measures=[trace,fisher_trace]", "samples=20")
    return Path("study")


def test_table_files_and_numbers(fsbench, study) -> None:
    ended = fsbench("correlate", "study", "-o", str(Path("out").absolute()))
    assert ended.code == 0, ended.err
    head, _, *lines = ended.out.splitlines()
    assert [name.strip() for name in head.strip("|").split("|")] == [
        "measure", "n", "all", "optimizer", "dataset.noise", "granulated",
    ]  # fmt: skip
    assert {line.split("|")[1].strip() for line in lines[:2]} == {"hessian trace", "fisher trace"}
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "correlation.csv", "correlation.md", "correlation.png", "correlation.svg", "provenance.json",
    ]  # fmt: skip
    record = json.loads(Path("out/provenance.json").read_text())
    assert record["command"] == "fsbench correlate study -o out"
    assert record["trained_with"][0]["runs"] == 8

    ended = fsbench("correlate", "study", "--with", "test_loss", "--by", "optimizer,dataset.noise",
                    "--columns", "hessian_trace", "--format", "json")  # fmt: skip
    frame = pd.DataFrame(read_records([study]).rows)
    expected = rank_correlation(frame["hessian_trace"], frame["test_loss"], frame[["optimizer", "dataset.noise"]])
    found = {line["pairs"]: (line["column"], line["n"], line["tau"], line["low"]) for line in json.loads(ended.out)}
    assert found == {
        kind: ("hessian_trace", 8, tau.value, tau.low)
        for kind, tau in {"all": expected.overall, **expected.by_axis, "granulated": expected.granulated}.items()
    }


def test_a_key_below_a_choice_belongs_to_it(fsbench, quick) -> None:
    fsbench("train", "-m", *quick, "optimizer=sam", "optimizer.rho=0.05,0.1", "runs_dir=study")
    fsbench("train", *quick, "optimizer=sgd", "runs_dir=study")
    fsbench("sharpness", "-m", "run=glob(study/*)", "measures=[fisher_trace]", "samples=20")
    assert "optimizer+optimizer.rho" in fsbench("correlate", "study").out.splitlines()[0]
    ended = fsbench("correlate", "study", "--by", "optimizer")
    assert "note: runs taken for seeds of each other differ in optimizer.rho (0.05, 0.1); add it to --by" in ended.err


def test_what_is_refused(fsbench, study, quick) -> None:
    Path("file").write_text("")
    fsbench("train", *quick, "optimizer=sgd", "seed=5", "runs_dir=study")
    refused = {
        ("--with", "gap"): "--with=gap: no run has such a key",
        ("--with", "optimizer"): "--with=optimizer: is not a number",
        ("--columns", "trace"): "--columns=trace: tables have it as hessian_trace",
        ("--columns", ","): "--columns=,: no run was measured",
        ("--by", "optimiser"): "--by=optimiser: no run has such a key (did you mean 'optimizer'?)",
        ("--where", "seed=7"): "--where=seed=7: none of 9 finished runs is like that",
        ("--where", "seed=5"): "--columns=(none): no run was measured",
        ("-o", "file/out"): "-o=file/out: can't be written: ",
    }
    for words, message in refused.items():
        ended = fsbench("correlate", "study", *words)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err
