"""`fsbench list`: the same entries for a reader and as JSON."""

from __future__ import annotations

import json

import pytest

from fsbench.cli.list import ALL
from fsbench.measuring.measures import DEFAULT, MEASURES


@pytest.mark.parametrize("kind", ALL)
def test_json_has_what_the_lines_say(fsbench, kind) -> None:
    entries = json.loads(fsbench("list", kind, "--format", "json").out)
    lines = fsbench("list", kind).out.splitlines()
    for entry, line in zip(entries, lines, strict=kind != "measures"):
        source = f" ({entry['source']})" if "source" in entry else ""
        assert line.split()[0] == entry["name"]
        assert line.endswith(f"  {entry['line']}{source}")


def test_kinds(fsbench) -> None:
    assert [entry["name"] for entry in json.loads(fsbench("list", "--format", "json").out)] == list(ALL)
    assert fsbench("list").out.splitlines()[0] == "models         model="


def test_measures_have_a_column_and_the_default_set(fsbench) -> None:
    entries = {entry.pop("name"): entry for entry in json.loads(fsbench("list", "measures", "--format", "json").out)}
    assert list(entries) == list(MEASURES)
    assert {name for name, entry in entries.items() if entry["default"]} == set(DEFAULT)
    assert entries["minimum"] == {
        "column": "minimum_sharpness",
        "line": "least Tr H among networks equal up to the layers' scales",
        "source": "ibayashi2021 theorem 1",
        "default": True,
    }


def test_own_groups_are_listed(fsbench, tmp_path) -> None:
    (tmp_path / "own/model").mkdir(parents=True)
    (tmp_path / "own/model/mine.yaml").write_text("# my network\nfamily: mlp\n")
    found = json.loads(fsbench("list", "models", "--config-dir", "own", "--format", "json").out)
    assert {"name": "mine", "line": "my network"} in found


BAD = {
    "kind": (["modles"], "fsbench: list=modles: no such kind (did you mean 'models'?); allowed: models, "),
    "format": (["models", "--format", "xml"], "fsbench: fsbench list: argument --format: invalid choice: 'xml'"),
    "directory": (["models", "-cd", "nowhere"], "fsbench: --config-dir=nowhere: no such directory\n"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(fsbench, arguments, said) -> None:
    ended = fsbench("list", *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(said)


OPTIONS = [
    (("optimizers", "fsam"), "optimizer.eta=1.0              D = 1 / (1 + eta f). fsbench compare searches "),
    (("schedules", "multistep"), "schedule.milestones=[0.5, 0.75]\n"),
    (("models", "wrn28_10"), "model.width=10\n"),
    (("datasets", "folder"), "dataset.root=null                  required\n"),
]


@pytest.mark.parametrize(("words", "line"), OPTIONS, ids=[words[1] for words, _ in OPTIONS])
def test_the_options_of_one(words, line, fsbench) -> None:
    ended = fsbench("list", *words)
    assert ended.code == 0, ended.err
    assert line in ended.out


def test_a_choice_that_is_not_there(fsbench) -> None:
    ended = fsbench("list", "optimizers", "fsm")
    problem = "no such choice (did you mean 'fsam'?); fsbench list optimizers shows them"
    assert (ended.code, ended.err) == (2, f"fsbench: list=optimizers fsm: {problem}\n")
