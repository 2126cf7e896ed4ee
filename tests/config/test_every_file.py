"""Every config file composes, checks and is described; every experiment trains two steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsbench.cli.list import KINDS, choices_in
from fsbench.config.component import offered
from fsbench.config.compose import Composer, compose_jobs
from fsbench.config.paths import conf_dir

CONF = conf_dir()
# What a choice needs beside it to be complete.
NEEDS = {
    "dataset=folder": ["dataset.root=somewhere"],
    "base=adam": ["optimizer=fsam"],
    "base=adamw": ["optimizer=fsam"],
    "augment=imagenet": ["dataset=imagenet"],
    "augment=imagenet128": ["dataset=imagenet128"],
}


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def choices(group: str) -> list[str]:
    return sorted({**choices_in(CONF / group), **offered(group)})


@pytest.mark.parametrize("choice", [f"{group}={c}" for group in KINDS.values() for c in choices(group)])
def test_composes_and_checks(composer, choice) -> None:
    job = composer.job([choice, *NEEDS.get(choice, [])])
    group, _, name = choice.partition("=")
    assert job.choices.get(group, name) == name


@pytest.mark.parametrize("group", sorted(set(KINDS.values()) | {"trainer"}))
def test_every_choice_is_described(group) -> None:
    assert all(line for line in {**choices_in(CONF / group), **offered(group)}.values())


RECIPES = sorted(path.relative_to(CONF / "recipe") for path in (CONF / "recipe").rglob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_is_reached_and_checks(composer, recipe: Path) -> None:
    """A recipe whose file name no choices lead to would be dead."""
    kind, setup, stem = recipe.parts[0], recipe.parts[1], recipe.stem
    groups = kind.split("_") if kind != "base" else ["base"]
    options = [choices(group) for group in groups]
    combinations = [[]]
    for names in options:
        combinations = [[*chosen, name] for chosen in combinations for name in names]
    (chosen,) = [c for c in combinations if "_".join(c) == stem]
    overrides = [f"{group}={name}" for group, name in zip(groups, chosen, strict=True)]
    if "dataset=folder" in overrides:
        overrides.append("dataset.root=somewhere")
    job = composer.job([f"setup={setup}", *overrides])
    assert job.choices["setup"] == setup


# kim2022, sections 5.1, 5.5 and 5.6 as printed
PUBLISHED = [
    (["optimizer=sgd"], {"trainer.epochs": 400, "optimizer.lr": 0.1, "base.weight_decay": 5e-4}),
    (["optimizer=sam"], {"trainer.epochs": 200, "optimizer.rho": 0.05, "loss.label_smoothing": 0.1}),
    (["optimizer=asam"], {"optimizer.rho": 0.5, "optimizer.eta": 0.01}),
    (["optimizer=fsam", "model=wrn28_10"], {"optimizer.rho": 0.1, "optimizer.eta": 1.0, "trainer.batch_size": 128}),
    (["optimizer=sam", "dataset=cifar100"], {"optimizer.rho": 0.1}),
    (["optimizer=asam", "dataset=cifar100"], {"optimizer.rho": 1.0, "optimizer.eta": 0.1}),
    (["optimizer=fsam", "dataset=cifar100", "model=pyramidnet272"],
     {"optimizer.rho": 0.5, "optimizer.eta": 0.1, "trainer.epochs": 900, "trainer.batch_size": 256,
      "optimizer.lr": 0.05}),
    (["optimizer=sam", "dataset=cifar100", "model=pyramidnet272"], {"optimizer.rho": 0.05}),
    (["optimizer=sgd", "model=pyramidnet272"], {"trainer.epochs": 1800}),
    (["experiment=kim2022/table2", "optimizer=asam"],
     {"optimizer.rho": 1.0, "optimizer.eta": 0.01, "optimizer.lr": 1e-5, "trainer.epochs": 3,
      "base.weight_decay": 1e-4, "trainer.batch_size": 256}),
    (["experiment=kim2022/table3", "optimizer=fsam"],
     {"optimizer.rho": 0.1, "optimizer.eta": 1.0, "optimizer.lr": 5e-4, "base.weight_decay": 0.05,
      "dataset.image_size": 224, "trainer.epochs": 200}),
    (["experiment=kim2022/table4", "optimizer=fsam", "dataset.noise=0.8"],
     {"optimizer.rho": 0.1, "optimizer.eta": 0.001, "dataset.noise": 0.8}),
    (["experiment=kim2022/table4", "optimizer=sam"], {"optimizer.rho": 0.1}),
    (["experiment=jia2020/table1", "model=cnn"],
     {"optimizer.lr": 0.01, "base.weight_decay": 1e-4, "schedule.milestones": [100, 150], "base.nesterov": True,
      "optimizer.beta": 10.0, "optimizer.alpha": 1e-4, "optimizer.sub_batches": 8, "augment.crop": 4}),
    (["experiment=jia2020/table1", "model=wrn28_2_b33", "optimizer=sgd"],
     {"optimizer.lr": 0.1, "schedule.milestones": [60, 120, 160], "schedule.gamma": 0.2}),
    (["experiment=ibayashi2021/fig2"],
     {"trainer.epochs": 3000, "trainer.batch_size": 1024, "optimizer.lr": 0.1, "base.weight_decay": 1e-5,
      "dataset.mean": [0.5], "schedule.decay": 1e-4}),
    (["experiment=tsuzuku2019/fig3", "model=lenet", "dataset=cifar10"],
     {"trainer.epochs": 100, "optimizer.name": "adam", "optimizer.lr": 0.001, "base.weight_decay": 0.0}),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), PUBLISHED, ids=lambda x: " ".join(x) if type(x) is list else "")
def test_published_settings(overrides, expected) -> None:
    """Swapping method, network or data set brings the numbers its paper tuned for it."""
    (job,) = compose_jobs(overrides, multirun=False)
    config = job.config.model_dump()
    for key, value in expected.items():
        group, _, name = key.partition(".")
        assert config[group][name] == value, key


def test_the_command_line_wins_over_recipes_and_experiments() -> None:
    overrides = ["+experiment=kim2022/table4", "optimizer=fsam", "optimizer.rho=0.7", "trainer.epochs=3", "seed=0"]
    (job,) = compose_jobs(overrides, multirun=False)
    assert (job.config.optimizer.rho, job.config.trainer.epochs, job.config.dataset.noise) == (0.7, 3, 0.2)


def test_config_groups_of_the_users_own(tmp_path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 17\n")
    (job,) = compose_jobs(["experiment=mine"], multirun=False, config_dir=str(tmp_path))
    assert job.config.seed == 17
