"""Several devices: two gloo processes come to what one comes to, or say where they differ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from data.tiny_sets import write_folder
from problems import batches
from safetensors.torch import load_file
from two_processes import GLOBAL, LOSS, NETWORKS, OTHERS, SGD, SIZES, steps

from fsbench.config.compose import compose_jobs
from fsbench.data.share import Share
from fsbench.distributed import devices as devices_module
from fsbench.distributed.devices import Devices
from fsbench.distributed.gradient_sum import GradientSum
from fsbench.models import build_model
from fsbench.optim import SAM
from fsbench.optim.running_statistics import mixes_examples
from fsbench.runs.directory import RunDirectory
from fsbench.runs.identity import identity
from fsbench.stop_signal import StopSignal
from fsbench.training import run as run_module


@pytest.mark.parametrize("case", GLOBAL)
def test_two_devices_equal_one(two, case) -> None:
    method, options = GLOBAL[case]
    alone = steps(Devices(torch.device("cpu")), method, **options)
    for told in two[case]:
        assert told["losses"] == pytest.approx(alone["losses"], rel=1e-6, nan_ok=True)
        assert (told["hits"], told["skipped"]) == (alone["hits"], alone["skipped"])
        for mine, expected in zip(told["states"], alone["states"], strict=True):
            for name, value in expected.items():
                torch.testing.assert_close(mine[name], value, rtol=1e-9, atol=1e-9)


def test_an_unusable_row_of_one_device_is_skipped_by_both(two) -> None:
    for case in ("unusable", "local-unusable"):
        for told in two[case]:
            assert told["skipped"] == [1] * len(SIZES)
            start = NETWORKS["plain"]().state_dict()
            assert all(torch.equal(told["states"][0][name], start[name]) for name in start)


@pytest.mark.parametrize("case", [case for case in OTHERS if case.startswith("local")])
def test_local_perturbations_differ_and_weights_agree(two, case) -> None:
    first, second = two[case]
    if case != "local-unusable":
        assert not all(torch.equal(a, b) for a, b in zip(first["gradients"][0], second["gradients"][0], strict=True))
    for mine, theirs in zip(first["states"], second["states"], strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_local_sam_is_the_mean_over_devices_at_their_own_worst_points(two) -> None:
    """w - lr sum_r n_r/n grad L_r(w + rho g_r / |g_r|), written out; the first step, momentum still being zero."""
    model = NETWORKS["plain"]()
    x, y = batches(SIZES)[0]
    params = list(model.parameters())
    start = [p.detach().clone() for p in params]
    total = [torch.zeros_like(p) for p in params]
    for rank in range(2):
        own = list(range(rank, len(y), 2))
        gradient = torch.autograd.grad(LOSS(model(x[own]), y[own]), params)
        mine = two["local-sam"][rank]["gradients"][0]
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(mine, gradient, strict=True))
        length = torch.cat([g.flatten() for g in gradient]).norm()
        with torch.no_grad():
            for p, g in zip(params, gradient, strict=True):
                p += 0.1 * g / length
        second = torch.autograd.grad(LOSS(model(x[own]), y[own]), params)
        with torch.no_grad():
            for p, w, t, g in zip(params, start, total, second, strict=True):
                t += g * (len(own) / len(y))
                p.copy_(w)
    for name, w, t in zip(dict(model.named_parameters()), start, total, strict=True):
        expected = w - SGD["lr"] * (t + SGD["weight_decay"] * w)
        torch.testing.assert_close(two["local-sam"][0]["states"][0][name], expected, rtol=1e-10, atol=1e-10)


def test_batchnorm_of_their_own_rows_leaves_one_mean_of_statistics(two) -> None:
    """Running statistics after the first step: those of both devices, weighted by rows."""
    x, y = batches(SIZES)[0]
    expected = dict.fromkeys(("1.running_mean", "1.running_var"), 0.0)
    for rank in range(2):
        model, own = NETWORKS["batchnorm"](), list(range(rank, len(y), 2))
        model(x[own])
        expected = {name: value + model.state_dict()[name] * len(own) / len(y) for name, value in expected.items()}
    for told in two["own-batchnorm"]:
        for name, value in expected.items():
            torch.testing.assert_close(told["states"][0][name], value)
        assert [int(state["1.num_batches_tracked"]) for state in told["states"]] == [1, 2, 3, 4, 5]
    first, second = two["own-batchnorm"]
    assert all(torch.equal(first["states"][-1][name], second["states"][-1][name]) for name in first["states"][-1])


def test_all_devices_know_of_a_stop_after_the_same_step(two) -> None:
    first, second = two["stop"]
    assert first == second
    assert 45 <= first < 65


@pytest.mark.parametrize(
    ("seconds", "agreements"),
    [(0.001, [1, 21, 41, 61]), (0.3, [1, 4, 7, 10]), (90.0, [1, 2, 3, 4])],
    ids=["fast", "slow", "very-slow"],
)
def test_devices_agree_about_a_stop_every_twenty_steps_or_every_second(monkeypatch, seconds, agreements) -> None:
    now, step, agreed = 0.0, 0, []

    class Several(Devices):
        def total(self, *values):
            agreed.append(step)
            return [float(value) for value in values]

    monkeypatch.setattr(devices_module.time, "monotonic", lambda: now)
    stop = Several(torch.device("cpu"), 0, 2).agreed(StopSignal())
    for _ in range(69):
        now, step = now + seconds, step + 1
        assert not stop.requested_between_steps()
    assert agreed[:4] == agreements
    assert not stop.requested  # at an epoch's end
    assert agreed[-1] == 69


def test_what_devices_tell_each_other(two) -> None:
    assert two["numbers"] == [([3.0, 1.0], True, [0, 1], "of 0")] * 2
    assert two["failure"] == [
        ("DeviceFailed", "device 1: ZeroDivisionError: made up", "told"), ("ZeroDivisionError", "made up", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 5, 9, 10, 64])
@pytest.mark.parametrize("rows", [slice(None), slice(3, 8), slice(1, None, 4), slice(4, 5)], ids=str)
def test_each_row_has_one_owner(count, size, rows) -> None:
    of = range(size)[rows]
    shares = [Share(rank, count) for rank in range(count)]
    owned = [share.within(of, size) for share in shares]
    assert sorted(row for own in owned for row in own) == list(of)
    for share, own in zip(shares, owned, strict=True):
        held = list(share.of(size))
        assert held[share.held(own, size)] == list(own)
        assert size == 1 or len(held) != 1
    contiguous = [len(own) for own, share in zip(owned, shares, strict=True) if len(share.of(size))]
    if rows.step is None:
        assert max(contiguous) - min(contiguous) <= 1


@pytest.mark.parametrize(
    ("backend", "device"),
    [pytest.param("gloo", "cpu", id="gloo"), pytest.param("nccl", "cuda", id="nccl", marks=pytest.mark.gpu)],
)
def test_gradients_are_summed_by_one_process_too(tmp_path, monkeypatch, backend, device) -> None:
    """They stay what they are; nothing is sent to the device but once for each set of gradients."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        model = NETWORKS["plain"]().to(device)
        unused = torch.nn.Parameter(torch.ones(3, device=device))
        gradients = GradientSum([*model.parameters(), unused])
        x, y = (tensor.to(device) for tensor in batches(SIZES)[0])
        expected = torch.autograd.grad(LOSS(model(x), y), list(model.parameters()))
        sent, make = [], torch.tensor
        monkeypatch.setattr(torch, "tensor", lambda *a, **o: sent.append(1) or make(*a, **o))
        for _ in range(3):
            model.zero_grad()
            gradients.start()
            loss = LOSS(model(x), y)
            loss.backward()
            total = gradients.finish(torch.stack([loss.detach()] * 2))
            assert total.tolist() == [pytest.approx(loss.item())] * 2
            for p, gradient in zip(model.parameters(), expected, strict=True):
                torch.testing.assert_close(p.grad, gradient)
            assert unused.grad is None
        assert len(sent) == 1
    finally:
        torch.distributed.destroy_process_group()


MODELS = {
    "cnn": True, "mlp": True, "lenet": True, "lenet_ibayashi": True, "small_cnn": True, "resnet20": False,
    "densenet_bc_k12": False,
}  # fmt: skip


def config_of(*overrides: str) -> dict:
    (job,) = compose_jobs(["dataset=cifar10", *overrides], multirun=False)
    return job.config.model_dump(mode="json")


@pytest.mark.parametrize("model", MODELS)
def test_the_number_of_devices_is_part_of_a_run_where_it_changes_the_result(model) -> None:
    (job,) = compose_jobs(["dataset=cifar10", f"model={model}"], multirun=False)
    config = job.config.model_dump(mode="json")

    def changed(**trainer) -> str:
        return identity(config | {"trainer": config["trainer"] | trainer})

    assert (changed(devices=4) == identity(config)) == MODELS[model]
    assert changed(devices=4, sync_batchnorm=True) == changed(sync_batchnorm=True) == identity(config)
    pieces = {"sync_batchnorm": True, "micro_batch_size": 16}
    assert (changed(devices=4, **pieces) == changed(**pieces)) == MODELS[model]
    assert job.config.model.batchnorm != MODELS[model]
    assert mixes_examples(build_model(job.config.model, (3, 32, 32), 10)) != MODELS[model]


def test_local_perturbations_are_another_run() -> None:
    base = identity(config_of("model=mlp", "optimizer=sam"))
    assert identity(config_of("model=mlp", "optimizer=sam", "optimizer.perturbation=global")) == base
    local = [identity(config_of("model=mlp", "optimizer=sam", "optimizer.perturbation=local", f"trainer.devices={n}"))
             for n in (1, 2, 4)]  # fmt: skip
    assert len({base, *local}) == 4


TIMES = {"seconds", "seconds_per_epoch", "seconds_per_step", "peak_memory"}


def only_run(root: Path) -> RunDirectory:
    (path,) = root.iterdir()
    return RunDirectory(path)


def rows(run: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def assert_close_runs(one: RunDirectory, two: RunDirectory) -> None:
    assert one.path.name == two.path.name
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a.keys() == b.keys()
        assert {k: v for k, v in a.items() if k not in TIMES} == pytest.approx(
            {k: v for k, v in b.items() if k not in TIMES}, rel=1e-4
        )
    mine, theirs = load_file(one.model), load_file(two.model)
    assert all(torch.allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-6) for name in theirs)


def test_a_run_begun_on_one_device_is_finished_on_two(fsbench, quick, monkeypatch) -> None:
    """By the launcher, in processes of their own; the record says so."""
    line = [*quick, "optimizer=fsam", "augment=crop1_flip", "dataset.subset=301", "trainer.epochs=3"]
    assert fsbench("train", *line, "runs_dir=one").code == 0

    class Stop(Exception):
        """Stands for a killed process."""

    save = run_module.save_checkpoint

    def save_and_die(path, state):
        save(path, state)
        raise Stop

    monkeypatch.setattr(run_module, "save_checkpoint", save_and_die)
    assert fsbench("train", *line, "runs_dir=two").code == 1
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ended = fsbench("train", *line, "runs_dir=two", "trainer.devices=2")
    assert (ended.code, ended.err) == (0, "")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    run = only_run(Path("two"))
    assert ended.out.startswith(f"{run.path}: done, test accuracy ")
    assert_close_runs(only_run(Path("one")), run)
    assert "resumed at epoch 2, step 0" in run.log.read_text()
    assert json.loads(run.provenance.read_text())["hardware"]["devices"] == 2
    assert {p.name for p in run.path.iterdir()} == {p.name for p in only_run(Path("one")).path.iterdir()}


REFUSED = [
    ("too-many", ["trainer.devices=200"], "trainer.devices=200: more than the 128 images of a mini-batch"),
    ("none", ["trainer.devices=0"], "trainer.devices=0: must be >= 1"),
    ("perturbation", ["optimizer=sam", "optimizer.perturbation=ours"],
     "optimizer.perturbation=ours: must be one of global, local"),
    ("local-m", ["optimizer=sam", "optimizer.perturbation=local", "optimizer.m=8"],
     "optimizer.perturbation=local: not with optimizer.m, whose groups span the devices"),
    ("local-natural", ["optimizer=fsam", "optimizer.perturbation=local", "optimizer.natural=true"],
     "optimizer.perturbation=local: not with optimizer.natural=true"),
    ("local-synced", ["optimizer=sam", "optimizer.perturbation=local", "trainer.sync_batchnorm=true"],
     "optimizer.perturbation=local: with trainer.sync_batchnorm=true no device's first pass is its own"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), [pytest.param(c[1], c[2], id=c[0]) for c in REFUSED])
def test_refused(fsbench, quick, tmp_path, overrides, message) -> None:
    ended = fsbench("train", *quick, *overrides)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert ended.err.startswith(f"fsbench: {message}")
    assert list(tmp_path.iterdir()) == []


def test_more_devices_than_gpus_are_refused(fsbench, quick, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    ended = fsbench("train", *quick, "trainer.devices=2")
    assert (ended.code, ended.err) == (
        2, "fsbench: trainer.devices=2: there is 1 GPU here; use fewer devices, or trainer.device=cpu\n"
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_optimizer_refuses_what_local_does_not_go_with() -> None:
    weights = [torch.zeros(2, requires_grad=True)]
    for options in ({"m": 2}, {"natural": True}):
        with pytest.raises(ValueError, match="perturbation='local' goes neither with m"):
            SAM(weights, rho=0.1, lr=0.1, perturbation="local", **options)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fsbench", "train", *arguments]


DROPOUT_AND_BATCHNORM = ("dataset=digits", "model=wrn28_2", "model.depth=10", "model.width=1", "model.dropout=0.3",
                         "dataset.subset=400", "augment=crop1_flip", "trainer.epochs=6", "trainer.devices=2",
                         "trainer.device=cpu", "trainer.progress=false", "optimizer=sam")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL], ids=str)
def test_a_signal_to_the_launcher_and_then_the_same_command(tmp_path, number) -> None:
    """Bit for bit what an undisturbed run gives, dropout and BatchNorm included."""
    here = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    line = command(*DROPOUT_AND_BATCHNORM)
    subprocess.run([*line, "runs_dir=straight"], check=True, **here)
    process = subprocess.Popen([*line, "runs_dir=broken"], stderr=subprocess.PIPE, text=True, **here)
    until = time.monotonic() + 600
    while not list(tmp_path.glob("broken/*/metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=600)[1]
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert said.startswith("fsbench: interrupted ")
        assert said.count("\n") == 1
    broken = only_run(tmp_path / "broken")
    while broken.status == "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert broken.status == "interrupted"
    subprocess.run([*line, "runs_dir=broken"], check=True, **here)
    straight = only_run(tmp_path / "straight")
    mine, theirs = load_file(broken.model), load_file(straight.model)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    for a, b in zip(rows(broken), rows(straight), strict=True):
        assert {k: v for k, v in a.items() if k not in TIMES} == {k: v for k, v in b.items() if k not in TIMES}


@pytest.mark.slow
def test_torchrun_and_a_sweep_come_to_the_same(fsbench, quick, tmp_path) -> None:
    line = [*quick, "optimizer=sam", "trainer.device=cpu"]
    assert fsbench("train", *line, "runs_dir=one").code == 0
    ended = fsbench("train", "-m", *line, "runs_dir=sweep", "trainer.devices=2", "seed=0,1")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "2 done, 0 skipped, 0 failed")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fsbench"]
    for word in ("done", "already done"):
        done = subprocess.run(
            [*torchrun, "train", *line, "runs_dir=torchrun"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.count("\n") == 1
        assert f": {word}, test accuracy " in done.stdout
    for root in ("sweep", "torchrun"):
        (path,) = [p for p in Path(root).iterdir() if "-s0-" in p.name]
        assert_close_runs(only_run(Path("one")), RunDirectory(path))
    assert "trainer.devices=2" in json.loads(only_run(Path("torchrun")).provenance.read_text())["overrides"]
    refused = subprocess.run(
        [*torchrun, "train", *line, "trainer.devices=3"], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.stderr.count("fsbench: ") == 1
    assert "fsbench: trainer.devices=3: torchrun started 2 processes; leave this key out\n" in refused.stderr


@pytest.mark.slow
def test_streamed_images_and_a_file_that_one_device_cannot_read(fsbench, tmp_path) -> None:
    write_folder(tmp_path / "images", train=7)
    line = ["dataset=folder", f"dataset.root={tmp_path}/images", "dataset.in_memory=false",
            "dataset.image_size=12", "model=mlp", "model.widths=[8]",
            "augment=crop1_flip", "trainer.epochs=2", "trainer.batch_size=4", "trainer.progress=false",
            "trainer.workers=1", "trainer.device=cpu"]  # fmt: skip
    assert fsbench("train", *line, "runs_dir=one").code == 0
    assert fsbench("train", *line, "runs_dir=two", "trainer.devices=2").code == 0
    assert_close_runs(only_run(Path("one")), only_run(Path("two")))
    broken = sorted(tmp_path.glob("images/train/*/*"))[0]
    broken.write_bytes(broken.read_bytes()[:40])
    ended = fsbench("train", *line, "runs_dir=three", "trainer.devices=2", "overwrite=true")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert broken.name in ended.err
