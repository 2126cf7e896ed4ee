"""What others left in a directory: nothing of it is run, written to or passed on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fsbench as package
from fsbench.cli.main import main

LINE = ("dataset=digits", "model=mlp", "model.widths=[16]", "trainer.progress=false", "trainer.max_steps=1",
        "run_name=x")  # fmt: skip
PACKAGE = Path(package.__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run, trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        assert main(["train", *LINE]) == 0
        return Path("runs/x").resolve()


@pytest.fixture
def run(fsbench, trained) -> Path:
    """A copy of it in the working directory."""
    shutil.copytree(trained, "runs/x")
    return Path("runs/x")


@pytest.mark.parametrize(
    "name", ["lock", "train.log", "metrics.jsonl", "summary.json", "status.json", "checkpoint.pt", "model.safetensors",
             "provenance.json", "config.yaml", "traceback.txt", "tensorboard", "wandb"],
)  # fmt: skip
def test_links_in_a_run_directory_are_not_followed(fsbench, run, tmp_path, name) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    why = "a link" if name in ("tensorboard", "wandb") else "a link, or no plain file"
    ended = fsbench("train", *LINE, "overwrite=true")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"fsbench: unreadable: {run / name} ({why}); delete it\n"
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "checkpoint.pt", "train.log"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
def test_what_is_no_file_where_one_is_written(fsbench, run, name, make) -> None:
    (run / name).unlink(missing_ok=True)
    make(run / name)
    ended = fsbench("train", *LINE)
    assert ended.code == 2
    assert ended.err == f"fsbench: unreadable: {run / name} (a link, or no plain file); delete it\n"


def test_a_linked_lock_is_not_emptied_by_sharpness(fsbench, run, tmp_path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (run / "lock").unlink()
    (run / "lock").symlink_to(precious)
    ended = fsbench("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=50")
    assert (ended.code, ended.err) == (2, f"fsbench: unreadable: {run}/lock (a link, or no plain file); delete it\n")
    assert precious.read_text() == "mine"
    (run / "lock").unlink()
    (run / "sharpness.json").mkdir()
    ended = fsbench("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=50")
    assert (ended.code, ended.err) == (2, f"fsbench: unreadable: {run}/sharpness.json (a directory); delete it\n")


FOREIGN = [
    ("hydra.searchpath=[pkg://stranger]", "hydra.searchpath"),
    ("+hydra.searchpath=[pkg://stranger]", "hydra.searchpath"),
    ("++hydra.searchpath=[pkg://stranger]", "hydra.searchpath"),
    ("~hydra.run.dir", "hydra.run.dir"),
    ("hydra/launcher=basic", "hydra/launcher"),
    ("runs_dir=/elsewhere", "runs_dir"),
    ("++data_dir=/elsewhere", "data_dir"),
    ("logger=wandb", "logger"),
    ("+logger@loss=wandb", "logger"),
    ("loss@logger=x", "loss"),
    ("logger.mode=online", "logger.mode"),
    ("executor=slurm", "executor"),
    ('executor.partition="a\\n#SBATCH --wrap=x"', "executor.partition"),
    ("model.widths=${oc.env:SECRET}", "model.widths"),
    ("dataset.label='${oc.env:SECRET}'", "dataset.label"),
    ("+optimizer.more={a: {runs_dir: x}}", "optimizer.more"),
    ("+optimizer.more=[{hydra: x}]", "optimizer.more"),
    ("setup=../../../stranger", "setup"),
    ("experiment=/stranger", "experiment"),
]


@pytest.mark.parametrize(("override", "key"), FOREIGN, ids=[override for override, _ in FOREIGN])
def test_rerun_does_not_take_from_a_record(fsbench, run, tmp_path, monkeypatch, override, key) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    record = json.loads((run / "provenance.json").read_text())
    record["overrides"].append(override)
    (run / "provenance.json").write_text(json.dumps(record))
    before = sorted(tmp_path.rglob("*"))
    ended = fsbench("rerun", str(run), "seed=4")
    assert (ended.code, ended.out) == (2, "")
    line = f"{run}/provenance.json sets {key}, which is not taken from a record; say it yourself: {key}=..."
    assert ended.err == f"fsbench: {line}\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_rerun_takes_what_is_said_and_what_is_its_own(fsbench, run) -> None:
    record = json.loads((run / "provenance.json").read_text())
    record["overrides"] += ["runs_dir='runs'", "data_dir=data", "logger=wandb"]
    (run / "provenance.json").write_text(json.dumps(record))
    assert fsbench("rerun", str(run)).code == 2
    assert "already done" in fsbench("rerun", str(run), "logger=none", "run_name=x").out


@pytest.mark.parametrize(
    ("content", "why"),
    [('{"overrides": 3}', "it holds no overrides"), ('{"overrides": [3]}', "it holds no overrides"), ("{", "not JSON"),
     ('{"overrides": ["a=(("]}', "a: no override")],
)  # fmt: skip
def test_rerun_of_a_record_that_is_none(fsbench, run, content, why) -> None:
    (run / "provenance.json").write_text(content)
    ended = fsbench("rerun", str(run))
    assert (ended.code, ended.err) == (2, f"fsbench: unreadable: {run}/provenance.json ({why})\n")


def test_completion_offers_nothing_that_a_shell_would_run(tmp_path) -> None:
    """In bash itself: file names are offered, and those with `$(...)` are not executed."""
    for name in ("plain", "$(touch${IFS}pwned)", "`touch${IFS}pwned`", "a;b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    (tmp_path / "fsbench").write_text(f'#!/bin/bash\nexec {sys.executable} -m fsbench "$@"\n')
    (tmp_path / "fsbench").chmod(0o755)
    script = """
eval "$(fsbench -sc install=bash | sed 's/__main__.py/fsbench/')"
for line in "fsbench sharpness run=runs/" "fsbench train dataset.root=./runs/"; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_CWORD=2 hydra_bash_completion
    printf '%s\\n' "${COMPREPLY[@]}"
done
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["run=runs/plain", "dataset.root=./runs/plain"], done.stderr
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--cfg", "job"]], ids=["version", "cfg"])
def test_modules_of_the_working_directory_are_not_imported(tmp_path, arguments) -> None:
    """An installed fsbench, started by `python -m` where somebody left modules called as Python's own are."""
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "fsbench").symlink_to(PACKAGE)
    place = tmp_path / "place"
    place.mkdir()
    for name in ("json", "traceback", "difflib", "importlib", "yaml", "glob"):
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n")
    done = subprocess.run(
        [sys.executable, "-m", "fsbench", *arguments], cwd=place, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "imported").exists()
