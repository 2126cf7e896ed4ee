"""The command line: what it shows, what it refuses, what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

TABLE, FIGURE = "made2099/table1", "made2099/fig1"

BAD = {
    "nothing": ([], "name a table or figure, such as kim2022/table1; `fsbench reproduce list` shows them"),
    "artefact": (["kim2022/tabel1"], "kim2022/tabel1: no such table or figure (did you mean 'kim2022/table1'?)"),
    "glob": (["abc*"], "abc*: no such table or figure"),
    "key": ([TABLE, "sead=1"], "sead=1: no such key"),
    "key-near": ([TABLE, "scal=tiny"], "scal=tiny: no such key (did you mean 'scale'?)"),
    "scale": ([TABLE, "scale=large"], "scale=large: must be one of paper, small, tiny"),
    "no-such-scale": ([FIGURE, "scale=small"], "scale=small: made2099/fig1 has none; its scales: tiny"),
    "seed": ([TABLE, "seed=1"], "seed=1: can't be given, seeds=N takes the first N"),
    "seeds": ([TABLE, "seeds=0"], "seeds=0: must be >= 1"),
    "experiment": ([TABLE, "experiment=x"], "experiment=x: can't be given, the artefact names its own"),
    "executor": ([TABLE, "executor=dask"], "executor=dask: no such executor; allowed: ray, serial, slurm"),
    "plan-and-render": ([TABLE, "plan=true", "render=true"], "plan=true: shows what would be run"),
    "choice": ([TABLE, "scale=tiny", "optimizer=sgd,foo"], "optimizer=foo: no such optimizer; allowed: adam"),
    "value": ([TABLE, "scale=tiny", "trainer.epochs=x"], "trainer.epochs=x: must be a whole number"),
    "option": ([TABLE, "scale=tiny", "trainer.epohcs=1"], "trainer.epohcs=1: no such key (did you mean"),
    "no-axis": ([FIGURE, "scale=tiny", "model=mlp,cnn"],
                "model=mlp,cnn: made2099/fig1 takes one value of it; its axes, which take several: optimizer"),
    "no-cell": ([TABLE, "scale=tiny", "optimizer=fsam", "dataset.noise=0.4"],
                "made2099/table1 has no cell with optimizer=fsam dataset.noise=0.4"),
    "range": ([TABLE, "dataset.noise=range(0,1,0.1)"], "dataset.noise=range(0,1,0.1): list the values"),
    "stands-for-alone": ([TABLE, "stands_for=cifar10"], "stands_for=cifar10: goes with one data set: dataset=NAME"),
    "measure": ([FIGURE, "scale=tiny", "sharpness.sample=1"], "sample=1: no such key (did you mean 'samples'?)"),
    "render": ([TABLE, "scale=tiny", "render=true"],
               "render=true: no run of made2099/table1 is finished at scale=tiny"),
    "batch": ([TABLE, "scale=tiny", "optimizer=sam", "trainer.batch_size=9999"],
              "trainer.batch_size=9999: must be at most"),
    "device": ([TABLE, "scale=tiny", "device=cuda"], "device=cuda: no CUDA device was found"),
    "flag": ([TABLE, "-m"], "unrecognized arguments: -m"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_nothing_is_left(reproduce, tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = reproduce(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("fsbench: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["papers"]
    assert not list(tmp_path.glob("runs/*"))


def test_a_stands_for_of_another_data_set(fsbench) -> None:
    ended = fsbench("reproduce", "kim2022/table1", "dataset=digits", "stands_for=mnist")
    assert ended.code == 2
    assert "stands_for=mnist: kim2022/table1 has no such data set; it has cifar10, cifar100" in ended.err


def test_plan_shows_every_run_and_starts_nothing(reproduce, tmp_path) -> None:
    ended = reproduce("made2099", "scale=tiny", "plan=true")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == f"{TABLE}, scale=tiny: Accuracy of tiny networks"
    assert "  1 seed instead of 2." in lines
    rows = [line.split() for line in lines if " runs/" in line]
    assert len(rows) == 6
    # 1437 images in batches of 128: 12 steps an epoch, 4 epochs and 2
    assert [row[row.index("0") + 1] for row in rows] == ["48", "24", "24", "24", "48", "24"]
    assert all("to train" in line for line in lines if " runs/" in line)
    # A run that both have counts once.
    assert any(line.startswith("4 runs, 4 to train (120 steps), 2 to measure: about ") for line in lines)
    assert lines[-1].startswith("speed assumed: ")
    assert [path.name for path in tmp_path.iterdir()] == ["papers"]

    reproduce(TABLE, "scale=tiny", "optimizer=sgd,sam")
    lines = reproduce("made2099", "scale=tiny", "plan=true").out.splitlines()
    states = ["done" if "  done  " in line else "to measure" if "to measure" in line else "to train"
              for line in lines if " runs/" in line]  # fmt: skip
    assert states == ["done", "done", "to train", "to train", "to measure", "to measure"]
    assert any(line.startswith("4 runs, 2 to train (48 steps), 2 to measure: ") for line in lines)


def test_list(reproduce) -> None:
    reproduce(TABLE, "scale=tiny", "optimizer=sam")
    table, figure = reproduce("list", "made2099").out.splitlines()
    assert table == f"{TABLE}  Accuracy of tiny networks: paper 18, small 18, tiny 4 runs (results/{TABLE})"
    assert figure == f"{FIGURE}    Sharpness against accuracy: paper 2, tiny 2 runs"
    only = reproduce("list", "made2099/fig1", "scale=tiny").out
    assert only == f"{FIGURE}  Sharpness against accuracy: tiny 2 runs\n"


def test_runs_are_counted_as_they_are_planned(reproduce) -> None:
    """With those that choose a value."""
    assert reproduce("list", "jia2020/table1", "scale=tiny").out.endswith(": tiny 12 runs\n")
    assert "\n12 runs, 12 to train" in reproduce("jia2020/table1", "scale=tiny", "plan=true").out


def test_a_trial_does_not_overwrite_more(reproduce) -> None:
    reproduce(TABLE, "scale=small", "optimizer=sam", "dataset.noise=0.2", "trainer.max_steps=1")
    before = (Path("results") / TABLE / "table1.csv").read_text()
    ended = reproduce(TABLE, "scale=tiny")
    assert ended.code == 2
    assert ended.err == (
        f"fsbench: scale=tiny: results/{TABLE} holds {TABLE} at scale=small; give another directory: results_dir=DIR\n"
    )
    assert (Path("results") / TABLE / "table1.csv").read_text() == before
    assert reproduce(TABLE, "scale=tiny", "optimizer=sam", "results_dir=trials").code == 0
    assert json.loads((Path("trials") / TABLE / "provenance.json").read_text())["scale"] == "tiny"


def test_render_draws_what_is_there(reproduce) -> None:
    reproduce(TABLE, "scale=tiny", "optimizer=sgd,sam")
    runs = sorted(path.name for path in Path("runs").iterdir())
    ended = reproduce(TABLE, "scale=tiny", "render=true", "results_dir=again")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{TABLE}: 2 of 4 runs; again/{TABLE}: table1.csv ")
    assert sorted(path.name for path in Path("runs").iterdir()) == runs
    assert "optimizer=fsam dataset.noise=0.2, seed 0: not run yet" in (Path("again") / TABLE / "table1.md").read_text()


def test_what_is_computed_is_computed_once(fsbench) -> None:
    first = fsbench("reproduce", "tsuzuku2019/appA", "scale=tiny", "device=cpu")
    assert first.code == 0
    assert first.out.startswith("tsuzuku2019/appA: computed; results/tsuzuku2019/appA: ")
    directory = Path("results/tsuzuku2019/appA")
    record = json.loads((directory / "provenance.json").read_text())
    assert (record["artefact"], record["scale"], record["device"]) == ("tsuzuku2019/appA", "tiny", "cpu")
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]
    again = fsbench("reproduce", "tsuzuku2019/appA", "scale=tiny", "device=cpu")
    assert again.out.startswith("tsuzuku2019/appA: already computed, in results/tsuzuku2019/appA")
    assert json.loads((directory / "provenance.json").read_text()) == record


COMPLETIONS = {
    "command": ("fsbench rep", {"reproduce"}),
    "artefact": ("fsbench reproduce kim2022/t", {"kim2022/table1", "kim2022/table4"}),
    "second-artefact": ("fsbench reproduce kim2022/table1 jia2020/f", {"jia2020/fig2"}),
    "word": ("fsbench reproduce li", {"list"}),
    "key": ("fsbench reproduce kim2022/table1 sca", {"scale="}),
    "scale": ("fsbench reproduce kim2022/table1 scale=", {"scale=paper", "scale=small", "scale=tiny"}),
    "boolean": ("fsbench reproduce kim2022/table1 plan=t", {"plan=true"}),
    "axis": ("fsbench reproduce kim2022/table1 model=resnet2", {"model=resnet20"}),
    "key-of-the-runs": ("fsbench reproduce kim2022/table1 trainer.epo", {"trainer.epochs="}),
    "kinds": ("fsbench list ar", {"artefacts"}),
}


@pytest.mark.parametrize(("line", "expected"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_completion(fsbench, monkeypatch, line, expected) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert expected <= set(fsbench("-sc", "query=bash").out.split())
