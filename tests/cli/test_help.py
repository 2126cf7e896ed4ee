"""`fsbench help`: every guide is a topic, printed as it lies in the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import fsbench
from fsbench.cli.help import TOPICS
from fsbench.cli.main import main

GUIDES = Path(fsbench.__file__).parent / "guides"


def test_every_guide_is_a_topic_with_a_line(capsys) -> None:
    assert main(["help"]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [words[0] for words in listed] == list(TOPICS)
    assert all(len(words) > 3 for words in listed)
    assert {path.stem for path in GUIDES.iterdir()} == TOPICS.keys()


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_printed_whole(topic, capsys) -> None:
    assert main(["help", topic]) == 0
    assert capsys.readouterr().out == (GUIDES / f"{topic}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sharpnes"], "no help on 'sharpnes' (did you mean 'sharpness'?); there are training, comparing, sharpness, "),
        (["training", "devices"], "help takes one topic, got training devices"),
    ],
    ids=["unknown", "two"],
)
def test_other_words_are_refused(arguments, said, capsys) -> None:
    assert main(["help", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_help_of_the_program_names_the_guides(capsys) -> None:
    assert main(["--help"]) == 0
    assert "help       the guides: " in capsys.readouterr().out
