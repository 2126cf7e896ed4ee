"""Command lines composed together are what Hydra composes of each alone."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from fsbench.config.compose import Composer, Job, compose_jobs
from fsbench.config.load import load
from fsbench.config.paths import conf_dir
from fsbench.config.primary import REPRODUCE, SHARPNESS, TRAIN, Primary
from fsbench.errors import UsageError

MINE = "# @package _global_\ndefaults:\n  - override /optimizer: sam\n  - override /dataset: digits\n"
MINE += "  - override /model: mlp\n  - _self_\n\ntrainer:\n  epochs: 7\noptimizer:\n  rho: ${base.weight_decay}\n"


@pytest.fixture(scope="module")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An experiment outside of the package, which chooses groups and refers to another key."""
    directory = tmp_path_factory.mktemp("config, 'mine'")
    (directory / "experiment").mkdir()
    (directory / "experiment/mine.yaml").write_text(MINE)
    return str(directory)


@pytest.fixture(scope="module")
def composer(config_dir: str) -> Composer:
    return Composer(config_dir)


def by_hydra(line: list[str], config_dir: str, primary: Primary) -> Job[Any]:
    """The job of a command line by Hydra's own `compose`."""
    quoted = config_dir.replace("'", "\\'")
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        overrides = [*line, f"hydra.searchpath=['file://{quoted}']"]
        composed = compose(primary.name, overrides=overrides, return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    values: Any = OmegaConf.to_container(OmegaConf.masked_copy(composed, [k for k in composed if k != "hydra"]))
    values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    shown = {
        group: choice for group, choice in choices.items()
        if not group.startswith(("hydra", "recipe", "executor")) and choice not in (None, "null")
    }  # fmt: skip
    return Job(load(values, primary.kind()), shown, tuple(word for word in line if not word.startswith("executor")))


LINES = {
    "nothing": [],
    "recipe": ["dataset=cifar100", "model=resnet56", "optimizer=asam", "base.weight_decay=0.1"],
    "experiment": ["experiment=kim2022/table4", "optimizer=asam", "dataset.noise=0.4", "seed=3"],
    "setup": ["setup=jia2020", "optimizer=fisher_trace", "model=densenet_bc_k12"],
    "own-experiment": ["experiment=mine", "seed=1"],
    "own-experiment-overridden": ["experiment=mine", "optimizer=fsam", "optimizer.rho=0.3"],
    "text": ["dataset=fashion_mnist", "model=lenet", "runs_dir='a b'", "data_dir='it\\'s'", "seed=1"],
    "list-and-null": ["dataset=digits", "model=mlp", "model.widths=[8,4]", "dataset.subset=100", "dataset.subset=null"],
    "reference-followed": ["dataset=digits", "model=mlp", "seed=2"],
    "reference-overridden": ["dataset=digits", "model=mlp", "dataset.seed=7", "seed=2"],
    "reference-given": ["dataset=digits", "model=mlp", "trainer.max_steps=${trainer.batch_size}"],
    "environment": ["data_dir=${oc.env:HOME}", "dataset=digits", "model=mlp"],
    "value-before-its-group": ["optimizer.rho=0.3", "base.weight_decay=1e-3", "optimizer=sam", "dataset=cifar100"],
    "group-twice": ["optimizer=sam", "optimizer=asam", "optimizer.eta=0.1", "optimizer.eta=0.2"],
    "appended": ["dataset=digits", "model=mlp", "++model.bias=false", "++seed=4"],
    "group-as-a-value": ["base={weight_decay: 0.3}", "dataset=digits", "model=mlp"],
    "value-before-its-node": ["base.weight_decay=0.1", "base={weight_decay: 0.3}", "dataset=digits", "model=mlp"],
    "scientific": ["optimizer=fsam", "optimizer.eta=1e-4", "trainer.max_norm=2"],
    "boolean": ["dataset=digits", "model=mlp", "model.bias=false", "trainer.fast_dev_run=True"],
    "quoted-number": ["dataset=digits", "model=mlp", 'dataset.label="7"'],
    "executor": ["executor=ray", "executor.workers=2", "dataset=digits", "model=mlp"],
}
OTHERS = {
    "sharpness-of-a-run": (["run=x", "samples=20", "seed=1"], SHARPNESS),
    "sharpness-of-a-network": (["model=mlp", "dataset=digits", "model.widths=[8]", "measures=[minimum]"], SHARPNESS),
    "reproduce": (["scale=tiny", "seeds=3", "executor=slurm", "executor.workers=2"], REPRODUCE),
}
CASES = {**{name: (line, TRAIN) for name, line in LINES.items()}, **OTHERS}


@pytest.mark.parametrize(("line", "primary"), CASES.values(), ids=CASES)
def test_composed_together_is_composed_alone(composer, config_dir, line, primary) -> None:
    expected = by_hydra(line, config_dir, primary)
    # Twice, so that the second is made of what the first left.
    for found in (composer.job(line, primary=primary), composer.job(line, primary=primary)):
        assert found == Job(expected.config, expected.choices, expected.overrides)


def test_a_job_leaves_nothing_for_the_next(composer) -> None:
    """What was set on one copy is not on another."""
    line = ["dataset=digits", "model=mlp"]
    (before,) = compose_jobs(line, multirun=False)
    changed = composer.job([*line, "model.widths=[3]", "optimizer.lr=9", "++model.bias=false", "seed=5"])
    assert changed.config != before.config
    changed.choices["model"] = "other"
    assert composer.job(line) == before


REFUSED = {
    "choice": (["model=resnet-20"], "model=resnet-20: no such model (did you mean 'resnet20'?)"),
    "key": (["trainer.epohcs=1"], "trainer.epohcs=1: no such key (did you mean 'trainer.epochs'?)"),
    "key-of-another-choice": (["optimizer=sgd", "optimizer.rho=1"], "optimizer.rho=1: no such key"),
    "value": (["trainer.epochs=x"], "trainer.epochs=x: must be a whole number"),
    "appended": (["+seed=1"], "Could not append to config. An item is already at 'seed'."),
    "appended-group": (["+model=mlp"], "Multiple values for model."),
    "interpolation": (["trainer.max_steps=${nowhere}"], "Interpolation key 'nowhere' not found"),
    "beside-an-own-experiment": (["experiment=mine", "trainer.epohcs=1"],
                                 "trainer.epohcs=1: no such key (did you mean 'trainer.epochs'?)"),
    "own-experiment": (["experiment=mime"], "experiment=mime: no such experiment (did you mean 'mine'?)"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_compose_is_explained(composer, config_dir, line, message) -> None:
    said = set()
    for words in (line, [*line, "seed=3"], line):
        with pytest.raises(UsageError) as failure:
            composer.job(words)
        said.add(str(failure.value))
    assert len(said) == 1
    assert said.pop().startswith(message)
    with pytest.raises((HydraException, UsageError, ValueError)):
        by_hydra(line, config_dir, TRAIN)


def test_a_sweep_is_its_lines(composer) -> None:
    jobs = compose_jobs(["optimizer=sgd,sam", "seed=range(0,3)", "dataset=digits", "model=mlp"], multirun=True)
    lines = [
        [f"optimizer={name}", f"seed={seed}", "dataset=digits", "model=mlp"]
        for name in ("sgd", "sam")
        for seed in range(3)
    ]
    assert jobs == [composer.job(line) for line in lines]
