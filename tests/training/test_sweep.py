"""Sweeps: what fails does not stop the others, what is done is not repeated; tables of what came out."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from data.tiny_sets import write_folder

from fsbench.training import run as run_module
from fsbench.training.outcome import _files_now

SWEEP = ("-m", "optimizer=sgd,sam", "seed=0,1")


def test_sweep_and_table(fsbench, quick) -> None:
    first = fsbench("train", *quick, *SWEEP)
    assert first.code == 0
    assert first.out.count(": done, test accuracy") == 4
    assert first.out.endswith("4 done, 0 skipped, 0 failed\n")
    again = fsbench("train", *quick, *SWEEP, "seed=0,1,2".replace("0,1,2", "0,1"))
    assert again.out.endswith("0 done, 4 skipped, 0 failed\n")

    table = fsbench("table", "runs")
    assert table.code == 0
    header, rule, *lines = table.out.splitlines()
    assert header.split("|")[1].strip() == "dataset"
    assert all(set(cell) <= set("-: ") and cell.count("-") >= 2 for cell in rule.strip("|").split("|"))
    assert [line.split("|")[3].strip() for line in lines] == ["sam", "sgd"]
    assert all(line.split("|")[4].strip() == "2" and "±" in line for line in lines)

    accuracies = [
        json.loads(p.read_text())["results"]["test_accuracy"] for p in Path("runs").glob("*sgd*/summary.json")
    ]
    a, b = accuracies
    mean, std = (a + b) / 2, abs(a - b) / 2**0.5
    assert f"{100 * mean:.2f} ± {100 * std:.2f}" in lines[1]

    csv = fsbench("table", "runs", "--by", "optimizer,seed", "--columns", "test_accuracy", "--format", "csv")
    assert csv.out.splitlines()[0] == "optimizer,seed,n,test_accuracy_mean,test_accuracy_std"
    assert len(csv.out.splitlines()) == 5
    latex = fsbench("table", "runs", "--format", "latex", "--by", "optimizer.lr", "--where", "optimizer=sam")
    assert r"test accuracy \%" in latex.out
    assert r"\toprule" in latex.out


def test_a_folder_that_has_changed_since_is_told_so(fsbench, quick) -> None:
    write_folder(Path("images"))
    arguments = [*quick, "dataset=folder", "dataset.root=images", "trainer.batch_size=8"]
    assert fsbench("train", *arguments).code == 0
    assert "changed" not in fsbench("train", *arguments).out
    Path("images/train/ant/00.png").rename("images/train/ant/99.png")
    _files_now.cache_clear()
    root = Path("images").absolute()
    for sweep in ((), ("-m",)):
        again = fsbench("train", *arguments, *sweep)
        assert again.code == 0
        assert f" s; the files in dataset.root={root} have changed since" in again.out
    _files_now.cache_clear()


def test_a_sweep_of_nothing_but_bad_input(fsbench, quick) -> None:
    ended = fsbench("train", *quick, *SWEEP, "trainer.batch_size=5000")
    assert ended.code == 2
    assert ended.out.count(": failed, trainer.batch_size=5000: must be at most the 1437 training images") == 4
    assert fsbench("train", *quick, "-m", "trainer.batch_size=128,5000").code == 3


def test_a_failed_run_does_not_stop_the_others(fsbench, quick, monkeypatch) -> None:
    fit = run_module.fit

    def fails_for_sam(state, *rest, **named):
        if type(state.optimizer).__name__ == "SAM":
            raise SystemExit(7)
        fit(state, *rest, **named)

    monkeypatch.setattr(run_module, "fit", fails_for_sam)
    ended = fsbench("train", *quick, *SWEEP)
    assert ended.code == 3
    assert ended.out.endswith("2 done, 0 skipped, 2 failed\n")
    assert "fsbench: 2 of 4 runs failed; the same command runs what is missing" in ended.err
    assert all((p / "traceback.txt").is_file() for p in Path("runs").glob("*-sam-*"))
    table = fsbench("table", "runs")
    assert "note: runs left out because they are not finished: 2 failed" in table.err

    monkeypatch.setattr(run_module, "fit", fit)
    again = fsbench("train", *quick, *SWEEP)
    assert again.code == 0
    assert again.out.endswith("2 done, 2 skipped, 0 failed\n")
    assert not any((p / "traceback.txt").exists() for p in Path("runs").iterdir())


def test_flags_may_stand_anywhere_and_ranges_expand(fsbench, quick) -> None:
    ended = fsbench("train", *quick[:2], "-m", *quick[2:], "seed=range(0,3)", "trainer.max_steps=2")
    assert ended.out.endswith("3 done, 0 skipped, 0 failed\n")


def test_a_line_that_mixes_configurations_says_so(fsbench, quick) -> None:
    fsbench("train", *quick, "-m", "optimizer=sam", "optimizer.rho=0.01,0.1", "trainer.max_steps=2")
    mixed = fsbench("table", "runs")
    assert mixed.err == "note: a line averages runs that differ in optimizer.rho (0.01, 0.1); add it to --by\n"
    assert fsbench("table", "runs", "--by", "optimizer,optimizer.rho").err == ""


def test_rerun_with_a_change(fsbench, quick) -> None:
    fsbench("train", *quick, "optimizer=fsam", "seed=3")
    (first,) = Path("runs").iterdir()
    ended = fsbench("rerun", str(first), "seed=4")
    assert ended.code == 0
    assert "-fsam-s4-" in ended.out
    assert "already done" in fsbench("rerun", str(first)).out


def test_table_says_what_is_wrong(fsbench, quick, tmp_path) -> None:
    assert fsbench("table", "nowhere").err == "fsbench: runs=nowhere: no such directory\n"
    (tmp_path / "empty").mkdir()
    assert fsbench("table", "empty").err == "fsbench: runs=empty: no finished run there\n"
    fsbench("train", *quick, "trainer.max_steps=2")
    wrong = fsbench("table", "runs", "--columns", "test_acuracy")
    assert (wrong.code, wrong.err) == (
        2, "fsbench: --columns=test_acuracy: no run has such a key (did you mean 'test_accuracy'?)\n"
    )  # fmt: skip


def test_a_folder_goes_by_its_label(fsbench, tmp_path) -> None:
    write_folder(tmp_path / "pictures")
    line = ["dataset=folder", "dataset.root=pictures", "model=mlp", "trainer.fast_dev_run=true", "trainer.batch_size=4"]
    fsbench("train", *line, 'dataset.label="CIFAR-10 (JPEG copy)"')
    assert "| CIFAR-10 (JPEG copy) | mlp " in fsbench("table").out


def test_sweeps_over_globs_and_ranges(fsbench, quick) -> None:
    ended = fsbench("train", "-m", *quick, "seed=range(0,2)", "optimizer=glob(*sam)", "trainer.max_steps=1")
    assert ended.out.endswith("10 done, 0 skipped, 0 failed\n")


def test_a_stop_between_runs_ends_the_sweep(fsbench, quick, monkeypatch) -> None:
    """A signal in a run's last evaluation lets that run finish, and none begin after it."""
    evaluate = run_module.evaluate

    def signalled(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments)

    monkeypatch.setattr(run_module, "evaluate", signalled)
    ended = fsbench("train", *quick, *SWEEP)
    assert ended.code == 130
    assert ended.out.endswith("1 done, 0 skipped, 0 failed, 3 not begun or interrupted\n")


def test_rerun_leaves_the_old_run_alone(fsbench, quick) -> None:
    fsbench("train", *quick, "run_name=x", "overwrite=true")
    before = Path("runs/x/summary.json").stat().st_mtime_ns
    assert "already done" in fsbench("rerun", "runs/x").out
    assert fsbench("rerun", "runs/x", "optimizer.lr=0.2").code == 0
    assert fsbench("rerun", "runs/x", "model=cnn", "trainer.max_steps=1").code == 0
    assert Path("runs/x/summary.json").stat().st_mtime_ns == before
    assert len(list(Path("runs").iterdir())) == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"run":', "not JSON"),
        ("[]", "not a table of values"),
        ('{"config": {}}', "its results are no numbers"),
        ("[" * 100_000, "nested too deeply"),
        ('{"results": ' + '{"a": ' * 30 + "1" + "}" * 31, "nested too deeply"),
        ('{"results": {"test_accuracy": 1' + "0" * 5000 + "}}", "not JSON"),
        ('{"results": {"test_accuracy": 1' + "0" * 400 + "}}", "its results are no numbers"),
        ('{"results": {"test_accuracy": "high"}}', "its results are no numbers"),
        ('{"results": {"test_accuracy": 0.5}}', "its results lack train_accuracy"),
        ("\xff", "not text"),
        (" " * (16 * 2**20 + 1), "larger than 16 MiB"),
    ],
    ids=["cut", "list", "keys", "deep", "deep-table", "digits", "large", "text", "lacking", "bytes", "oversized"],
)
def test_one_bad_file_does_not_spoil_the_table(fsbench, quick, content, why) -> None:
    fsbench("train", "-m", *quick, "seed=0,1,2", "trainer.max_steps=1")
    first, *_ = sorted(Path("runs").iterdir())
    (first / "summary.json").write_text(content, encoding="latin-1")
    table = fsbench("table", "runs", "runs/.")
    assert table.out.splitlines()[2].split("|")[4].strip() == "2"
    assert "not finished: 1 unreadable" in table.err
    ended = fsbench("train", *quick, "seed=0", "trainer.max_steps=1")
    assert ended.code == 2
    assert ended.err == f"fsbench: unreadable: {first}/summary.json ({why}); delete it to train this run again\n"
    assert f"note: unreadable: {first}/summary.json\n" in table.err
    sweep = fsbench("train", "-m", *quick, "seed=0,1,3", "trainer.max_steps=1")
    assert sweep.code == 3
    assert sweep.out.splitlines()[0].startswith(f"[1/3] {first}: failed, unreadable: {first}/summary.json ({why})")
    assert sweep.out.splitlines()[-1] == "1 done, 1 skipped, 1 failed"


def test_where_and_by(fsbench, quick) -> None:
    fsbench("train", *quick, "trainer.max_steps=1")
    assert "--where=nope=1: no run has such a key" in fsbench("table", "--where", "nope=1").err
    assert (
        "--where=optimizer=sam: none of 1 finished runs is like that"
        in fsbench("table", "--where", "optimizer=sam").err
    )
    assert fsbench("table", "--by", "dataset, model,dataset", "--columns", "model,test_loss").code == 0
