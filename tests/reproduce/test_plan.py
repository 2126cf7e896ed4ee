"""Which runs an artefact needs, what is said of what was cut, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsbench.config.compose import Composer, compose_jobs
from fsbench.config.primary import SHARPNESS
from fsbench.measuring.cost import Estimator, operations, passes
from fsbench.papers import add_papers, artefacts
from fsbench.reproduce.plan import Plan, make_plan, runs_by_directory
from fsbench.reproduce.request import read_request

TABLE, FIGURE = "made2099/table1", "made2099/fig1"


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.fixture
def planned(papers, composer):
    """`planned("made2099/table1", "scale=tiny")`: the plans."""
    add_papers(papers)

    def plan(*words: str) -> list[Plan]:
        request = read_request(words, artefacts(), composer)
        return [make_plan(artefact, request, composer) for artefact in request.artefacts]

    return plan


# words, then runs by (optimizer, noise)
COUNTS = {
    # 3 x 3 less one combination, and one line of ours, two seeds
    "paper": (["scale=paper"], 18),
    "axis-of-the-scale": (["scale=tiny"], 4),
    "chosen-axis": (["scale=tiny", "optimizer=sgd,fsam"], 2),
    "seeds": (["scale=tiny", "optimizer=sgd", "seeds=3"], 3),
    "chosen-beyond-the-scale": (["scale=tiny", "optimizer=sgd", "dataset.noise=0.4"], 1),
    "not-in-the-paper": (["scale=tiny", "optimizer=sgd,asam", "dataset.noise=0.3,0.4"], 4),
    "our-line-alone": (["scale=tiny", "optimizer=wide SAM"], 1),
    "our-line-beside-its-cells": (["scale=tiny", "optimizer=sam,wide SAM"], 2),
    "our-line-not-chosen": (["scale=tiny", "optimizer=sam"], 1),
}


@pytest.mark.parametrize(("words", "runs"), COUNTS.values(), ids=COUNTS)
def test_how_many_runs(planned, words, runs) -> None:
    (plan,) = planned(TABLE, *words)
    assert len(plan.runs) == runs
    assert len(runs_by_directory([plan])) == runs


def test_a_cell_is_a_run_of_train(planned) -> None:
    (plan,) = planned(TABLE, "scale=tiny", "optimizer=sam,wide SAM", "trainer.epochs=3", "runs_dir=my runs")
    plain, ours = plan.runs
    assert (plain.cell.values["optimizer"], ours.cell.values["optimizer"]) == ("sam", "wide SAM")
    (job,) = compose_jobs(
        ["experiment=kim2022/table1", "optimizer=sam", "dataset.noise=0.2", "dataset=digits", "model=mlp",
         "model.widths=[8]", "augment=none", "trainer.epochs=3", "trainer.batch_size=128", "runs_dir='my runs'",
         "trainer.progress=true", "seed=0"], multirun=False,
    )  # fmt: skip
    assert plain.job.config == job.config.model_copy(
        update={"trainer": job.config.trainer.model_copy(update={"device": "auto", "progress": False})}
    )
    assert plain.directory.path.parent == Path("my runs")
    assert (plain.job.config.optimizer.rho, ours.job.config.optimizer.rho) == (0.05, 0.5)


def test_overrides_of_some_cells(planned) -> None:
    (plan,) = planned(TABLE, "scale=tiny")
    epochs = {run.cell.values["optimizer"]: run.job.config.trainer.epochs for run in plan.runs}
    assert epochs == {"sgd": 4, "sam": 2, "wide SAM": 2, "fsam": 2}
    # The command line has the last word.
    (plan,) = planned(TABLE, "scale=tiny", "trainer.epochs=1")
    assert {run.job.config.trainer.epochs for run in plan.runs} == {1}


def test_runs_of_several_artefacts_are_shared(planned) -> None:
    plans = planned("made2099", "scale=tiny")
    assert [len(plan.runs) for plan in plans] == [4, 2]
    shared = runs_by_directory(plans)
    assert len(shared) == 4
    assert sorted(len(those) for those in shared.values()) == [1, 1, 2, 2]


CUTS = {
    "nothing": (["scale=paper", "optimizer=sgd,sam,fsam"], []),
    "seeds": (["scale=paper", "seeds=1"], ["1 seed instead of 2."]),
    "more-seeds": (["scale=paper", "seeds=3"], ["3 seeds instead of 2."]),
    "cells": (
        ["scale=paper", "optimizer=sgd", "dataset.noise=0.20"],
        ["Left out: optimizer sam, fsam; dataset.noise 0.0, 0.4."],
    ),
    "a-cell-of-ours": (["scale=paper", "optimizer=sgd,sam,fsam,asam"], ["Not in the paper: optimizer asam."]),
    "epochs": (
        ["scale=paper", "trainer.epochs=3"],
        ["Trained for 3 epochs instead of 400 or 200."],
    ),
    "epochs-alike": (["scale=paper", "optimizer=sam,fsam,sgd", "dataset.noise=0.2,0.0,0.4", "trainer.batch_size=64"],
                     ["Batches of 64 images instead of 128."]),
    "subset": (["scale=paper", "dataset.subset=1000"], ["Trained on 1,000 images instead of 50,000."]),
    "steps": (["scale=paper", "trainer.max_steps=5"], ["Training stopped after 5 steps instead of all."]),
    "data-set": (["scale=paper", "dataset=fashion_mnist"], ["Data set: Fashion-MNIST instead of CIFAR-10."]),
    "network": (["scale=paper", "model=resnet56"], ["Network: resnet56 instead of resnet20."]),
    "group-without-a-file": (["scale=paper", "schedule=multistep"], ["Schedule: multistep instead of cosine."]),
    "any-key": (["scale=paper", "loss.label_smoothing=0.2"], ["loss.label_smoothing 0.2 instead of 0.1."]),
    "some-cells": (
        ["scale=paper", "optimizer=sgd,sam,fsam", "optimizer.lr=0.1", "trainer.epochs=200"],
        ["Trained for 200 epochs instead of 400, in some of the cells."],
    ),
    "where-it-runs": (["scale=paper", "device=cpu", "trainer.workers=0", "progress=false"], []),
    "declared": (
        ["scale=tiny", "optimizer=sgd,sam"],
        [
            "Left out: optimizer fsam; dataset.noise 0.0, 0.4.",
            "1 seed instead of 2.",
            "Data set: digits instead of CIFAR-10.",
            "Network: mlp instead of resnet20.",
            "Augmentation: none instead of autoaugment_cutout.",
            "Trained for 4 epochs instead of 400 and 2 instead of 200.",
        ],
    ),
}  # fmt: skip
OURS = "Added to the paper's: wide SAM, to see a larger radius."


@pytest.mark.parametrize(("words", "sentences"), CUTS.values(), ids=CUTS)
def test_what_was_cut_is_said(planned, words, sentences) -> None:
    (plan,) = planned(TABLE, *words)
    assert [sentence for sentence in plan.cuts if sentence != OURS] == sentences
    assert (OURS in plan.cuts) == any(run.cell.extra is not None for run in plan.runs)


MEASURED = {
    "as-published": (["scale=paper"], []),
    "samples": (["scale=paper", "sharpness.samples=100"], ["Measured on 100 images instead of all."]),
    "option": (["scale=paper", "sharpness.dtype=float64"], ["Measured with dtype float64 instead of float32."]),
    "not": (["scale=paper", "measure=false"], ["Sharpness was not measured."]),
}


@pytest.mark.parametrize(("words", "sentences"), MEASURED.values(), ids=MEASURED)
def test_how_it_was_measured_is_said(planned, words, sentences) -> None:
    (plan,) = planned(FIGURE, *words)
    assert list(plan.cuts) == sentences
    assert (plan.sharpness is None) == ("measure=false" in words)


def test_a_copy_stands_for_the_papers_data_set(composer) -> None:
    """The paper's numbers stand beside it, and what the paper tuned for that data set is kept."""

    def plan(*words: str) -> Plan:
        request = read_request(
            ["kim2022/table1", "scale=paper", "model=resnet20", "optimizer=sam", *words], artefacts(), composer
        )
        return make_plan(request.artefacts[0], request, composer)

    folder = ("dataset=folder", "dataset.root=copies/c100", 'dataset.label="CIFAR-100 (copy)"')
    copy = plan(*folder, "stands_for=cifar100")
    published = plan("dataset=cifar100")
    assert copy.runs[0].cell.values == published.runs[0].cell.values
    assert copy.runs[0].job.config.dataset.name == "folder"
    assert copy.runs[0].job.config.optimizer == published.runs[0].job.config.optimizer
    assert copy.runs[0].job.config.optimizer.rho == 0.1  # 0.05 is CIFAR-10's
    assert "Data set: CIFAR-100 (copy) instead of CIFAR-100." in copy.cuts
    alone = plan(*folder)
    assert "Not in the paper: dataset folder (CIFAR-100 (copy))." in alone.cuts


def test_operations_of_a_network() -> None:
    (job,) = compose_jobs(["dataset=digits", "model=mlp", "model.widths=[8,4]"], multirun=False)
    assert operations(job.config) == 2 * (64 * 8 + 8 * 4 + 4 * 10)


COSTS = {
    "epochs": (["trainer.epochs=3", "trainer.batch_size=100"], 1437 // 100 * 3 + 3),
    "a-single-image-is-left-out": (["trainer.epochs=2", "trainer.batch_size=359"], 8 + 2 * (1437 % 359 > 1)),
    "validation-and-subset": (["dataset.validation=100", "dataset.subset=640", "trainer.batch_size=64",
                               "trainer.epochs=2"], 20),
    "confusion": (["dataset.subset=600", "dataset.confusion=40", "trainer.batch_size=64", "trainer.epochs=1"], 10),
    "max-steps": (["trainer.max_steps=7"], 7),
    "fast": (["trainer.fast_dev_run=true"], 2),
}  # fmt: skip


@pytest.mark.parametrize(("line", "steps"), COSTS.values(), ids=COSTS)
def test_steps(line, steps, tmp_path) -> None:
    (job,) = compose_jobs(["dataset=digits", "model=mlp", "model.widths=[8]", *line], multirun=False)
    cost = Estimator("cpu", tmp_path / "none").training(job.config)
    assert (cost.steps, cost.measured) == (steps, False)
    assert cost.seconds > 0


PASSES = {"sgd": 1, "sam": 2, "asam": 2, "fsam": 2, "fsam optimizer.fisher=per_example": 3, "fisher_trace": 3,
          "gsam": 2, "friendly_sam": 2, "sam optimizer.start=0.75": 1.25, "sam optimizer.stop=0.5": 1.5,
          "fsam optimizer.fisher=true optimizer.start=0.25 optimizer.stop=0.5": 1.5,
          "fisher_trace optimizer.start=immediately": 3}  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), PASSES.items(), ids=PASSES)
def test_passes_of_a_method(words, expected) -> None:
    (job,) = compose_jobs(["setup=jia2020", "schedule=multistep", *f"optimizer={words}".split()], multirun=False)
    assert passes(job.config.optimizer.model_dump(mode="json")) == expected


def test_seconds_follow_the_work(monkeypatch, tmp_path) -> None:
    """Steps, passes and threads."""
    line = ["dataset=digits", "model=mlp", "trainer.epochs=20", "trainer.batch_size=100"]
    (sgd,), (sam,) = (compose_jobs([*line, f"optimizer={name}"], multirun=False) for name in ("sgd", "sam"))
    (sharpness,) = compose_jobs(["run=x", "measures=[trace]", "samples=50"], multirun=False, primary=SHARPNESS)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    estimator = Estimator("cpu", tmp_path / "none")
    image = 3 * operations(sgd.config) / 100e9
    assert estimator.training(sgd.config).seconds == pytest.approx(20 * 15 * 100 * image)
    assert estimator.training(sam.config).seconds == pytest.approx(2 * 20 * 15 * 100 * image)
    assert estimator.measuring(sgd.config, sharpness.config) == pytest.approx(50 * 10 * image)
    assert estimator.basis == "50 GFLOP/s for each of 2 CPU threads"


def test_finished_runs_of_the_kind_tell_their_speed(fsbench) -> None:
    line = ["dataset=digits", "model=mlp", "model.widths=[8]", "trainer.batch_size=100", "trainer.progress=false"]
    fsbench("train", *line, "optimizer=sam", "trainer.epochs=1")
    (summary,) = Path("runs").glob("*/summary.json")
    seconds = json.loads(summary.read_text())["results"]["seconds_per_step"]
    (sgd,) = compose_jobs([*line, "trainer.epochs=3"], multirun=False)
    found = Estimator("cpu", Path("runs")).training(sgd.config)
    assert (found.steps, found.measured) == (45, True)
    assert found.seconds == pytest.approx(45 * seconds / 2)
    (other,) = compose_jobs([*line, "model.widths=[9]"], multirun=False)
    assert not Estimator("cpu", Path("runs")).training(other.config).measured


def test_a_folder_is_of_unknown_size(reproduce) -> None:
    """Nothing is looked for in it, nor in the working directory."""
    line = ("made2099/table1", "scale=tiny", "dataset=folder", "optimizer=sgd", "plan=true")
    for root in ("dataset.root=.", "dataset.root=nowhere"):
        shown = reproduce(*line, root, "dataset.image_size=8").out.splitlines()
        assert shown[-2].split()[2:6] == ["0", "?", "?", "-"]
        assert shown[-1] == (
            "1 runs, 1 to train (0 steps), 0 to measure: about ?, without those of data sets of unknown size"
        )
