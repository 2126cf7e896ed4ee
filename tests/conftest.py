"""What all tests share: few threads, and a command line run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fsbench.cli.main import main
from fsbench.config import component
from fsbench.config.compose import Composer

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _merged_once() -> Iterator[None]:
    """The same files of `conf/` are merged once for all tests of a process: each time takes a tenth of a second."""
    merge, kept = Composer._merge, {}

    def merged(composer: Composer, chosen: list[str], primary: Any) -> tuple[bytes, dict[str, str]]:
        if composer._places or any(word.startswith("hydra.") for word in chosen):
            return merge(composer, chosen, primary)
        known = ((name, one.source) for table in component._TABLE.values() for name, one in table.items())
        key = (primary.name, tuple(chosen), frozenset(known))
        if key not in kept:
            kept[key] = merge(composer, chosen, primary)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Composer, "_merge", merged)
        yield


@dataclass
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def fsbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """`fsbench("train", "seed=1")` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("FSBENCH_DATA", raising=False)

    def run(*arguments: str) -> Ended:
        code = main(arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


# A run of under a second: the smallest network on the embedded data, one epoch.
QUICK = (
    "dataset=digits",
    "model=mlp",
    "model.widths=[16]",
    "trainer.epochs=2",
    "trainer.batch_size=128",
    "trainer.progress=false",
)


@pytest.fixture
def quick() -> tuple[str, ...]:
    return QUICK


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What two gloo processes tell, see `two_processes`; the workers of xdist share them."""
    from two_processes import on_two

    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "two"
    place.mkdir(exist_ok=True)
    return on_two(place)
