"""Runs are trained and measured once, whatever interrupts or breaks; a broken one leaves a gap with its reason."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pandas as pd
import pytest

from fsbench.measuring import measure as measure_module
from fsbench.training import run as run_module

TABLE, FIGURE = "made2099/table1", "made2099/fig1"


def written(runs: str = "runs") -> dict[str, int]:
    """When each run was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in sorted(Path(runs).glob("*/summary.json"))}


def table(name: str = TABLE) -> pd.DataFrame:
    return pd.read_csv(Path("results") / name / f"{name.rpartition('/')[2]}_runs.csv", dtype={"dataset.noise": str})


def test_from_nothing_to_table_and_figure(reproduce) -> None:
    ended = reproduce("made2099", "scale=tiny")
    assert ended.code == 0
    lines = [line for line in ended.err.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert sum(line.endswith(", 1 measure") for line in lines) == 2
    first, second = ended.out.splitlines()
    # The figure's runs are among the table's, and it is there as soon as they are.
    assert first.startswith(f"{FIGURE}: 2 of 2 runs; results/{FIGURE}: fig1.csv ")
    assert second.startswith(f"{TABLE}: 4 of 4 runs; results/{TABLE}: table1.csv ")

    rows = table()
    assert list(rows["optimizer"]) == ["sgd", "sam", "wide SAM", "fsam"]
    for _, row in rows.iterrows():
        results = json.loads((Path("runs") / row["run"] / "summary.json").read_text())["results"]
        assert row["test_accuracy"] == pytest.approx(results["test_accuracy"])
        assert (row["status"], row["seed"]) == ("done", 0)
    markdown = (Path("results") / TABLE / "table1.md").read_text()
    assert "Trained for 4 epochs instead of 400 and 2 instead of 200." in markdown
    assert "90.50 ± 0.25" in markdown  # as published
    assert f"{100 * rows['test_accuracy'][0]:.2f}" in markdown
    assert "Nobody wrote this paper" in markdown
    figure = table(FIGURE)
    entries = [
        json.loads((Path("runs") / run / "sharpness.json").read_text())["measures"]["fisher_trace"]
        for run in figure["run"]
    ]
    assert list(figure["fisher_trace"]) == pytest.approx([entry["value"] for entry in entries])
    assert {entry["settings"]["samples"] for entry in entries} == {20}
    assert (Path("results") / FIGURE / "fig1.png").stat().st_size > 1000

    before = written()
    again = reproduce("made2099", "scale=tiny")
    assert (again.code, again.err) == (0, "")
    assert sorted(again.out.splitlines()) == sorted(ended.out.splitlines())
    assert written() == before


@pytest.mark.parametrize("content", ["[" * 100_000, '{"results": [1]}', '{"results": {"seconds": "x"}}', "\xff"],
                         ids=["deep", "list", "text", "bytes"])  # fmt: skip
def test_one_bad_run_does_not_spoil_the_artefact(reproduce, content) -> None:
    reproduce(FIGURE, "scale=tiny")
    first, second = sorted(Path("runs").iterdir())
    (first / "summary.json").write_text(content, encoding="latin-1")
    (second / "provenance.json").write_text('{"data": [1], "hardware": 3}')
    ended = reproduce(FIGURE, "scale=tiny", "render=true")
    assert (ended.code, ended.err) == (0, "")
    assert "unreadable: summary.json" in (Path("results") / FIGURE / "fig1.md").read_text()


def test_provenance(reproduce, tmp_path) -> None:
    reproduce(FIGURE, "scale=tiny", f"data_dir={tmp_path}", f"results_dir={tmp_path / 'results'}")
    record = json.loads((Path("results") / FIGURE / "provenance.json").read_text())
    assert (record["artefact"], record["scale"]) == (FIGURE, "tiny")
    # Places of this machine are left out.
    assert record["command"] == f"fsbench reproduce device=cpu {FIGURE} scale=tiny"
    assert str(tmp_path) not in json.dumps(record)
    assert record["versions"]["torch"]
    (data,) = record["data"]
    assert (data["label"], data["train"], data["runs"], len(data["sha256"])) == ("digits", 1437, 2, 64)
    (trained,) = record["trained_with"]
    assert (trained["hardware"]["device"], trained["runs"]) == ("cpu", 2)
    for run in record["runs"]:
        summary = json.loads((Path("runs") / run["run"] / "summary.json").read_text())
        assert (run["identity"], run["seconds"]) == (summary["identity"], summary["results"]["seconds"])
        assert run["status"] == "done"
    assert record["wall_time"]["training"] == sum(run["seconds"] for run in record["runs"])
    assert record["wall_time"]["measuring"] > 0
    assert "Measured on 20 images instead of all." in record["cuts"]


def test_a_stop_half_way_and_the_same_command_again(reproduce, monkeypatch) -> None:
    """Ctrl-C in the third run: two are finished and stay as they are, the third goes on from its checkpoint."""
    fit = run_module.fit

    def fit_until(*arguments, **named):
        if len(written()) == 2:
            signal.raise_signal(signal.SIGINT)
        fit(*arguments, **named)

    monkeypatch.setattr(run_module, "fit", fit_until)
    ended = reproduce(TABLE, "scale=tiny")
    assert ended.code == 130
    assert ended.err.endswith("the same command goes on from there (4 runs, 2 finished)\n")
    assert not Path("results").exists()
    before = written()
    assert len(before) == 2

    monkeypatch.setattr(run_module, "fit", fit)
    again = reproduce(TABLE, "scale=tiny")
    assert again.code == 0
    assert "[1/2] " in again.err
    assert "[2/2] " in again.err
    assert len(written()) == 4
    assert before.items() <= written().items()
    assert list(table()["status"]) == ["done"] * 4


def test_a_stop_while_measuring(reproduce, monkeypatch) -> None:
    computed = measure_module._computed

    def signalled(*arguments):
        signal.raise_signal(signal.SIGINT)
        return computed(*arguments)

    monkeypatch.setattr(measure_module, "_computed", signalled)
    ended = reproduce(FIGURE, "scale=tiny")
    assert ended.code == 130
    assert ended.err.endswith("interrupted; the same command goes on from here (2 runs, 1 finished)\n")
    before = written()
    monkeypatch.setattr(measure_module, "_computed", computed)
    assert reproduce(FIGURE, "scale=tiny").code == 0
    assert before.items() <= written().items()


def test_a_broken_cell_leaves_a_gap(reproduce, monkeypatch) -> None:
    fit = run_module.fit

    def fails_for_fsam(state, *rest, **named):
        if type(state.optimizer).__name__ == "FSAM":
            raise RuntimeError("out of luck\nand of memory")
        fit(state, *rest, **named)

    monkeypatch.setattr(run_module, "fit", fails_for_fsam)
    ended = reproduce(TABLE, "scale=tiny")
    assert ended.code == 3
    assert "-fsam-s0-" in ended.err
    assert "failed, RuntimeError: out of luck" in ended.err
    assert ended.err.endswith("fsbench: 1 failed; the same command goes on with what is missing\n")
    assert f"{TABLE}: 3 of 4 runs; " in ended.out
    rows = table()
    assert list(rows["status"]) == ["done", "done", "done", "RuntimeError: out of luck"]
    assert list(rows["test_accuracy"].isna()) == [False, False, False, True]
    markdown = (Path("results") / TABLE / "table1.md").read_text()
    assert "optimizer=fsam dataset.noise=0.2, seed 0: RuntimeError: out of luck" in markdown

    # The reason is still known where nothing is trained.
    assert reproduce(TABLE, "scale=tiny", "render=true").code == 0
    assert "failed: RuntimeError: out of luck" in (Path("results") / TABLE / "table1.md").read_text()
    monkeypatch.setattr(run_module, "fit", fit)
    assert reproduce(TABLE, "scale=tiny").code == 0
    assert "missing" not in (Path("results") / TABLE / "table1.md").read_text().lower()


def test_a_broken_measure_leaves_the_rest(reproduce, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("no such matrix")

    computed = measure_module._computed
    monkeypatch.setattr(measure_module, "_computed", fails)
    ended = reproduce(FIGURE, "scale=tiny")
    assert ended.code == 3
    assert "; fisher_trace failed, RuntimeError: no such matrix" in ended.err
    rows = table(FIGURE)
    assert set(rows["status"]) == {"fisher_trace: RuntimeError: no such matrix"}
    assert rows["generalization_gap"].notna().all()
    before = written()
    monkeypatch.setattr(measure_module, "_computed", computed)
    assert reproduce(FIGURE, "scale=tiny").code == 0
    assert written() == before
    assert set(table(FIGURE)["status"]) == {"done"}


def test_another_way_of_measuring_measures_again_and_trains_nothing(reproduce) -> None:
    reproduce(FIGURE, "scale=tiny")
    before, first = written(), table(FIGURE)["fisher_trace"]
    ended = reproduce(FIGURE, "scale=tiny", "sharpness.samples=40")
    assert ended.err.count(", 1 measure") == 2
    assert written() == before
    assert not (table(FIGURE)["fisher_trace"] == first).any()
    # What was measured before is still there.
    assert reproduce(FIGURE, "scale=tiny").err == ""
    assert (table(FIGURE)["fisher_trace"] == first).all()


def test_absent_images_are_looked_for_once(reproduce, tmp_path, monkeypatch) -> None:
    """Bad input is one line, and nothing is left behind; where other runs are finished it is their gap."""
    ended = reproduce(TABLE, "scale=tiny", "dataset=folder", "dataset.root=nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"fsbench: dataset.root={tmp_path}/nowhere: there is no such directory\n"
    assert not (tmp_path / "results").exists()
    assert not list((tmp_path / "runs").glob("*"))


def test_runs_of_train_are_used(reproduce, fsbench) -> None:
    """A cell is a run of `fsbench train`, whoever trained it."""
    fsbench(
        "train", "experiment=kim2022/table1", "optimizer=sgd", "dataset.noise=0.2", "dataset=digits", "model=mlp",
        "model.widths=[8]", "augment=none", "trainer.epochs=4", "trainer.batch_size=128", "trainer.progress=false",
    )  # fmt: skip
    before = written()
    ended = reproduce(TABLE, "scale=tiny", "optimizer=sgd")
    assert (ended.code, ended.err) == (0, "")
    assert written() == before
