"""`fsbench compare` from the command line to the verdict, on the embedded digits."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fsbench.cli.main import main
from fsbench.compare.plan import make_comparison
from fsbench.compare.search import points, ranges
from fsbench.config.component import components
from fsbench.config.compose import Composer
from fsbench.runs.directory import RunDirectory

TINY = ("dataset=digits", "model=mlp", "model.widths=[8]", "trainer.batch_size=256", "trainer.epochs=2", "device=cpu")


@pytest.fixture
def compare(fsbench):
    """`compare("optimizer=sgd,sam", "seeds=2")` with a tiny network."""
    return lambda *words: fsbench("compare", *TINY, *words)


def test_from_a_search_to_a_verdict(compare, tmp_path: Path) -> None:
    words = ("optimizer=sgd,sam", "dataset.noise=0.0,0.4", "trials=2", "seeds=2", "budget=both", "out=found")
    ended = compare(*words)
    assert ended.code == 0, ended.err
    means, verdicts, runs = (pd.read_csv(tmp_path / f"found/{name}.csv") for name in ("means", "verdicts", "runs"))
    assert list(means["method"]) == ["sgd", "sgd_2x", "sam"] * 2
    assert list(means["passes"]) == [2, 4, 4] * 2
    assert set(means["n"]) == {2}
    assert list(verdicts["comparison"]) == ["sam - sgd", "sam - sgd_2x"] * 2
    # Fresh seeds: the search has had seed 0.
    assert set(runs["seed"]) == {1, 2}
    one = runs[(runs["method"] == "sam") & (runs["dataset.noise"] == 0.4)]
    other = runs[(runs["method"] == "sgd_2x") & (runs["dataset.noise"] == 0.4)]
    difference = one["test_accuracy"].mean() - other["test_accuracy"].mean()
    assert verdicts["difference"].iloc[3] == pytest.approx(difference)
    trials = pd.read_csv(tmp_path / "found/trials.csv")
    best = trials.loc[trials.groupby(["dataset.noise", "method"])["validation_accuracy"].idxmax()]
    assert best["chosen"].all()
    assert trials["chosen"].sum() == len(best) == 6
    assert (
        "sam: 2 trials, optimizer.lr 0.01 to 0.3; base.weight_decay 1e-05 to 0.005; optimizer.rho 0.01 to 0.5."
        in ended.out
    )
    # As many trials for all, on images that the final runs train on.
    held = [
        path for path in (tmp_path / "runs").iterdir() if RunDirectory(path).read_results().get("validation_accuracy")
    ]
    assert len(held) == 2 * 3 * 2
    assert len(list((tmp_path / "runs").iterdir())) == len(held) + len(runs)
    record = json.loads((tmp_path / "found/provenance.json").read_text())
    assert "out=" not in record["command"]
    assert sum(one["runs"] for one in record["trained_with"]) == len(held) + len(runs)
    assert (tmp_path / "found/comparison.md").read_text().endswith(ended.out)
    # All is there: the same command says the same, and trains nothing.
    again = compare(*words)
    assert (again.out, "/" in again.err.partition("found:")[0]) == (ended.out, False)


def test_the_best_trial_is_what_is_trained(compare, tmp_path: Path) -> None:
    assert compare("optimizer=sgd,sam", "trials=3", "seeds=2", "out=found").code == 0
    runs = pd.read_csv(tmp_path / "found/runs.csv")
    found = []
    for path in (tmp_path / "runs").iterdir():
        directory = RunDirectory(path)
        if (score := directory.read_results().get("validation_accuracy")) is not None:
            optimizer = json.loads(directory.summary.read_text())["config"]["optimizer"]
            found.append((optimizer["name"], score, optimizer["lr"]))
    for method in ("sgd", "sam"):
        best = max(score for name, score, _ in found if name == method)
        rates = {lr for name, score, lr in found if name == method and score == best}
        assert set(runs[runs["method"] == method]["optimizer.lr"]) <= rates


def test_methods_of_ones_own_and_the_pairs_that_are_asked_for(compare) -> None:
    ended = compare(
        "optimizer=sam", "--arm", "wide: optimizer.rho=0.5", "--arm", "plain: optimizer=sgd optimizer.lr=0.1",
        "seeds=2", "pairs=[wide-sam]", "--format", "json", "metric=test_loss", "delta=0.1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert [line["method"] for line in found["means"]] == ["sam", "wide", "plain"]
    assert [line["comparison"] for line in found["verdicts"]] == ["wide - sam"]
    plan = compare("optimizer=sgd,sam,asam", "pairs=[sam-sgd]", "plan=true").out
    assert plan.endswith("asam is in no comparison.\n")


def test_how_to_read_names_delta_with_its_unit(compare) -> None:
    words = ("optimizer=sgd,sam", "seeds=2")
    assert "reject a difference of 0.5 % either way" in compare(*words).out
    found = compare(*words, "metric=test_loss", "delta=0.1").out
    assert "reject a difference of 0.1 either way" in found
    # Of a loss the larger is the worse.
    assert "share of seeds on which the first is larger" in found


def test_equal_passes(compare) -> None:
    ended = compare("optimizer=sgd,sam,fisher_trace", "budget=passes", "seeds=2", "plan=true")
    assert ended.code == 0, ended.err
    # 1,437 images in batches of 256 are 6 steps an epoch; 3, 2 and 1 passes a step.
    lines = [line.split()[:6] for line in ended.out.splitlines()]
    assert ["sgd", "0", "2", "2", "36", "1"] in lines
    assert ["sam", "0", "2", "2", "18", "2"] in lines
    assert "2 comparisons of 2 seeds each" in ended.out


def test_settings_may_differ_in_the_methods_of_both_budgets() -> None:
    """Where one of two methods takes a pass more, the other is there with as many passes."""
    words = ["optimizer=fsam", "optimizer.fisher=batch,per_example", "trainer.epochs=2", "dataset=digits", "model=mlp"]
    arms = ["cheap: optimizer=fsam optimizer.fisher=batch"]
    found = make_comparison([*words, "budget=both"], arms, Composer())
    assert found.compared == [
        (("batch",), ("cheap", "fsam")),
        (("per_example",), ("cheap", "fsam")),
        (("per_example",), ("cheap_1.5x", "fsam")),
    ]


def test_a_plan_trains_nothing(compare, tmp_path: Path) -> None:
    assert compare("optimizer=sgd,sam", "trials=2", "plan=true").code == 0
    assert not (tmp_path / "runs").exists()


def test_divergence_is_an_answer(compare) -> None:
    ended = compare("optimizer=sgd,sam", "seeds=2", "--arm", "wild: optimizer=sgd optimizer.lr=1e20")
    assert ended.code == 0, ended.err
    assert "0, 2 diverged" in ended.out
    assert "no runs" in ended.out
    again = compare("optimizer=sgd,sam", "seeds=2", "--arm", "wild: optimizer=sgd optimizer.lr=1e20")
    assert again.out == ended.out
    assert "[1/" not in again.err


def test_a_method_whose_trials_all_diverged_says_so(compare, tmp_path: Path) -> None:
    words = ("optimizer=sgd,sam", "seeds=2", "trials=2", "search.optimizer.lr=[1e20,1e22]", "out=found")
    ended = compare(*words)
    assert ended.code == 0, ended.err
    assert ended.out.count("all trials diverged") == 2
    assert list(pd.read_csv(tmp_path / "found/runs.csv"))[:2] == ["method", "seed"]
    assert list(pd.read_csv(tmp_path / "found/means.csv")["chosen"]) == ["all trials diverged"] * 2


def test_what_is_given_is_not_searched() -> None:
    job = Composer().job(["optimizer=fsam", "base=adam", "model=mlp", "dataset=digits"])
    assert ranges(job.config, {"optimizer.rho"}) == {
        "optimizer.lr": (1e-4, 1e-2),
        "base.weight_decay": (1e-5, 1e-2),
        "optimizer.eta": (1e-3, 10.0),
    }


def test_a_method_that_is_called_as_one_of_more_epochs_is_compared_with_the_first(compare) -> None:
    ended = compare("optimizer=sgd", "--arm", "sgd_2x: optimizer=sgd optimizer.lr=0.1", "plan=true")
    assert ended.code == 0, ended.err
    assert "\n1 comparisons of 5 seeds each" in ended.out


def test_every_method_says_what_is_searched() -> None:
    # Those of plugins that other tests declare may say nothing.
    methods = {name: one for name, one in components("optimizer").items() if not one.source}
    for name, method in methods.items():
        assert set(method.search) <= set(method.model_fields), name
        assert ("rho" in method.search) == ("rho" in method.model_fields), name
    for base in components("base").values():
        assert set(base.search) == {"lr", "weight_decay"}


@pytest.mark.parametrize("word", ["optimizer.rho=0.3", "++optimizer.rho=0.3"])
def test_what_is_given_is_given_to_every_trial(word: str) -> None:
    words = ["optimizer=sam,asam", "dataset=digits", "model=mlp", "trials=2", word]
    trials = make_comparison(words, [], Composer()).trials
    assert {run.job.config.optimizer.rho for run in trials} == {0.3}


def test_points_are_spread_over_the_ranges_and_the_same_every_time() -> None:
    space = {"a": (0.01, 1.0), "b": (1.0, 100.0)}
    few, many = points(space, 5), points(space, 16)
    assert many[:5] == few == points(space, 5)
    # A Sobol sequence of 16 has one point in each sixteenth.
    for key, (low, high) in space.items():
        values = sorted(float(point[key]) for point in many)
        ends = [low * (high / low) ** (i / 16) for i in range(17)]
        assert all(ends[i] * 0.99 <= value <= ends[i + 1] * 1.01 for i, value in enumerate(values))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer=sam"], "optimizer=sam: name two methods at least"),
        (["optimizer=sgd,sam,sam"], "optimizer=sam: is there twice"),
        (["optimizer=sgd,sm"], "optimizer=sm"),
        (["optimizer=sgd,sam", "dataset.noise=0.2,0.2"], "dataset.noise=0.2: is there twice"),
        (["optimizer=sgd,sam", "--arm", "sgd_2x: optimizer=sgd", "budget=both"], "--arm=sgd_2x: needs another name"),
        (["optimizer=sgd,sam", "pairs=[sam-sgd,sgd-sam]"], "pairs=sgd-sam: these two are compared already"),
        (["optimizer=sgd,sam", "seed=1"], "seed=1: can't be given, seeds=N"),
        (["optimizer=sgd,sam", "++seed=1"], "seed=1: can't be given, seeds=N"),
        (["optimizer=sgd,sam", "trainer.device=cuda"], "trainer.device=cuda: can't be given, device="),
        (["optimizer=sgd", "--arm", "a: optimizer=sam run_name=x"], "run_name=x: can't be given, several runs"),
        (["optimizer=sgd", "--arm", "a: optimizer=sam overwrite=true"], "overwrite=true: can't be given"),
        (["optimizer=sgd,sam", "budget=both", "trainer.max_steps=3"], "trainer.max_steps=3: not with budget=both"),
        (["optimizer=sgd,sam", "seeds=1"], "seeds=1: must be >= 2"),
        (["optimizer=sgd,sam", "delta=0"], "delta=0: must be > 0"),
        (["optimizer=sgd,sam", "metric=accuracy"], "metric=accuracy: must be one of test_accuracy"),
        (["optimizer=sgd,sam", "pairs=[sam-asam]"], "pairs=sam-asam: must be two of sgd, sam"),
        (["optimizer=sgd,sam", "search.optimizer.rho=[0.1,0.2]"], "needs trials=N"),
        (["optimizer=sgd,sam", "trials=2", "search.optimizer.roh=[0.1,0.2]"], "did you mean 'optimizer.rho'"),
        (["optimizer=sgd,sam", "trials=2", "search.optimizer.rho=[0.2,0.1]"], "must be the ends of a range"),
        (["optimizer=sgd", "--arm", "sam optimizer=sam"], "must read 'NAME: KEY=VALUE ...'"),
        (["optimizer=sgd,sam", "--arm", "wide: optimizer.rho=1"], "must name its optimizer="),
        (["optimizer=sgd,sam", "trainer.epoch=1"], "trainer.epoch=1: no such key"),
        (["optimizer=sgd,sam", "sam"], "sam: must read KEY=VALUE"),
        (["optimizer=sgd,sam", "trials=2", "held_out=2000"], "2000"),
        (["optimizer=sgd,sam", "trials=2", "dataset.validation=0"], "dataset.validation=0: must be > 0, for images"),
        (["optimizer=sgd,sam", "trials=2", "held_out=9", "dataset.validation=9"], "held_out=9: not with dataset.valid"),
    ],
)
def test_bad_input_is_one_line(compare, tmp_path: Path, words, said) -> None:
    ended = compare(*words)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert said in ended.err
    assert not (tmp_path / "runs").exists()


def test_completion(monkeypatch, capsys) -> None:
    def completed(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        assert main(["-sc", "query=bash"]) == 0
        return capsys.readouterr().out.split()

    assert completed("fsbench compare budg") == ["budget="]
    assert completed("fsbench compare optimizer=sgd budget=") == ["budget=epochs", "budget=passes", "budget=both"]
    assert {"optimizer=sgd", "optimizer=gsam"} <= set(completed("fsbench compare optimizer="))


def test_help_and_configuration(fsbench) -> None:
    assert "fsbench compare optimizer=A,B" in fsbench("compare", "--help").out
    assert fsbench("compare", "--cfg", "job").out.startswith("seeds: 5\n")
    assert fsbench("compare", "optimizer=sgd,sam", "seeds=3", "--cfg", "job").out.startswith("seeds: 3\n")
