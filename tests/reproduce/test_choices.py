"""A value that is chosen on images set aside: candidate runs first, then the runs that wait for their answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsbench.config.compose import Composer
from fsbench.errors import UsageError
from fsbench.measuring.cost import Estimator
from fsbench.papers import add_papers, artefacts, collect
from fsbench.reproduce.listing import plan_lines
from fsbench.reproduce.plan import make_plan
from fsbench.reproduce.request import read_request
from fsbench.reproduce.run import missing_tasks

NAME = "chosen2099/table1"
PAPER = """
from fsbench.papers.artefact import Artefact, Choice, Scale, Table

ARTEFACTS = (Artefact(
    name="chosen2099/table1",
    title="Accuracy at the best radius",
    source="Made up 2099, table 1",
    shows=Table("test_accuracy", ("dataset.noise",), "optimizer", "sgd", True, "Test accuracy (%)"),
    experiment="kim2022/table1",
    axes={"optimizer": ("sgd", "sam"), "dataset.noise": ("0.2", "0.4")},
    seeds=2,
    choice=Choice("optimizer.rho", ("0.01", "0.1", "50"), 300, (("optimizer", "sam"),)),
    scales={"tiny": Scale(
        axes={"dataset.noise": ("0.2",)},
        overrides=("dataset=digits", "model=mlp", "model.widths=[8]", "augment=none", "trainer.epochs=2",
                   "trainer.batch_size=128", "trainer.progress=false"),
        held_out=200, candidates=("0.05", "50"))},
),)
"""


@pytest.fixture
def papers(tmp_path, monkeypatch) -> Path:
    """The directory with the paper; what is added to the papers here is forgotten afterwards."""
    monkeypatch.setattr(collect, "_papers", dict(collect._papers))
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "papers"
    directory.mkdir()
    (directory / "chosen2099.py").write_text(PAPER)
    return directory


@pytest.fixture
def planned(papers):
    """`planned("scale=tiny")`: the plan of the table."""
    add_papers(papers)

    def plan(*words: str):
        request = read_request([NAME, *words], artefacts(), Composer())
        return make_plan(request.artefacts[0], request, Composer())

    return plan


def finish(plan, accuracies: dict[str, float | None]) -> None:
    """Give every candidate run its validation accuracy; None: it diverged."""
    (one,) = plan.choosing
    for value, run in one.runs:
        run.directory.path.mkdir(parents=True)
        found = accuracies[value]
        if found is None:
            run.directory.set_status("diverged", message="Diverged: the loss is not finite")
        else:
            run.directory.set_status("done")
            results = {"test_accuracy": found, "train_accuracy": 1.0, "seconds": 1.0, "validation_accuracy": found}
            run.directory.summary.write_text(json.dumps({"results": results}))


def test_candidates_are_the_cells_run_with_images_set_aside(planned) -> None:
    plan = planned("scale=tiny", "seeds=2")
    assert [run.waits for run in plan.runs] == [None, None, *["optimizer.rho is not chosen yet"] * 2]
    (one,) = plan.choosing
    assert [value for value, _ in one.runs] == ["0.05", "50"]
    for value, run in one.runs:
        config = run.job.config
        assert (config.optimizer.name, config.optimizer.rho) == ("sam", float(value))
        assert (config.dataset.validation, config.dataset.noise, config.seed) == (200, 0.2, 0)
    # Nothing is begun of what waits.
    assert {task.job.config.optimizer.name for task in missing_tasks([plan])[:2]} == {"sam"}
    assert [task.job.config.optimizer.name for task in missing_tasks([plan])[2:]] == ["sgd", "sgd"]


def test_at_paper_scale_as_published(planned) -> None:
    plan = planned("scale=paper", "dataset=digits", "model=mlp", "augment=none")
    assert [[value for value, _ in one.runs] for one in plan.choosing] == [["0.01", "0.1", "50"]] * 2
    assert {run.job.config.dataset.validation for run in plan.deciding} == {300}
    assert {run.job.config.dataset.validation for run in plan.runs} == {0}


def test_a_candidate_that_can_not_be_read_is_named(planned) -> None:
    first = planned("scale=tiny")
    finish(first, {"0.05": 0.7, "50": 0.9})
    summary = first.choosing[0].runs[1][1].directory.summary
    summary.write_text("[" * 100_000)
    said = {run.waits for run in planned("scale=tiny").runs} - {None}
    assert said == {f"unreadable: {summary}; delete it to train this run again"}


CHOSEN = {
    "best": ({"0.05": 0.7, "50": 0.9}, 50.0, "0.05: 70.00 %, 50: 90.00 %"),
    "first-of-equals": ({"0.05": 0.9, "50": 0.9}, 0.05, "0.05: 90.00 %, 50: 90.00 %"),
    "the-other-diverged": ({"0.05": 0.1, "50": None}, 0.05, "0.05: 10.00 %, 50: diverged"),
}


@pytest.mark.parametrize(("accuracies", "chosen", "said"), CHOSEN.values(), ids=CHOSEN)
def test_the_best_is_taken(planned, accuracies, chosen, said) -> None:
    finish(planned("scale=tiny"), accuracies)
    plan = planned("scale=tiny")
    assert not plan.waits
    ours = [run.job.config for run in plan.runs if run.job.config.optimizer.name == "sam"]
    assert [(config.optimizer.rho, config.dataset.validation) for config in ours] == [(chosen, 0)] * len(ours)
    assert (
        "optimizer.rho chosen from 0.05, 50 instead of 0.01, 0.1, 50 by the accuracy on 200 instead of 300 other "
        f"training images, one run each: 0.2 {chosen:g} ({said}); the paper does not print what it chose."
    ) in plan.cuts
    assert not any(sentence.startswith("optimizer.rho ") and "chosen" not in sentence for sentence in plan.cuts)
    # That a candidate diverged is an answer: it is not run again.
    assert all(task.job.config.dataset.validation == 0 for task in missing_tasks([plan]))
    total = [line for line in plan_lines([plan], Estimator("cpu", Path("runs"))) if " to train (" in line]
    assert [line.partition(" (")[0] for line in total] == ["6 runs, 4 to train"]


def test_nothing_is_chosen_while_a_candidate_is_missing_or_none_is_left(planned) -> None:
    plan = planned("scale=tiny")
    (one,) = plan.choosing
    _, run = one.runs[0]
    run.directory.path.mkdir(parents=True)
    run.directory.set_status("done")
    run.directory.summary.write_text(json.dumps({"results": {"validation_accuracy": 0.5}}))
    assert planned("scale=tiny").waits
    # What failed is tried again.
    _, other = one.runs[1]
    other.directory.path.mkdir(parents=True)
    other.directory.set_status("failed", message="RuntimeError: out of memory")
    waiting = planned("scale=tiny")
    assert waiting.waits
    assert [task.directory.path for task in missing_tasks([waiting])][:1] == [other.directory.path]
    run.directory.summary.unlink()
    for candidate in (run, other):
        candidate.directory.set_status("diverged", message="Diverged: so it is")
    waiting = planned("scale=tiny")
    assert {run.waits for run in waiting.runs} == {None, "every candidate of optimizer.rho diverged: 0.05, 50"}
    assert all(task.job.config.optimizer.name == "sgd" for task in missing_tasks([waiting]))


def test_where_no_candidate_is_left_the_table_says_so(reproduce, planned) -> None:
    finish(planned("scale=tiny"), {"0.05": None, "50": None})
    ended = reproduce(NAME, "scale=tiny", "seeds=1")
    reason = "every candidate of optimizer.rho diverged: 0.05, 50"
    assert ended.code == 3
    assert f"{NAME}: {reason}" in ended.err
    assert f"- optimizer=sam dataset.noise=0.2, seed 0: {reason}" in (Path("results") / NAME / "table1.md").read_text()


def test_a_value_on_the_command_line_is_taken_as_it_is(planned) -> None:
    plan = planned("scale=tiny", "optimizer.rho=0.3")
    assert (plan.choosing, plan.waits) == ((), False)
    assert [getattr(run.job.config.optimizer, "rho", None) for run in plan.runs] == [None, None, 0.3, 0.3]
    assert [sentence for sentence in plan.cuts if "optimizer.rho" in sentence] == [
        "optimizer.rho=0.3, given; the paper chooses it on images set aside."
    ]


def test_a_key_that_no_method_has(planned) -> None:
    with pytest.raises(UsageError, match="no such key"):
        planned("scale=tiny", "optimizer.betta=3")


def test_from_nothing_to_the_table(reproduce) -> None:
    shown = reproduce(NAME, "scale=tiny", "seeds=1", "plan=true").out
    assert shown.count("(candidate)") == 2
    assert shown.count("waits: optimizer.rho is not chosen yet") == 1
    assert "4 runs, 4 to train" in shown
    ended = reproduce(NAME, "scale=tiny", "seeds=1")
    assert ended.code == 0, ended.err
    assert [line[:5] for line in ended.err.splitlines() if line.startswith("[")] == ["[1/3]", "[2/3]", "[3/3]", "[1/1]"]
    (written,) = ended.out.splitlines()
    assert written.startswith(f"{NAME}: 2 of 2 runs; ")
    record = json.loads((Path("results") / NAME / "provenance.json").read_text())
    assert [("validation_accuracy" in run, run["status"]) for run in record["chosen_from"]] == [(True, "done")] * 2
    assert (len(record["runs"]), len(list(Path("runs").iterdir()))) == (2, 4)
    again = reproduce(NAME, "scale=tiny", "seeds=1")
    assert (again.code, again.err) == (0, "")
