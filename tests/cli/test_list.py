"""`fsbench list`: the same entries for a reader and as JSON."""

from __future__ import annotations

import json

import pytest

from fsbench.cli.list import ALL
from fsbench.measuring.measures import DEFAULT, GROUPS, MEASURES, Measure


@pytest.mark.parametrize("kind", ALL)
def test_json_has_what_the_lines_say(fsbench, kind) -> None:
    entries = json.loads(fsbench("list", kind, "--format", "json").out)
    lines = fsbench("list", kind).out.splitlines()
    if kind == "measures":
        lines = [line for line in lines if line.startswith("  ")]
    for entry, line in zip(entries, lines, strict=True):
        source = f" ({entry['source']})" if "source" in entry else ""
        assert line.split()[0] == entry["name"]
        assert line.endswith(f"  {entry['line']}{source}")


def test_kinds(fsbench) -> None:
    assert [entry["name"] for entry in json.loads(fsbench("list", "--format", "json").out)] == list(ALL)
    assert fsbench("list").out.splitlines()[0] == "models         model="


def test_measures_have_a_column_and_the_default_set(fsbench) -> None:
    entries = {entry.pop("name"): entry for entry in json.loads(fsbench("list", "measures", "--format", "json").out)}
    assert entries.keys() == MEASURES.keys()
    assert {name for name, entry in entries.items() if entry["default"]} == set(DEFAULT)
    assert entries["minimum"] == {
        "column": "minimum_sharpness",
        "line": "least Tr H among networks equal up to the layers' scales",
        "source": "ibayashi2021 theorem 1",
        "default": True,
        "group": "curvature",
    }


def test_every_measure_is_in_one_group(fsbench) -> None:
    """Each under the word for what it is made of, and a user's own last."""
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(name for name, measure in MEASURES.items() if not measure.version)
    lines = fsbench("list", "measures").out.splitlines()
    assert [line for line in lines if not line.startswith("  ")][:-1] == [f"{group}:" for group in GROUPS]
    assert lines[-1] == "* measured where measures= is not given; tables have the second column"


def test_a_measure_of_ones_own_is_listed_last(fsbench, monkeypatch) -> None:
    mine = Measure("mine", "mine", "my measure", "me", float, version="1")
    monkeypatch.setitem(MEASURES, "mine", mine)
    lines = fsbench("list", "measures").out.splitlines()
    assert lines[-3] == "own:"
    assert lines[-2].split() == ["mine", "mine", "my", "measure", "(me)"]


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
