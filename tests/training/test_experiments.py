"""Every experiment preset trains two steps, on tiny files in the data sets' own formats."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.tiny_sets import write_cifar, write_imagenet, write_mnist

from fsbench.cli.list import choices_in
from fsbench.config.paths import conf_dir

EXPERIMENTS = sorted(choices_in(conf_dir() / "experiment"))
# Tiny sets and no network: what can't be as published.
CHANGED = {
    "kim2022/table2": ["model.pretrained=false"],
    "kim2022/table3": ["model.pretrained=false"],
    "jia2020/fig2": ["dataset.subset=60", "dataset.confusion=10"],
}
# The largest networks, cut to what a fast test can wait for; uncut in the slow set.
CUT = {
    "kim2022/table2": ["model=timm", "model.name=vit_tiny_patch16_224"],
    "kim2022/table3": ["model=timm", "model.name=vit_tiny_patch16_224"],
    "kim2022/fig4": ["model.depth=18"],
    "kim2022/fig5": ["model.width=1"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        write_mnist(root)
        write_cifar(root, patch, "CIFAR10")
        write_cifar(root, patch, "CIFAR100")
        write_imagenet(root)
        yield root


def two_steps(fsbench, experiment: str, data: Path, *more: str) -> None:
    line = [f"experiment={experiment}", f"data_dir={data}", "trainer.batch_size=4", "trainer.fast_dev_run=true"]
    ended = fsbench("train", *line, "trainer.progress=false", "trainer.workers=0", *CHANGED.get(experiment, []), *more)
    assert (ended.code, ended.err) == (0, "")
    (run,) = Path("runs").iterdir()
    assert (run / "summary.json").is_file()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_steps(fsbench, data, experiment) -> None:
    two_steps(fsbench, experiment, data, *CUT.get(experiment, []))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", CUT)
def test_two_steps_uncut(fsbench, data, experiment) -> None:
    two_steps(fsbench, experiment, data)
