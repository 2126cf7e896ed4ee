"""kill -9 at sixty random moments: nothing is lost, nothing differs, nothing is left over, no process stays."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest
from data.tiny_sets import write_folder
from drill.processes import Place, drill, measures, same_files, same_runs

pytestmark = pytest.mark.slow

SMALL = ("dataset=digits", "trainer.progress=false", "trainer.device=cpu")
RUN = (*SMALL, "model=cnn", "optimizer=fsam", "dataset.subset=400", "trainer.epochs=12")
SWEEP = ("-m", *RUN, "trainer.epochs=3", "optimizer=sgd,fsam", "seed=0,1")
STREAMED = (
    "dataset=folder", "dataset.root=images", "dataset.in_memory=false", "dataset.image_size=12", "model=mlp",
    "model.widths=[8]", "augment=crop1_flip", "trainer.epochs=6", "trainer.batch_size=4", "trainer.workers=1",
    "trainer.progress=false", "trainer.device=cpu",
)  # fmt: skip
DEVICES = (*SMALL, "model=wrn28_2", "model.depth=10", "model.width=1", "model.dropout=0.3", "dataset.subset=300",
           "augment=crop1_flip", "trainer.epochs=5", "optimizer=sam", "trainer.devices=2")  # fmt: skip
TRAINED = {"run": (RUN, 12), "sweep": (SWEEP, 12), "streamed": (STREAMED, 8), "devices": (DEVICES, 8)}


@pytest.mark.parametrize("name", TRAINED)
def test_train(name, tmp_path, capsys) -> None:
    line, kills = TRAINED[name]
    write_folder(tmp_path / "images", train=7)
    place = Place(tmp_path)
    begun = time.monotonic()
    place.run("train", *line, "runs_dir=whole")
    figures = drill(
        name, place, kills, lambda number: ["train", *line, f"runs_dir=broken{number}"],
        lambda number: same_runs(tmp_path / f"broken{number}", tmp_path / "whole"), time.monotonic() - begun,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{figures}")


def test_sharpness(tmp_path, capsys) -> None:
    place = Place(tmp_path)
    place.run("train", *SMALL, "model=mlp", "model.widths=[16]", "trainer.epochs=1", "run_name=run")
    for number in range(20):
        shutil.copytree(tmp_path / "runs/run", tmp_path / f"broken{number}")
    line = ("measures=[all]", "samples=100", "progress=false", "device=cpu")
    begun = time.monotonic()
    place.run("sharpness", "run=runs/run", *line)
    whole = measures(tmp_path / "runs/run")

    def check(number: int) -> None:
        assert measures(tmp_path / f"broken{number}") == whole

    figures = drill(
        "sharpness", place, 10, lambda number: ["sharpness", f"run=broken{number}", *line], check,
        time.monotonic() - begun,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{figures}")


def test_reproduce(papers, tmp_path, capsys) -> None:
    place = Place(tmp_path)
    asked = ("reproduce", "--papers", str(papers), "made2099/table1", "made2099/fig1", "kim2022/fig1", "scale=tiny",
             "device=cpu", "progress=false")  # fmt: skip

    def line(name: str) -> list[str]:
        return [*asked, f"runs_dir={name}-runs", f"results_dir={name}"]

    def check(number: int) -> None:
        same_files(tmp_path / f"broken{number}", tmp_path / "whole")
        same_runs(tmp_path / f"broken{number}-runs", tmp_path / "whole-runs")

    begun = time.monotonic()
    place.run(*line("whole"))
    figures = drill(
        "reproduce", place, 10, lambda number: line(f"broken{number}"), check, time.monotonic() - begun
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{figures}")


def test_the_drill_sees_what_is_left(tmp_path) -> None:
    """A drill that can't fail shows nothing."""
    place = Place(tmp_path)
    process = place.start(program=("-c", "import subprocess, sys; subprocess.Popen(['sleep', '30']); sys.exit()"))
    process.wait()
    (left,) = place.alive()
    (tmp_path / ".x.1.part").touch()
    (place.temporary / "x").touch()
    assert [path.name for path in place.litter()] == [".x.1.part", "x"]
    os.kill(left, signal.SIGKILL)
    process.communicate()
    place.wait_until_gone()
    assert place.alive() == []
