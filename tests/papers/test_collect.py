"""Papers are found by their files; one more paper is one more file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsbench.errors import UsageError
from fsbench.papers import add_papers, artefacts, collect, read
from fsbench.papers.artefact import Published

PAPER = """
from fsbench.papers.artefact import Artefact, Published, Table

ARTEFACTS = (
    Artefact(
        name="doe2031/table1",
        title="Made up",
        source="Doe 2031, table 1",
        shows=Table("test_accuracy", ("model",), "optimizer", "sgd", True, "Test accuracy (%)"),
        experiment="kim2022/table1",
        axes={"model": ("resnet20",), "optimizer": ("sgd", "sam")},
        seeds=2,
        scales={},
        published=(Published("doe.csv", {"optimizer": "method"}, names={"sgd": "SGD"}, factor=100.0, unit="%"),),
    ),
)
"""


@pytest.fixture
def more(tmp_path, monkeypatch) -> Path:
    """A directory for papers; what is added is forgotten afterwards."""
    artefacts()
    monkeypatch.setattr(collect, "_papers", dict(collect._papers))
    return tmp_path


def test_one_more_paper_is_one_file(more) -> None:
    (more / "doe2031.py").write_text(PAPER)
    (more / "helper.py").write_text("raise SystemExit\n")  # not a paper, so not run
    (more / "numbers").mkdir()
    (more / "numbers" / "doe.csv").write_text("method,mean,std\nSGD,90.5,0.1\nsam,91,\n")
    add_papers(more)
    add_papers(more)
    assert len(artefacts()) == 26
    (published,) = artefacts()["doe2031/table1"].published
    assert read(published) == [
        {"optimizer": "sgd", "mean": 90.5, "std": 0.1, "unit": "%"},
        {"optimizer": "sam", "mean": 91.0, "std": None, "unit": "%"},
    ]


BAD = [
    ("nothing", None, "holds no paper"),
    ("fails", "ARTEFACTS = 1 / 0", "x.py can't be read, ZeroDivisionError: division by zero"),
    ("other_name", PAPER, "x.py: doe2031/table1 has to be called x/..."),
    ("other_kind", "ARTEFACTS = ('table1',)", "x.py: ARTEFACTS holds a str, not an Artefact or Computed"),
]


@pytest.mark.parametrize(("content", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_papers_are_named(more, content, problem) -> None:
    if content is not None:
        (more / "x.py").write_text(content)
    with pytest.raises(UsageError, match="papers=") as raised:
        add_papers(more)
    assert problem in str(raised.value)
    assert len(artefacts()) == 25


def test_a_directory_that_is_not_there(more) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        add_papers(more / "absent")


def test_two_of_one_name(more) -> None:
    for place in ("a", "b"):
        (more / place).mkdir()
        (more / place / "doe2031.py").write_text(PAPER)
        add_papers(more / place)
    with pytest.raises(UsageError, match="doe2031/table1 is there already"):
        artefacts()


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        (Published("absent.csv", {}), "absent.csv: no paper brings such a file"),
        (Published("misc.csv", {}), "misc.csv: has no column mean"),
        (Published("kim2022_table4.csv", {"optimizer": "method"}), "has no column method"),
    ],
    ids=["file", "mean", "axis"],
)
def test_numbers_that_can_not_be_read(published, problem) -> None:
    with pytest.raises(UsageError, match=problem):
        read(published)
