"""sharpness.json: what counts as measured already, and that no entry is lost."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from fsbench.config.compose import compose_jobs
from fsbench.config.primary import SHARPNESS
from fsbench.config.sharpness import SharpnessConfig
from fsbench.errors import FsbenchError
from fsbench.geometries import GEOMETRIES
from fsbench.measuring.measures import DEFAULT, MEASURES, chosen_measures, measure_of
from fsbench.measuring.record import Record, answers, settings_of
from fsbench.runs.directory import RunDirectory

VERSION = "1.2.3"


def config(*overrides: str) -> SharpnessConfig:
    (job,) = compose_jobs(["run=x", *overrides], multirun=False, primary=SHARPNESS)
    return job.config


def answered(measure, asked: SharpnessConfig, found: dict, version: str) -> bool:
    return answers(measure, asked, {column: [entry] for column, entry in found.items()}, version) is not None


def entries(name: str, *overrides: str, available: int = 2000) -> dict:
    """As they would be after measuring with these overrides."""
    asked, measure = config(*overrides), MEASURES[name]
    used = available if measure.whole or asked.samples is None else min(asked.samples, available)
    made = {
        column: {
            "settings": settings_of(measure, asked, used, available),
            "images": {"used": used, "of": available, "split": asked.split},
            "provenance": {"fsbench": VERSION},
            "notes": [],
            "seconds": 0.0,
        }
        for column in measure.columns_of(asked)
    }
    return json.loads(json.dumps(made))


# measure: overrides that make another measurement, and overrides that do not
MATTERS = {
    "trace": (["classes=3", "samples=10", "seed=1", "split=test", "dtype=float64", "label_smoothing=0.1"],
              ["probes=7", "rho=1", "subsets=3", "device=cpu", "memory=2", "progress=false", "alphas=[1]",
               "label_smoothing=0", "workers=0"]),
    "trace_hutchinson": (["probes=7", "tolerance=0.1", "seed=1", "samples=10"], ["classes=3", "subsets=3"]),
    "minimum": (["samples=10", "seed=1"], ["probes=7", "tolerance=0.1", "classes=3", "subset_size=5"]),
    "normalized": (["samples=10", "dtype=float64"], ["probes=7", "label_smoothing=0.1"]),
    "fisher_determinant": (["subset_size=5", "subsets=3", "seed=1", "logit_norm=25"],
                           ["samples=10", "samples=null", "probes=7"]),
    "spectral": (["subset_size=5", "subsets=3", "seed=1"], ["samples=10", "logit_norm=25"]),
    "frobenius_fisher": (["subsets=3"], ["samples=10"]),
    "frobenius": (["samples=10"], ["subsets=3"]),
    "worst_case": (["rho=0.1", "neighbourhood=asam", "ascent_steps=3", "neighbourhood=fsam eta=2"],
                   ["probes=7", "rho=0.05"]),
    "adversarial": (["alphas=[7]", "split=test"], ["alphas=[0.5,1]", "samples=10", "seed=1"]),
    "eigenvalues": (["eigenvalues=2", "samples=10", "eigenvalue_tolerance=0.1"], ["probes=7", "tolerance=0.1"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "override", "same"),
    [pytest.param(name, o, same, id=f"{name}-{o}") for name, both in MATTERS.items()
     for same, overrides in zip((False, True), both, strict=True) for o in overrides],
)  # fmt: skip
def test_only_what_matters_to_a_measure_invalidates_it(name, override, same) -> None:
    assert answered(MEASURES[name], config(), entries(name), VERSION)
    assert answered(MEASURES[name], config(*override.split()), entries(name), VERSION) is same


@pytest.mark.parametrize(
    ("measured", "asked", "same"),
    [
        (["samples=null"], ["samples=2000"], True),
        (["samples=null"], ["samples=5000", "seed=3"], True),
        (["samples=5000"], ["samples=null"], True),
        (["samples=null"], ["samples=1999"], False),
        (["samples=1999"], ["samples=null"], False),
        (["samples=1999", "seed=1"], ["samples=1999"], False),
    ],
)
def test_all_images_are_all_images(measured, asked, same) -> None:
    assert answered(MEASURES["minimum"], config(*asked), entries("minimum", *measured), VERSION) is same


def test_every_measure_is_chosen_by_name_and_by_column() -> None:
    for name, measure in MEASURES.items():
        assert chosen_measures([name]) == chosen_measures([measure.column]) == [measure]
        for column in measure.columns_of(config()):
            assert measure_of(column) is measure
    assert [measure.name for measure in chosen_measures(None)] == list(DEFAULT)
    assert chosen_measures(["all", "trace"]) == list(MEASURES.values())
    names = [measure.name for measure in chosen_measures(["adversarial", "default", "minimum"])]
    assert names == ["adversarial", *DEFAULT]
    for column in ("test_accuracy", "adversarial", "adversarial_foo", "adversarial_loss_0.50", "hessian_eigenvalue_0"):
        assert measure_of(column) is None


@pytest.mark.parametrize("name", GEOMETRIES)
def test_radius_and_eta_are_those_of_the_geometry(name) -> None:
    """In the optimizers' own files, where the command line finds them, and where the measure is given none."""
    (job,) = compose_jobs([f"optimizer={name}"], multirun=False)
    options = job.config.optimizer.model_dump(include={"rho", "eta"})
    assert options == GEOMETRIES[name].defaults
    (job,) = compose_jobs(["run=nowhere", f"neighbourhood={name}"], multirun=False, primary=SHARPNESS)
    found = MEASURES["worst_case"].arguments(job.config)
    assert (found["rho"], found["eta"]) == (options["rho"], options.get("eta"))


def source(path: Path, weights: str = "w") -> SimpleNamespace:
    return SimpleNamespace(directory=RunDirectory(path), weights=weights)


def test_processes_do_not_lose_each_others_entries(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_text("w")
    columns = [f"c{i}" for i in range(40)]

    def add(column: str) -> None:
        Record(source(tmp_path)).add({column: {"value": 1.0, "settings": {}}})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, columns))
    assert sorted(Record(source(tmp_path)).read()) == sorted(columns)
    assert sorted(os.listdir(tmp_path)) == ["lock", "model.safetensors", "sharpness.json"]


def test_other_weights_have_another_record(tmp_path) -> None:
    Record(source(tmp_path)).add({"a": {"value": 1.0, "settings": {}}})
    assert Record(source(tmp_path, "v")).read() == {}
    Record(source(tmp_path, "v")).add({"b": {"value": 1.0, "settings": {}}})
    assert list(Record(source(tmp_path, "v")).read()) == ["b"]
    assert Record(source(tmp_path)).read() == {}


def one(samples: int, **more) -> dict:
    return {"value": float(samples), "settings": {"samples": samples}, **more}


REFUSED = {"refused": "no", "value": None}


@pytest.mark.parametrize(
    ("added", "kept"),
    [
        ([one(1), one(2)], [one(2), one(1)]),
        ([one(1), one(2), one(1, note="again")], [one(1, note="again"), one(2)]),
        ([one(1), one(2, **REFUSED)], [one(1), one(2, **REFUSED)]),
        ([one(2, **REFUSED), one(1)], [one(1), one(2, **REFUSED)]),
        ([one(1, **REFUSED), one(2, **REFUSED)], [one(2, **REFUSED), one(1, **REFUSED)]),
        ([one(1), one(1, **REFUSED)], [one(1, **REFUSED)]),
        ([one(1), one(2), one(2, **REFUSED)], [one(1), one(2, **REFUSED)]),
        ([one(i) for i in range(30)], [one(i) for i in range(29, 9, -1)]),
        ([one(99), *(one(i, **REFUSED) for i in range(30))],
         [one(99), *(one(i, **REFUSED) for i in range(29, 10, -1))]),
    ],
    ids=["another", "again", "refused", "first-refused", "refused-twice", "refused-now", "refused-now-of-two",
         "many", "many-refusals"],
)  # fmt: skip
def test_the_newest_value_is_current(tmp_path, added, kept) -> None:
    record = Record(source(tmp_path))
    for entry in added:
        record.add({"b": one(7), "a": entry})
    assert record.kept() == {"b": [one(7)], "a": kept}
    assert record.read() == {"b": one(7), "a": kept[0]}
    content = json.loads((tmp_path / "sharpness.json").read_text())
    assert content["measures"] == record.read()
    assert content.get("others", {}) == ({"a": kept[1:]} if kept[1:] else {})


def test_any_of_the_settings_answers() -> None:
    trace = MEASURES["trace"]
    kept = {"hessian_trace": [*entries("trace", "samples=10").values(), *entries("trace").values()]}
    assert answers(trace, config(), kept, VERSION) == entries("trace")
    assert answers(trace, config("samples=10"), kept, VERSION) == entries("trace", "samples=10")
    assert answers(trace, config("samples=11"), kept, VERSION) is None


def test_weights_that_change_meanwhile(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_text("w")
    record = Record(source(tmp_path))
    (tmp_path / "model.safetensors").write_text("other")
    with pytest.raises(FsbenchError, match="the weights changed while they were measured"):
        record.add({"a": {"value": 1.0, "settings": {}}})
    assert not (tmp_path / "sharpness.json").exists()
