"""Twenty files of strangers: none is executed, none has another file written, none lets a secret out."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drill.processes import Place

pytestmark = pytest.mark.slow

SECRET = "s3cret-of-the-environment"
SMALL = ("dataset=digits", "model=mlp", "model.widths=[16]", "trainer.epochs=2", "trainer.progress=false",
         "trainer.device=cpu", "run_name=x")  # fmt: skip
TRAIN = ("train", *SMALL)
SHARPNESS = ("sharpness", "run=runs/x", "measures=[fisher_trace]", "samples=50", "progress=false")
RERUN = ("rerun", "runs/x", "seed=4")
TABLE = ("table", "runs")


class Code:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def linked(name: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / "runs/x" / name).unlink(missing_ok=True)
        (place / "runs/x" / name).symlink_to(place / "precious")

    return change


def recorded(override: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        file = place / "runs/x/provenance.json"
        record = json.loads(file.read_text())
        record["overrides"].append(override.replace("PLACE", str(place)))
        file.write_text(json.dumps(record))

    return change


def content(name: str, text: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / "runs/x" / name).write_text(text.replace("PLACE", str(place)))

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / "runs/x" / name).unlink(missing_ok=True)
        os.mkfifo(place / "runs/x" / name)

    return change


def pickled(name: str, by: Callable) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / "runs/x/summary.json").unlink()
        by(Code(place / "executed"), place / "runs/x" / name)

    return change


def module(place: Path) -> None:
    (place / "json.py").write_text(f"open({str(place / 'executed')!r}, 'w')\n")


CASES = {
    "lock-link-train": (linked("lock"), (*TRAIN, "overwrite=true"), 2),
    "lock-link-sharpness": (linked("lock"), SHARPNESS, 2),
    "log-link": (linked("train.log"), (*TRAIN, "overwrite=true"), 2),
    "metrics-link": (linked("metrics.jsonl"), (*TRAIN, "overwrite=true"), 2),
    "record-link": (linked("sharpness.json"), SHARPNESS, 0),
    "tensorboard-link": (linked("tensorboard"), (*TRAIN, "overwrite=true"), 2),
    "search-path": (recorded("hydra.searchpath=[file://PLACE/stranger]"), RERUN, 2),
    "search-path-plus": (recorded("+hydra.searchpath=[pkg://stranger]"), RERUN, 2),
    "environment": (recorded("dataset.label='${oc.env:SECRET}'"), RERUN, 2),
    "other-directory": (recorded("runs_dir=PLACE/elsewhere"), RERUN, 2),
    "logger": (recorded("logger=tensorboard"), RERUN, 2),
    "job-script": (recorded('executor.partition="a\\n#SBATCH --wrap=x"'), RERUN, 2),
    "choice-outside": (recorded("experiment=../../PLACE/stranger/x"), RERUN, 2),
    "yaml-code": (content("config.yaml", "a: !!python/object/apply:os.mkdir [PLACE/executed]\n"), TRAIN, 2),
    "yaml-references": (content("config.yaml", "a: &a [1]\nb: [*a, *a]\n"), SHARPNESS, 2),
    "deep": (content("summary.json", "[" * 100_000), TRAIN, 2),
    "pipe": (pipe("summary.json"), (*TABLE, "--columns", "steps"), 2),
    "pickle": (pickled("checkpoint.pt", lambda code, path: path.write_bytes(pickle.dumps(code))), TRAIN, 2),
    "torch-pickle": (pickled("checkpoint.pt", torch.save), TRAIN, 2),
    "module": (module, (*TRAIN, "overwrite=true", "trainer.devices=2"), 0),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    place = Place(tmp_path_factory.mktemp("trained"))
    place.run(*TRAIN)
    return place.path / "runs"


@pytest.mark.parametrize("case", CASES)
def test_a_strangers_file(trained, tmp_path, monkeypatch, capsys, case) -> None:
    change, line, code = CASES[case]
    monkeypatch.setenv("SECRET", SECRET)
    shutil.copytree(trained, tmp_path / "runs")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger/__init__.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    (tmp_path / "stranger/x.yaml").write_text(f"# @package _global_\nruns_dir: {tmp_path}/elsewhere\n")
    place = Place(tmp_path)
    change(tmp_path)
    process = place.start(*line)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert code == 0 or (out, err.count("\n"), err[:9]) == ("", 1, "fsbench: ")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "elsewhere").exists()
    assert SECRET not in out + err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    assert place.litter() == []


def test_their_number(capsys) -> None:
    with capsys.disabled():
        print(f"\n{len(CASES)} strangers' files: nothing executed, written or let out")
    assert len(CASES) >= 20
