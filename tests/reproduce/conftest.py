"""A made-up paper: two tables and a figure of tiny networks on the embedded digits, published numbers beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fsbench.papers import collect

PAPER = """
from fsbench.papers.artefact import Artefact, Extra, Lines, Published, Scale, Scatter, Table

TINY = ("dataset=digits", "model=mlp", "model.widths=[8]", "augment=none", "trainer.epochs=2", "trainer.batch_size=128",
        "trainer.progress=false")

TABLE = Artefact(
    name="made2099/table1",
    title="Accuracy of tiny networks",
    source="Made up 2099, table 1",
    shows=Table("test_accuracy", ("dataset.noise",), "optimizer", "sgd", True, "Test accuracy (%)"),
    experiment="kim2022/table1",
    axes={"optimizer": ("sgd", "sam", "fsam"), "dataset.noise": ("0.0", "0.2", "0.4")},
    seeds=2,
    without=({"optimizer": "fsam", "dataset.noise": "0.4"},),
    extras=(
        Extra("optimizer", "wide SAM", {"optimizer": "sam", "dataset.noise": "0.2"}, ("optimizer.rho=0.5",),
              "to see a larger radius"),
    ),
    published=(Published("made.csv", {"optimizer": "method", "dataset.noise": "noise"}, factor=100, unit="%"),),
    scales={
        "small": Scale(overrides=TINY),
        "tiny": Scale(axes={"dataset.noise": ("0.2",)}, overrides=TINY, also=(({"optimizer": "sgd"},
                      ("trainer.epochs=4",)),), seeds=1),
    },
    notes=("Nobody wrote this paper",),
)

FIGURE = Artefact(
    name="made2099/fig1",
    title="Sharpness against accuracy",
    source="Made up 2099, figure 1",
    shows=Scatter("generalization_gap", "Gap (%)", (("fisher_trace", "Fisher trace"),), (), "dataset.noise"),
    experiment="kim2022/table1",
    axes={"optimizer": ("sgd", "sam"), "dataset.noise": ("0.2",)},
    seeds=1,
    measures=("fisher_trace",),
    measure=("samples=null",),
    scales={"tiny": Scale(overrides=TINY, also=(({"optimizer": "sgd"}, ("trainer.epochs=4",)),),
                          measure=("samples=20",))},
)

ARTEFACTS = (TABLE, FIGURE)
"""
NUMBERS = "method,noise,mean,std\nsgd,0.2,90.5,0.25\nsam,0.2,92.5,\n"


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory with the paper; what is added to the papers here is forgotten afterwards."""
    monkeypatch.setattr(collect, "_papers", dict(collect._papers))
    directory = tmp_path / "papers"
    (directory / "numbers").mkdir(parents=True)
    (directory / "made2099.py").write_text(PAPER)
    (directory / "numbers/made.csv").write_text(NUMBERS)
    return directory


@pytest.fixture
def reproduce(fsbench, papers) -> Callable:
    """`reproduce("made2099/table1", "scale=tiny")` with the made-up paper."""

    def run(*words: str):
        return fsbench("reproduce", "--papers", str(papers), "device=cpu", *words)

    return run
