"""Measures of examples that two processes share: the values of one process, or a refusal on both."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import MEASURES, measured

from fsbench.optim import Processes

REFUSED = {
    "trace-of-drawn-classes": "classes=2: what is drawn follows the order of the examples; use one process, or all "
    "classes",
    "fisher-trace-of-groups": "groups of examples in the order of the data can't be had of several processes; use one",
    "worst-case-apgd": "groups of examples in the order of the data can't be had of several processes; use one",
    "fisher-determinant": "subsets are drawn from all examples, which no process has; use one process",
}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return measured(Processes())


def plain(value: Any) -> Any:
    if is_dataclass(value):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def assert_alike(mine: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert mine.keys() == expected.keys()
        for key in expected:
            assert_alike(mine[key], expected[key])
    elif isinstance(expected, list):
        for a, b in zip(mine, expected, strict=True):
            assert_alike(a, b)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(mine, expected, rtol=1e-7, atol=1e-10)
    elif isinstance(expected, float):
        assert mine == pytest.approx(expected, rel=1e-7, abs=1e-10, nan_ok=True)
    else:
        assert mine == expected


@pytest.mark.parametrize("measure", [name for name in MEASURES if name not in REFUSED])
def test_two_processes_measure_what_one_does(two, alone, measure) -> None:
    """Values, standard errors, parts, counts and notes."""
    assert not isinstance(alone[measure], str)
    for told in two["sharpness"]:
        assert_alike(plain(told[measure]), plain(alone[measure]))


@pytest.mark.parametrize("measure", REFUSED)
def test_what_needs_all_examples_in_one_place_is_refused(two, alone, measure) -> None:
    assert not isinstance(alone[measure], str)
    assert [told[measure] for told in two["sharpness"]] == [REFUSED[measure]] * 2


def test_both_refuse_what_is_wrong_on_one(two) -> None:
    for told in two["sharpness"]:
        assert told["changing"].startswith("batches yield other examples each time they are iterated")
        assert told["empty"] == "batches hold no examples on 1 of 2 processes"


@pytest.mark.slow
def test_the_command_on_two_devices(fsbench, quick) -> None:
    """Every measure in two processes, subsets included, is what it is in one; the record answers for both."""
    for name in ("one", "two"):
        assert fsbench("train", *quick, f"runs_dir={name}").code == 0
    (one,), (two,) = (list(Path(name).iterdir()) for name in ("one", "two"))
    line = ["measures=[all]", "samples=100", "subset_size=10", "subsets=3", "dtype=float64", "progress=false",
            "device=cpu", "group_size=20", "apgd_steps=2", "draws=10"]  # fmt: skip
    assert fsbench("sharpness", f"run={one}", *line).code == 0
    ended = fsbench("sharpness", f"run={two}", *line, "devices=2")
    assert (ended.code, ended.err) == (0, "")
    mine, expected = (json.loads((path / "sharpness.json").read_text())["measures"] for path in (two, one))
    assert mine.keys() == expected.keys()
    for column, entry in expected.items():
        assert mine[column]["settings"] == entry["settings"]
        assert mine[column].get("value") == pytest.approx(entry.get("value"), rel=1e-6)
        assert mine[column].get("notes") == entry.get("notes")
    assert "already measured" in fsbench("sharpness", f"run={two}", *line).out
