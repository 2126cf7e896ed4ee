"""Launches and looks of the host in recorded steps, as `scripts/bench kernels` counts them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

# Per step on ResNet-20; plain kernels of both passes and of the base are 432 of SAM's.
MOST = {"sgd": 230, "sam": 450, "asam": 460, "fsam": 460}


@pytest.fixture
def bench(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import bench_kernels

    return bench_kernels


@pytest.mark.parametrize("method", MOST)
def test_launches_of_a_recorded_step(bench, method) -> None:
    kernels = bench.counted("resnet20", method, 8, recorded=True)
    assert kernels.looks.total() == 0
    assert 0.9 * MOST[method] < kernels.launches.total() <= MOST[method]


def test_keeping_buffers_is_a_small_part_of_a_step(bench, monkeypatch) -> None:
    with_buffers = bench.counted("resnet20", "sam", 8, recorded=True).launches.total()
    monkeypatch.setattr("fsbench.optim.running_statistics._keeps_state", lambda module: False)
    without = bench.counted("resnet20", "sam", 8, recorded=True).launches.total()
    assert with_buffers - without <= 0.05 * with_buffers


COUNTS = [
    pytest.param(lambda x: x.add(1).mul_(2).t(), 2, 0, id="views-are-none"),
    pytest.param(lambda x: torch._foreach_add([x] * 100, 1), 2, 0, id="64-pairs-in-a-launch"),
    pytest.param(lambda x: torch._foreach_mul_([x] * 110, 2.0), 1, 0, id="110-in-place"),
    pytest.param(lambda x: torch._foreach_norm([x] * 3), 3, 0, id="norms-are-gathered"),
    pytest.param(lambda x: torch._foreach_zero_([x.new_empty(2 * 320 * 65536 + 1)]), 3, 0, id="blocks"),
    pytest.param(lambda x: float(x.sum()), 1, 1, id="item"),
    pytest.param(lambda x: x.tolist(), 0, 1, id="tolist"),
    pytest.param(lambda x: torch.cat([x] * 129), 2, 0, id="cat"),
]


@pytest.mark.parametrize(("run", "launches", "looks"), COUNTS)
def test_what_is_counted(bench, run, launches, looks) -> None:
    x = torch.empty(2, 2, device=bench.DEVICE)
    with bench.Kernels() as kernels:
        run(x)
    assert (kernels.launches.total(), kernels.looks.total()) == (launches, looks)
