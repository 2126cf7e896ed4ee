"""What a run reports, computed again from its files by other means; every option reaches its optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fsbench.config.compose import compose_jobs
from fsbench.data import load_data
from fsbench.models import build_model
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.run import build_optimizer

NETWORK = ["dataset=digits", "model=wrn28_2", "model.depth=10", "model.width=1", "model.dropout=0.3",
           "trainer.progress=false", "trainer.epochs=2"]  # fmt: skip


def only_run() -> Path:
    (path,) = Path("runs").iterdir()
    return path


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_the_summary_from_the_saved_weights(fsbench) -> None:
    line = [*NETWORK, "dataset.noise=0.2", "dataset.validation=200", "optimizer=fsam", "trainer.eval_every=2"]
    assert fsbench("train", *line).code == 0
    (job,) = compose_jobs(line, multirun=False)
    data = load_data(job.config.dataset, Path("unused"))
    model = build_model(job.config.model, data.shape, data.classes)
    model.load_state_dict(load_file(only_run() / "model.safetensors"))
    model.eval()
    results = json.loads((only_run() / "summary.json").read_text())["results"]
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
        with torch.no_grad():
            logits = torch.cat([model(part) for part in ((split.images / 255 - mean) / std).split(50)])
        assert results[f"{name}_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, split.labels)), 1e-5)
        assert results[f"{name}_accuracy"] == pytest.approx(float((logits.argmax(1) == split.labels).double().mean()))
    assert results["generalization_gap"] == results["train_accuracy"] - results["test_accuracy"]
    assert [("test_loss" in row) for row in rows(only_run())] == [False, True]


def test_label_smoothing_is_in_the_training_loss(fsbench, quick) -> None:
    losses = []
    for smoothing in (0.0, 0.3):
        runs = f"runs_dir=runs{smoothing}"
        fsbench("train", *quick, f"loss.label_smoothing={smoothing}", "optimizer.lr=0.0", runs)
        (path,) = Path(f"runs{smoothing}").iterdir()
        losses.append((rows(path)[0]["train_loss"], rows(path)[0]["test_loss"]))
    assert losses[0][0] != losses[1][0]
    assert losses[0][1] == losses[1][1]


OPTIONS = [
    ("sam", {"rho": 0.7, "natural": True, "m": 5}),
    ("asam", {"rho": 0.7, "eta": 0.3, "scale": "all", "natural": True, "m": 5}),
    ("fsam", {"rho": 0.7, "eta": 0.3, "form": "additive", "fisher": "per_example", "natural": True, "m": 5}),
    ("fisher_trace", {"alpha": 0.3, "beta": 3.0, "sub_batches": 5, "start": "immediately"}),
    ("sgd", {}),
    ("adamw", {}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[name for name, _ in OPTIONS])
def test_every_option_reaches_the_optimizer(name, options) -> None:
    overrides = [f"optimizer.{key}={value}" for key, value in options.items()]
    (job,) = compose_jobs([f"optimizer={name}", *overrides, "trainer.max_norm=0.5"], multirun=False)
    config = job.config
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, config.optimizer, config.base, config.trainer.max_norm)
    group = optimizer.param_groups[0]
    for key, value in options.items():
        key = {"sub_batches": "parts"}.get(key, key)
        assert (group[key] if key in group else getattr(optimizer, key)) == value, key
    assert (optimizer.max_norm, optimizer.model) == (0.5, model)
    assert group["lr"] == config.optimizer.lr
    assert group["weight_decay"] == config.base.weight_decay
    assert group["param_names"] == ["weight", "bias"]


def test_skipped_steps_are_counted_and_left_out_of_means(fsbench, quick, monkeypatch) -> None:
    """The third step is poisoned; its batch is in no mean."""
    losses: list[float] = []
    count = EpochTotals.add

    def recording(totals, optimizer, loss, hits, size, skipped):
        losses.append((float(loss), size, skipped))
        count(totals, optimizer, loss, hits, size, skipped)

    load = BatchClosure.load

    def poisoned(self, x, y, size):
        load(self, x * float("inf") if len(losses) == 2 else x, y, size)

    monkeypatch.setattr(EpochTotals, "add", recording)
    monkeypatch.setattr(BatchClosure, "load", poisoned)
    assert fsbench("train", *quick, "trainer.epochs=1").code == 0
    (row,) = rows(only_run())
    kept = [(loss, size) for loss, size, skipped in losses if not skipped]
    assert (row["skipped_steps"], len(losses) - len(kept)) == (1, 1)
    assert row["train_loss"] == pytest.approx(sum(a * n for a, n in kept) / sum(n for _, n in kept))


def test_alignment_is_sampled_every_so_many_steps(fsbench, quick, monkeypatch) -> None:
    samples = []
    count = EpochTotals.add

    def recording(totals, optimizer, *rest):
        samples.append(optimizer.alignment is not None)
        count(totals, optimizer, *rest)

    monkeypatch.setattr(EpochTotals, "add", recording)
    fsbench("train", *quick, "optimizer=asam", "trainer.epochs=1", "trainer.compare_every=5")
    assert [i for i, sampled in enumerate(samples) if sampled] == [0, 5, 10]
    (row,) = rows(only_run())
    assert 0 < row["eps_cosine_to_sam"] < 1


def test_best_and_final_are_told_apart(fsbench, quick) -> None:
    fsbench("train", *quick, "trainer.epochs=4", "optimizer.lr=1.0")
    found = rows(only_run())
    results = json.loads((only_run() / "summary.json").read_text())["results"]
    best = max(found, key=lambda row: row["test_accuracy"])
    assert (results["best_test_accuracy"], results["best_epoch"]) == (best["test_accuracy"], best["epoch"])
    assert results["test_accuracy"] == found[-1]["test_accuracy"]
    assert found[-1]["train_loss"] != results["train_loss"]


def test_a_dead_network_has_diverged(fsbench, quick) -> None:
    ended = fsbench("train", *quick, "optimizer.lr=1e30", "trainer.max_skipped=1000")
    assert ended.code == 4
    assert "diverged: the test loss is not finite after epoch 1" in ended.err
    assert not (only_run() / "summary.json").exists()
