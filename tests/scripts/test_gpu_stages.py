"""scripts/gpu: stages at the smallest size on the CPU, what one that ends early leaves, and what is collected."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import fsbench
from fsbench.papers import collect
from fsbench.runs.provenance import git_commit

ROOT = Path(__file__).parents[2]
if not (ROOT / "scripts/gpu/stages.py").is_file():
    pytest.skip("not a checkout", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("stages", ROOT / "scripts/gpu/stages.py")
stages = importlib.util.module_from_spec(_spec)
sys.modules["stages"] = stages  # dataclasses look there
_spec.loader.exec_module(stages)

SMALLEST = replace(stages.TINY, most=(1, 1, 1), measures=stages.TINY.measures[1:2])


def run(out: Path, size: stages.Size, *names: str) -> Path:
    """What stages leave."""
    given = {"minutes": 9, "out": out, "data": None, "commit": None, "stages": names, "rehearse": True}
    assert stages.run(argparse.Namespace(**given), size) == 0, (out / "log.txt").read_text()
    return out


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("rehearsed"), SMALLEST, "study")


@pytest.fixture(autouse=True)
def beside_the_benches(monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    # What is collected adds a paper of its own, which other tests don't know.
    monkeypatch.setattr(collect, "_papers", dict(collect._papers))


def collected(came: Path, results: Path | None, capsys) -> tuple[int, str]:
    code = stages.collect(argparse.Namespace(directory=came, results=results))
    return code, capsys.readouterr().err


def test_the_study_leaves_what_is_collected(rehearsed, tmp_path, capsys) -> None:
    assert {path.name for path in rehearsed.iterdir()} == {"log.txt", "run.json", "runs.tar.gz", "study.json"}
    record = {path.stem: json.loads(path.read_text()) for path in rehearsed.glob("*.json")}
    assert [stage["state"] for stage in record["run"]["stages"]] == ["done"]
    assert [row["training"] for row in record["study"]["runs"]] == ["done"] * 5
    with tarfile.open(rehearsed / "runs.tar.gz") as packed:
        names = packed.getnames()
    assert sum(name.endswith("summary.json") for name in names) == 5
    assert not any(name.endswith(".safetensors") for name in names)

    code, _ = collected(rehearsed, tmp_path / "results", capsys)
    assert code == 0
    (made,) = (tmp_path / "results").iterdir()
    assert {"README.md", "provenance.json", "study.json", "study.md", "study.csv", "study"} == {
        path.name for path in made.iterdir()
    }
    text = (made / "README.md").read_text()
    assert "A rehearsal" in text
    accuracy = (made / "study/accuracy/accuracy.md").read_text()
    for method in ("sgd", "sam", "SAM at FSAM's rho", "asam", "fsam"):
        assert method in accuracy
    # The runs that were trained are those that the table asks for.
    assert "not run yet" not in accuracy
    assert (made / "study/adversarial/adversarial.png").is_file()
    assert str(tmp_path) not in "".join(path.read_text() for path in made.rglob("*.md"))


@pytest.mark.slow
def test_the_whole_rehearsal(tmp_path, capsys) -> None:
    came = run(tmp_path / "came", stages.TINY, *stages.SHARES)
    assert len(list(came.iterdir())) == len(stages.WRITERS) + 3 == 8
    record = json.loads((came / "run.json").read_text())
    assert [stage["state"] for stage in record["stages"]] == ["done"] * 4
    assert collected(came, tmp_path / "results", capsys)[0] == 0
    (made,) = (tmp_path / "results").iterdir()
    text = (made / "README.md").read_text()
    for column in ("hessian trace", "normalized sharpness", "fisher log determinant"):
        assert column in text
    for measure in ("hessian_trace", "hessian_top_eigenvalue", "hessian_trace_hutchinson"):
        assert f"| {measure} " in text
    assert "SAM (fsbench)" in (made / "step.md").read_text()
    assert "a step is recorded on a GPU alone" in (made / "step.md").read_text()
    assert (made / "population.md").is_file()
    assert str(tmp_path) not in "".join(path.read_text() for path in made.rglob("*.md"))


def test_outcomes_of_the_tests() -> None:
    rows = [{"test": "a", "outcome": "passed", "why": []}]
    rows.append({"test": "b", "outcome": "failed", "why": ["assert 1", "== 2"]})
    assert list(stages.write_tests(rows, Path(), Path())) == ["1 passed, 0 skipped, 1 failed.", "- `b`: assert 1 == 2"]


def test_curvature_in_a_table() -> None:
    entry = {"value": 12.3456, "samples": 100, "seconds": 1.234, "stderr": 0.0, "example_stderr": 0.5}
    drawn = entry | {"stderr": 2.0, "example_stderr": None}
    record = {"network": "model=wrn28_10", "weights": "initial, seed 0", "measures": {"exact": entry, "drawn": drawn}}
    text = [" ".join(line.split()) for line in stages.write_curvature(record, Path(), Path())]
    assert text[0] == "model=wrn28_10, weights: initial, seed 0."
    assert text[-2:] == [
        "| exact | 12.346 | 0.5 | images | 100 | 1.23 |",
        "| drawn | 12.346 | 2 | draws | 100 | 1.23 |",
    ]


def test_a_part_is_collected(rehearsed, tmp_path, capsys) -> None:
    """A study that was cut off in its second run, and nothing behind it."""
    came = tmp_path / "came"
    came.mkdir()
    for name in ("run.json", "runs.tar.gz"):
        (came / name).write_bytes((rehearsed / name).read_bytes())
    study = json.loads((rehearsed / "study.json").read_text())
    late = study["runs"][1]
    late |= {"training": "not ended", "measures": {}}
    (came / "study.json").write_text(json.dumps(study))
    with tarfile.open(rehearsed / "runs.tar.gz") as whole, tarfile.open(came / "runs.tar.gz", "w:gz") as packed:
        for member in whole:
            gone = late["run"] in member.name and member.name.endswith("summary.json")
            if not gone and "sharpness.json" not in member.name:
                packed.addfile(member, whole.extractfile(member) if member.isfile() else None)
    code, _ = collected(came, tmp_path / "results", capsys)
    assert code == 0
    (made,) = (tmp_path / "results").iterdir()
    text = (made / "README.md").read_text()
    assert "Not finished: sam seed 0 (not ended)." in text
    assert "| fsam" in text
    assert "population.md" not in text


@pytest.mark.parametrize(
    ("results", "file", "said"),
    [(None, "run.json", "a rehearsal"), ("results", "log.txt", "no run.json")],
    ids=["a rehearsal", "nothing ended"],
)
def test_what_is_not_collected(results, file, said, rehearsed, tmp_path, capsys) -> None:
    (tmp_path / file).write_bytes((rehearsed / file).read_bytes())
    code, err = collected(tmp_path, results and tmp_path / results, capsys)
    assert code == 2
    assert said in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("code", "state", "line"),
    [
        ("print('7 rows')", "done", "7 rows"),
        ("print('begun', flush=True); raise ValueError('no such network')", "failed, exit code 1",
         "ValueError: no such network"),
        ("import os; print('begun', flush=True); os.kill(os.getpid(), 9)", "failed, signal 9", "begun"),
        ("import time; print('3 rows', flush=True); time.sleep(60)", "out of time", "3 rows"),
        ("import signal, subprocess, sys; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); "
         "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])", "out of time", "deaf"),
        ("pass", "done", "said nothing"),
    ],
    ids=["done", "failed", "killed", "too long", "too long and deaf", "silent"],
)  # fmt: skip
def test_how_a_stage_ended(code, state, line, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stages, "GRACE", 0.5)
    with open(tmp_path / "log.txt", "w") as log:
        found = stages.ended("step", [sys.executable, "-c", code], 1.5, str(tmp_path), log)
    assert (found["state"], found["line"]) == (state, line)
    assert found["seconds"] < 10


def test_where_one_of_many_fails_so_many_are_not_timed(tmp_path, capfd) -> None:
    class Few:
        def carry_out(self, line: list[str]) -> int:
            (place,) = (Path(word.removeprefix("runs_dir=")) for word in line if word.startswith("runs_dir="))
            place.mkdir(parents=True)
            (place / "metrics.jsonl").write_text("".join(f'{{"seconds": {s}, "steps": 2}}\n' for s in (9, 4, 6)))
            return int(place.name == "2")

    assert stages.timed_step(Few(), [], "2", 2) == 2.5
    assert stages.timed_step(Few(), [], "3", 3) is None
    assert "3, 3 at a time: exit codes [0, 0, 1]" in capfd.readouterr().out


def test_workers_that_were_stopped_begin_nothing(tmp_path) -> None:
    workers = stages.Workers(1)
    pool = ThreadPoolExecutor(1)
    first, second = (pool.submit(workers.carry_out, ["list", what]) for what in ("models", "no such thing"))
    assert first.result() == 0
    assert second.result() == 2
    workers.stop()
    assert pool.submit(workers.carry_out, ["list", "models"]).result() == 130
    assert all(one.poll() is not None for one in workers._all)
    workers._all[0].stdout.close()


@pytest.mark.parametrize(
    ("seconds", "step", "most", "expected"),
    [
        (300, {1: 0.01, 5: 0.02, 15: 0.07}, (200, 10), (3, 50, 5)),  # 3 waves of 0.02 s against 1 of 0.07 s
        (300, {1: 0.01, 15: 0.05}, (200, 10), (3, 60, 15)),
        (300, {1: 0.01, 15: 0.2}, (200, 10), (3, 20, 1)),  # side by side is slower
        (3000, {15: 0.05}, (200, 10), (9, 200, 15)),  # 3 waves of 0.05 s, 200 epochs of 100 steps
        (90000, {15: 0.05}, (200, 10), (10, 200, 15)),
        (12, {1: 0.01}, (200, 10), (2, 1, 1)),
        (1, {1: 0.01}, (200, 10), (1, 1, 1)),
        (300, {2: 0.01}, (1, 2), (2, 1, 2)),
    ],
    ids=["some at a time", "all at a time", "one at a time", "more seeds", "most", "fewer seeds", "least", "rehearsal"],
)
def test_seeds_and_epochs_that_fit(seconds, step, most, expected) -> None:
    assert stages.chosen(seconds, step, 100, *most) == expected


def test_options_are_checked() -> None:
    line = [sys.executable, str(ROOT / "scripts/gpu/stages.py"), "run"]
    done = subprocess.run([*line, "--stages", "step,steps"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--stages: no steps; there are tests, step, study, population" in done.stderr
    done = subprocess.run([*line, "--minutes", "9"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--out DIR and --data FILE are needed" in done.stderr


def test_the_commit_of_a_copy(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fsbench, "__file__", str(tmp_path / "fsbench/__init__.py"))
    monkeypatch.delenv("FSBENCH_COMMIT", raising=False)
    assert git_commit() is None
    monkeypatch.setenv("FSBENCH_COMMIT", "0123abc")
    assert git_commit() == "0123abc"
