"""Learning rates step by step against the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from fsbench.config.schedule import ScheduleOptions
from fsbench.optim import SAM
from fsbench.training.schedule import Schedule

EPOCHS, STEPS = 10, 4
TOTAL = EPOCHS * STEPS


def schedule(**options) -> tuple[SAM, Schedule]:
    optimizer = SAM([torch.zeros(1, requires_grad=True)], torch.optim.SGD, rho=0.1, lr=1.0)
    optimizer._opt_called = True  # no steps are taken here
    checked = ScheduleOptions.model_validate(options)
    return optimizer, Schedule(checked, optimizer, EPOCHS, STEPS)


def rates(optimizer: SAM, moving: Schedule, steps: int = TOTAL) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.base.param_groups[0]["lr"])
        moving.after_step()
    return found


CASES = [
    ("constant", {}, lambda t: 1.0),
    ("cosine", {"final_factor": 0.0}, lambda t: (1 + math.cos(math.pi * t / TOTAL)) / 2),
    ("cosine", {"final_factor": 0.2}, lambda t: 0.2 + 0.8 * (1 + math.cos(math.pi * t / TOTAL)) / 2),
    ("cosine", {"final_factor": 0.0, "warmup_epochs": 2},
     lambda t: min(1, (t + 1) / 9) * (1 + math.cos(math.pi * max(0, t - 8) / (TOTAL - 8))) / 2),
    ("multistep", {"milestones": [3, 7], "gamma": 0.1}, lambda t: 0.1 ** ((t >= 12) + (t >= 28))),
    ("multistep", {"milestones": [0.5, 0.75], "gamma": 0.2}, lambda t: 0.2 ** ((t >= 20) + (t >= 30))),
    ("inverse_time", {"decay": 0.1}, lambda t: 1 / (1 + 0.1 * t)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "formula"), CASES, ids=[f"{n}-{o}" for n, o, _ in CASES])
def test_every_step(name, options, formula) -> None:
    assert rates(*schedule(name=name, **options)) == pytest.approx([formula(t) for t in range(TOTAL)])


def test_plateau_drops_after_epochs_without_improvement_and_keeps_its_warmup() -> None:
    optimizer, moving = schedule(name="plateau", factor=0.1, patience=1, threshold=1e-4, warmup_epochs=1)
    found = []
    for loss in [3.0, 2.0, 2.0, 2.0, 1.0]:
        found += rates(optimizer, moving, STEPS)
        moving.after_epoch(loss)
    found += rates(optimizer, moving, STEPS)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4:16] == pytest.approx([1.0] * 12)
    assert found[16:] == pytest.approx([0.1] * 8)


@pytest.mark.parametrize("name", ["cosine", "plateau"])
def test_resumes(name) -> None:
    options = {"cosine": {"final_factor": 0.1}, "plateau": {"factor": 0.5, "patience": 0, "threshold": 0.0}}[name]
    optimizer, moving = schedule(name=name, **options)
    for _ in range(2):
        rates(optimizer, moving, STEPS)
        moving.after_epoch(1.0)
    again, resumed = schedule(name=name, **options)
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(moving.state_dict())
    for _ in range(2):
        assert rates(again, resumed, STEPS) == rates(optimizer, moving, STEPS)
        moving.after_epoch(1.0)
        resumed.after_epoch(1.0)
