"""What makes two runs the same run."""

from __future__ import annotations

import copy

import pytest

from fsbench.config.compose import compose_jobs
from fsbench.runs.identity import differences, identity

SAME = ["runs_dir=x", "data_dir=y", "run_name=z", "trainer.device=cpu", "trainer.workers=0", "logger=tensorboard",
        "trainer.progress=false", "dataset.label=X", "overwrite=true", "trainer.compare_every=1",
        "trainer.checkpoint_every=3", "trainer.memory_format=contiguous",
        "trainer.compile=true", "trainer.fused=true"]  # fmt: skip
OTHER = ["seed=1", "optimizer.rho=0.2", "trainer.epochs=3", "trainer.precision=bf16", "trainer.precision=tf32",
         "dataset.noise=0.1",
         "model=resnet32", "base.momentum=0.8", "augment=none", "trainer.batch_size=64",
         "dataset=folder dataset.root=a dataset.in_memory=true"]  # fmt: skip


def of(*overrides: str) -> str:
    words = [word for override in overrides for word in override.split()]
    (job,) = compose_jobs(["optimizer=sam", *words], multirun=False)
    return identity(job.config.model_dump(mode="json"))


@pytest.mark.parametrize("override", SAME)
def test_where_a_run_is_carried_out_does_not_matter(override) -> None:
    assert of(override) == of()


@pytest.mark.parametrize("override", OTHER)
def test_what_determines_the_result_does(override) -> None:
    assert of(override) != of()


def test_keys_that_came_later_leave_older_runs_their_identity() -> None:
    (job,) = compose_jobs(["optimizer=fisher_trace"], multirun=False)
    config = job.config.model_dump(mode="json")
    older = copy.deepcopy(config)
    del older["optimizer"]["full_batch"]
    assert identity(config) == identity(older)
    config["optimizer"]["together"] = True  # how, not what
    assert identity(config) == identity(older)
    config["optimizer"]["full_batch"] = "mean"
    assert identity(config) != identity(older)


@pytest.mark.parametrize("method", ["sam", "asam", "fsam"])
def test_methods_without_start_and_stop_are_what_they_were(method) -> None:
    (job,) = compose_jobs([f"optimizer={method}"], multirun=False)
    config = job.config.model_dump(mode="json")
    older = copy.deepcopy(config)
    del older["optimizer"]["start"], older["optimizer"]["stop"]
    assert identity(config) == identity(older)
    for key, other in (("start", 0.8), ("stop", 0.5)):
        assert identity({**config, "optimizer": {**config["optimizer"], key: other}}) != identity(older)


@pytest.mark.parametrize(("key", "other"), [("padding", "reflect"), ("autoaugment_first", True)])
def test_augmentation_of_older_runs_is_what_it_was(key, other) -> None:
    (job,) = compose_jobs(["augment=crop4_flip"], multirun=False)
    config = job.config.model_dump(mode="json")
    older = copy.deepcopy(config)
    del older["augment"][key]
    assert identity(config) == identity(older)
    config["augment"][key] = other
    assert identity(config) != identity(older)


def test_one_and_one_point_zero_are_one_value() -> None:
    assert identity({"optimizer": {"rho": 1}}) == identity({"optimizer": {"rho": 1.0}})
    assert identity({"overlap": True}) != identity({"overlap": 1})


def test_differences_are_named() -> None:
    ours = {"seed": 0, "optimizer": {"rho": 0.1, "lr": 1.0}, "runs_dir": "a"}
    theirs = copy.deepcopy(ours) | {"runs_dir": "b"}
    theirs["optimizer"]["rho"] = 0.2
    assert differences(ours, theirs) == ["optimizer.rho (0.1 here, 0.2 there)"]


def test_a_relative_and_an_absolute_path_are_one_place(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert of("dataset=folder dataset.root=a") == of(f"dataset=folder dataset.root={tmp_path}/a")
    assert of("dataset=folder dataset.root=a") != of("dataset=folder dataset.root=b")
