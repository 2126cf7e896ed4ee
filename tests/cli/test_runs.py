"""`fsbench runs`: what became of runs, and their removal."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fsbench.runs.directory import RunDirectory


@pytest.fixture
def runs(fsbench, quick) -> Path:
    """One done, one failed, one that was killed, and one directory with a config.yaml that is no run."""
    fsbench("train", *quick, "run_name=done", "trainer.max_steps=2")
    fsbench("train", *quick, "run_name=failed", "trainer.max_steps=2")
    fsbench("train", *quick, "run_name=killed", "trainer.max_steps=2")
    for name, status in (("failed", "failed"), ("killed", "running")):
        directory = RunDirectory(Path("runs", name))
        directory.summary.unlink()
        directory.set_status(status, message="OSError: no\nmore")
    Path("runs/other").mkdir()
    Path("runs/other/config.yaml").write_text("mine: true\n")
    return Path("runs")


def rows(ended) -> dict[str, dict[str, object]]:
    assert (ended.code, ended.err) == (0, "")
    return {row["run"]: row for row in json.loads(ended.out)}


def test_values(fsbench, runs) -> None:
    status = runs / "done/status.json"
    changed = datetime.now(UTC) - timedelta(hours=3)
    status.write_text(json.dumps({"status": "done", "time": changed.strftime("%Y-%m-%dT%H:%M:%S%z")}))
    found = rows(fsbench("runs", "--format", "json"))
    assert {name: row["status"] for name, row in found.items()} == {
        "runs/done": "done", "runs/failed": "failed", "runs/killed": "interrupted", "runs/other": "unknown",
    }  # fmt: skip
    done = found["runs/done"]
    assert done["test_accuracy"] == json.loads((runs / "done/summary.json").read_text())["results"]["test_accuracy"]
    assert done["age"] == pytest.approx(3 * 3600, abs=60)
    assert done["size"] == sum(path.stat().st_size for path in (runs / "done").iterdir())
    assert found["runs/failed"] | {"age": 0, "size": 0} == {
        "run": "runs/failed", "status": "failed", "test_accuracy": None, "age": 0, "size": 0, "message": "OSError: no",
    }  # fmt: skip
    assert found["runs/other"]["age"] is None


def test_the_table_and_csv_say_the_same(fsbench, runs) -> None:
    found = rows(fsbench("runs", "runs", "--format", "json"))
    head, *lines = fsbench("runs", "runs").out.splitlines()
    assert head.split() == ["run", "status", "accuracy", "age", "size"]
    done, failed, _, other = lines
    assert done.split()[:4] == ["runs/done", "done", f"{100 * found['runs/done']['test_accuracy']:.2f}", "%"]
    assert failed.split()[:3] == ["runs/failed", "failed", "-"]
    assert failed.endswith("B  OSError: no")
    assert other.split()[3:] == ["-", "11", "B"]
    for row in csv.DictReader(io.StringIO(fsbench("runs", "--format", "csv").out)):
        same = found[row["run"]]
        assert (row["status"], row["message"], int(row["size"])) == (same["status"], same["message"], same["size"])
        assert row["test_accuracy"] == ("" if same["test_accuracy"] is None else str(same["test_accuracy"]))


@pytest.mark.parametrize(
    ("status", "names"), [("failed", ["failed"]), ("done,interrupted", ["done", "killed"]), ("diverged", [])]
)
def test_selected_by_status(fsbench, runs, status, names) -> None:
    ended = fsbench("runs", "--status", status, "--format", "json")
    assert ended.code == 0
    assert [row["run"] for row in json.loads(ended.out)] == [f"runs/{name}" for name in names]
    none = "runs: no run there is diverged (1 done, 1 interrupted, 1 failed, 1 unknown)\n"
    assert ended.err == ("" if names else none)


def test_an_unreadable_summary_is_said(fsbench, runs) -> None:
    (runs / "done/summary.json").write_text("{")
    row = rows(fsbench("runs", "--status", "unreadable", "--format", "json"))["runs/done"]
    assert row["message"] == "unreadable: runs/done/summary.json (not JSON); delete it to train this run again"


BAD = {
    "absent": (["nowhere"], "runs=nowhere: no such directory"),
    "default-absent": ([], "runs=runs: no such directory"),
    "status": (["--status", "faild"], "--status=faild: no such status (did you mean 'failed'?); allowed: done, "),
    "yes-alone": (["--yes"], "--yes goes with --remove"),
    "format": (["--format", "xml"], "fsbench runs: argument --format: invalid choice: 'xml'"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(fsbench, arguments, said) -> None:
    ended = fsbench("runs", *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(f"fsbench: {said}")


def test_an_empty_directory(fsbench, tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    ended = fsbench("runs")
    assert (ended.code, ended.out, ended.err) == (0, "", "runs: no run there\n")
    assert json.loads(fsbench("runs", "--format", "json").out) == []


def test_a_run_is_listed_once(fsbench, runs) -> None:
    ended = fsbench("runs", "runs", "runs/done", str(runs.resolve()), "--format", "csv")
    assert len(ended.out.splitlines()) == 1 + 4


def answered(monkeypatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.mark.parametrize("answer", ["n\n", "\n", "no\n"])
def test_removal_asks(fsbench, runs, monkeypatch, answer) -> None:
    answered(monkeypatch, answer)
    ended = fsbench("runs", "--remove", "--status", "failed")
    assert ended.code == 0
    assert ended.err.startswith("Remove these 1 run, ")
    assert ended.err.endswith(" kB? [y/N] nothing is removed\n")
    assert (runs / "failed").is_dir()


def test_nobody_answers(fsbench, runs, monkeypatch) -> None:
    answered(monkeypatch, "")
    ended = fsbench("runs", "--remove")
    assert ended.code == 2
    assert ended.err.endswith("fsbench: --remove: nobody answers; --yes removes without a question\n")
    assert len(list(runs.iterdir())) == 4


def test_what_is_selected_is_removed_and_nothing_else(fsbench, runs, monkeypatch) -> None:
    answered(monkeypatch, "y\n")
    ended = fsbench("runs", "--remove", "--status", "failed,interrupted")
    assert ended.code == 0
    assert "removed 2 of 2 runs, " in ended.err
    assert sorted(path.name for path in runs.iterdir()) == ["done", "other"]


def test_what_no_run_wrote_stays(fsbench, runs) -> None:
    (runs / "done/notes.txt").write_text("mine")
    (runs / "done/tensorboard").mkdir()
    ended = fsbench("runs", "--remove", "--yes")
    assert ended.code == 1
    assert "fsbench: run=runs/other: is left: it holds no status.json of a run\n" in ended.err
    assert "runs/done: the run is removed; files that it did not write are left (notes.txt)\n" in ended.err
    assert "removed 3 of 4 runs, " in ended.err
    assert sorted(str(path.relative_to(runs)) for path in runs.rglob("*")) == [
        "done", "done/notes.txt", "other", "other/config.yaml",
    ]  # fmt: skip


def test_a_busy_run_stays(fsbench, runs) -> None:
    with RunDirectory(runs / "killed").locked():
        time.sleep(0.01)
        found = rows(fsbench("runs", "--status", "running", "--format", "json"))
        assert list(found) == ["runs/killed"]
        ended = fsbench("runs", "--remove", "--yes", "--status", "running")
    assert ended.code == 1
    assert "fsbench: runs/killed is being trained by another process\n" in ended.err
    assert (runs / "killed/model.safetensors").is_file()


def test_links_are_not_followed(fsbench, runs, tmp_path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/weights").write_text("mine")
    (runs / "done/model.safetensors").unlink()
    os.symlink(tmp_path / "precious/weights", runs / "done/model.safetensors")
    os.symlink(tmp_path / "precious", runs / "done/tensorboard")
    assert fsbench("runs", "runs/done", "--remove", "--yes").code == 0
    assert (tmp_path / "precious/weights").read_text() == "mine"


def test_a_removal_that_was_broken_off_goes_on(fsbench, runs, monkeypatch) -> None:
    def broken(self) -> None:
        self.summary.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "_clear", broken)
        assert fsbench("runs", "runs/done", "--remove", "--yes").code == 130
    assert fsbench("runs", "runs/done", "--remove", "--yes").code == 0
    assert not (runs / "done").exists()


def test_help_names_it(fsbench) -> None:
    assert "  runs       what became of the runs in a directory" in fsbench("--help").out
