"""kill -9 at sixty random moments: nothing is lost, nothing differs, nothing is left over, no process stays."""

from __future__ import annotations

import os
import signal

import pytest
from data.tiny_sets import write_folder
from drill.processes import RUN, SMALL, SWEEP, Place, drill, measuring, reproducing, training

pytestmark = pytest.mark.slow

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
    figures = drill(name, place, kills, training(place, line))
    with capsys.disabled():
        print(f"\n{figures}")


def test_sharpness(tmp_path, capsys) -> None:
    place = Place(tmp_path)
    figures = drill("sharpness", place, 10, measuring(place, 20))
    with capsys.disabled():
        print(f"\n{figures}")


def test_reproduce(papers, tmp_path, capsys) -> None:
    place = Place(tmp_path)
    figures = drill("reproduce", place, 10, reproducing(place, papers))
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
