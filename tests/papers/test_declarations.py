"""The declarations against the papers: all artefacts, their settings cell by cell, their published numbers."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest
from papers.paper_settings import PUBLISHED, REQUIRED, settings

from fsbench.config.compose import Composer, compose_jobs
from fsbench.config.primary import SHARPNESS
from fsbench.measuring.measures import MEASURES, chosen_measures, measure_of
from fsbench.papers import artefacts, read
from fsbench.papers.artefact import SCALES, Artefact, Computed, Lines, Published, Scale, Scatter, Table
from fsbench.papers.collect import rows
from fsbench.reproduce.cells import Cell, cells
from fsbench.runs.identity import flatten

ALL = artefacts()
TRAINED = {name: one for name, one in ALL.items() if isinstance(one, Artefact)}
COMPUTED = {name: one for name, one in ALL.items() if isinstance(one, Computed)}
RESULTS = {"test_accuracy", "test_top5_accuracy", "generalization_gap"}
DERIVED = {"test_error", "train_error", "test_top5_error", "train_top5_error", "top5_generalization_gap",
           "half_fisher_log_determinant"}  # fmt: skip


def test_all_25() -> None:
    listed = """
        kim2022: fig1 fig2 fig3 table1 table2 table3 fig4 table4 fig5 sec5.7
        jia2020: fig2 fig3 fig4 table1 table2 table3 sec7.2.1
        ibayashi2021: fig1 fig2 fig3 fig4
        tsuzuku2019: fig1 fig3 fig4 appA"""
    names = [
        f"{paper}/{name}" for line in listed.strip().splitlines() for paper, _, rest in [line.strip().partition(": ")]
        for name in rest.split()
    ]  # fmt: skip
    assert len(names) == 25
    assert set(ALL) == set(names)
    # Each paper's in its own order.
    for paper in {name.partition("/")[0] for name in names}:
        assert [n for n in ALL if n.startswith(f"{paper}/")] == [n for n in names if n.startswith(f"{paper}/")]


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def lines(artefact: Artefact, scale: Scale) -> list[tuple[Cell, list[str]]]:
    """Each cell and its command line, seed left aside."""
    return [
        (
            cell,
            [f"experiment={artefact.experiment}", *cell.overrides, *scale.overrides]
            + [word for where, words in scale.also if cell.has(where) for word in words],
        )
        for cell in cells(artefact, scale)
    ]


# Of its eight networks two are enough to meet every number; all of them in the slow set.
WHOLE = [
    pytest.param(
        name, Scale(axes={"model": ("resnet20", "pyramidnet272")}) if name == "kim2022/table1" else Scale(), id=name
    )
    for name in TRAINED
]
WHOLE.append(pytest.param("kim2022/table1", Scale(), id="kim2022/table1, all networks", marks=pytest.mark.slow))


@pytest.mark.parametrize(("name", "scale"), WHOLE)
def test_every_cell_has_the_papers_settings(name, scale, composer) -> None:
    artefact = TRAINED[name]
    for cell, line in lines(artefact, scale):
        found = flatten(composer.job(line).config.model_dump())
        expected = settings(name, dict(cell.values))
        assert set(REQUIRED) <= expected.keys(), line
        assert {key: found.get(key, "no such key") for key in expected} == expected, line
        if cell.extra is None:
            assert cell.values.get("optimizer", found["optimizer.name"]) == found["optimizer.name"]
        missing = {key for key in ("optimizer.rho", "optimizer.eta") if key in found} - expected.keys()
        assert not missing, line


def test_settings_are_written_out_for_every_artefact() -> None:
    assert PUBLISHED.keys() == TRAINED.keys()


@pytest.mark.parametrize("scale", ["small", "tiny"])
@pytest.mark.parametrize("name", TRAINED)
def test_cells_compose_at_every_scale(name, scale, composer) -> None:
    artefact = TRAINED[name]
    cut = artefact.scales[scale]
    published = {tuple(sorted(cell.values.items())) for cell, _ in lines(artefact, Scale())}
    composed = [composer.job(line).config for _, line in lines(artefact, cut)]
    assert 1 < len(composed) <= len(published)
    assert all(config.trainer.epochs <= 60 or config.dataset.subset for config in composed)
    if scale == "tiny":
        # No download: the data set that comes with fsbench, and no published weights.
        assert {config.dataset.name for config in composed} == {"digits"}
        assert not any(getattr(config.model, "pretrained", False) for config in composed)
    else:
        # What is left of the paper's axes is the paper's.
        assert all(set(values) <= set(artefact.axes[axis]) for axis, values in cut.axes.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_cells_are_command_lines_of_train(name, composer) -> None:
    for scale in (Scale(), *TRAINED[name].scales.values()):
        for _, line in lines(TRAINED[name], scale):
            (job,) = compose_jobs([*line, "seed=1"], multirun=False)
            assert job.config == composer.job([*line, "seed=1"]).config


@pytest.mark.parametrize("name", TRAINED)
def test_measures_are_those_that_are_shown(name) -> None:
    artefact = TRAINED[name]
    for scale in (Scale(), *artefact.scales.values()):
        line = ["run=R", f"measures=[{','.join(artefact.measures)}]", *artefact.measure, *scale.measure]
        (job,) = compose_jobs(line if artefact.measures else ["run=R"], multirun=False, primary=SHARPNESS)
        if artefact.measures:
            assert [one.name for one in chosen_measures(job.config.measures)] == list(artefact.measures)
    needed = {"fisher_log_determinant" if v == "half_fisher_log_determinant" else v for v in shown(artefact)}
    columns = {value for value in needed if value not in RESULTS | DERIVED}
    of = {value: measure_of(value) or measure_of(f"{value}_0.1") for value in columns}
    assert {one.name for one in of.values() if one} == set(artefact.measures)
    assert all(of.values())


def shown(artefact: Artefact) -> list[str]:
    """Names of the results that an artefact shows."""
    form = artefact.shows
    if isinstance(form, Table):
        return [form.value, *(value for value, _ in form.more)]
    return [value for value, _ in (form.panels if isinstance(form, Lines) else form.measures)]


@pytest.mark.parametrize("name", TRAINED)
def test_forms_name_axes_and_values(name) -> None:
    artefact = TRAINED[name]
    form, axes = artefact.shows, set(artefact.axes)
    if isinstance(form, Table):
        # No axis is averaged over.
        assert {*form.rows, form.columns} == axes
        assert form.baseline in artefact.axes[form.columns]
    elif isinstance(form, Lines):
        assert {form.x, form.lines} - {None, "alpha"} == axes
    else:
        assert {*form.panels, form.colour} == axes
    for extra in artefact.extras:
        assert extra.where[extra.axis] in artefact.axes[extra.axis]
        assert extra.label not in artefact.axes[extra.axis]


# --- published numbers ---


def where(row: dict, published: Published) -> dict[str, str]:
    return {axis: row[axis] for axis in published.columns}


@pytest.mark.parametrize("name", [name for name, one in TRAINED.items() if one.published])
def test_numbers_and_cells_agree(name) -> None:
    artefact = TRAINED[name]
    here = cells(artefact, Scale())
    of = [published.value or shown(artefact)[0] for published in artefact.published]
    assert sorted(of) == sorted(shown(artefact))
    for published in artefact.published:
        numbers = [where(row, published) for row in read(published)]
        places = [{axis: cell.values[axis] for axis in published.columns} for cell in here]
        printed = [place for place, cell in zip(places, here, strict=True) if cell.extra is None]
        if isinstance(artefact.shows, Scatter):
            # A correlation is of a panel.
            places = printed = [dict(panel) for panel in dict.fromkeys(tuple(place.items()) for place in printed)]
        assert [places.count(number) for number in numbers] == [1] * len(numbers)
        assert [numbers.count(place) for place in printed] == [1] * len(printed)


def test_every_number_is_someones() -> None:
    used: Counter[str] = Counter()
    # Both conventions of gamma-hat stand beside the same numbers.
    twice = "jia2020_table3.csv"
    for one in TRAINED.values():
        for published in one.published:
            used[published.file] += len(read(published))
    used[twice] //= 2
    assert used == {file: len(rows(file)) for file in used}
    assert len(used) == 8


# Picked by hand from the printed tables.
PRINTED = [
    ("kim2022/table1", 0, {"dataset": "cifar100", "model": "pyramidnet272", "optimizer": "fsam"}, 86.93, 0.14),
    ("kim2022/table1", 0, {"dataset": "cifar10", "model": "densenet121", "optimizer": "sgd"}, 91.83, 0.13),
    ("kim2022/table2", 1, {"dataset": "imagenet", "model": "deit_base", "optimizer": "asam"}, 95.83, 0.04),
    ("kim2022/table2", 0, {"dataset": "imagenet", "model": "deit_base", "optimizer": "before extra training"}, 81.94,
     None),
    ("kim2022/table3", 0, {"dataset": "stanford_cars", "model": "vit_base_patch16", "optimizer": "sam"}, 93.29, 0.01),
    ("kim2022/table4", 0, {"dataset": "cifar10", "model": "resnet32", "dataset.noise": "0.8", "optimizer": "sam"},
     74.31, 1.02),
    ("jia2020/table1", 0, {"dataset": "cifar100", "model": "wrn28_2_b33", "optimizer": "fisher_trace"}, 23.88, 0.13),
    ("jia2020/table2", 2, {"dataset": "imagenet128", "model": "wrn18_1.5", "optimizer": "sgd"}, 11.85, None),
    ("jia2020/table3", 0, {"dataset": "cifar10", "model": "densenet_bc_k12", "optimizer": "sgd"}, -850.3, 23.5),
    ("tsuzuku2019/fig1", 1, {"dataset": "cifar10", "model": "wrn16_4"}, 91.1, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "index", "cell", "mean", "std"), PRINTED, ids=lambda x: x if type(x) is str else "")
def test_printed_numbers(name, index, cell, mean, std) -> None:
    published = TRAINED[name].published[index]
    (row,) = [row for row in read(published) if where(row, published) == cell]
    assert (row["mean"], row["std"]) == (mean, std)


# --- computed artefacts ---


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_functions_are_there(name) -> None:
    one = COMPUTED[name]
    module, _, function = one.function.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert tuple(one.options) == SCALES


def test_no_measure_is_misnamed() -> None:
    assert {measure for one in TRAINED.values() for measure in one.measures} <= MEASURES.keys()
