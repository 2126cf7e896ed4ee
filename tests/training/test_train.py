"""`fsbench train` end to end on the embedded data: what lies on disk, resuming, interrupting, sweeping."""

from __future__ import annotations

import errno
import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fsbench.config.compose import compose_jobs
from fsbench.runs.directory import RunDirectory
from fsbench.stop_signal import StopSignal
from fsbench.training import run as run_module
from fsbench.training.epoch_totals import EpochTotals

TIMES = {"seconds", "seconds_per_epoch", "seconds_per_step", "peak_memory"}


def only_run(root: Path) -> RunDirectory:
    (path,) = root.iterdir()
    return RunDirectory(path)


def metrics(run: RunDirectory) -> list[dict]:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def results(run: RunDirectory) -> dict:
    return {key: value for key, value in run.read_results().items() if key not in TIMES}


def test_a_run_on_disk(fsbench, quick) -> None:
    ended = fsbench("train", *quick, "optimizer=fsam")
    assert ended.code == 0
    run = only_run(Path("runs"))
    assert ended.out.startswith(f"{run.path}: done, test accuracy ")
    assert {p.name for p in run.path.iterdir()} == {
        "config.yaml", "lock", "metrics.jsonl", "model.safetensors", "provenance.json", "status.json",
        "summary.json", "train.log",
    }  # fmt: skip
    assert run.path.name.startswith("digits-mlp-fsam-s0-")
    summary = json.loads(run.summary.read_text())
    assert summary["choices"]["optimizer"] == "fsam"
    assert yaml.safe_load(run.config.read_text()) == summary["config"]
    assert json.loads(run.status_file.read_text())["status"] == "done"
    found = summary["results"]
    last = metrics(run)[-1]
    assert found["test_accuracy"] == last["test_accuracy"]
    assert found["generalization_gap"] == found["train_accuracy"] - found["test_accuracy"]
    assert found["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert {"seconds_per_epoch", "seconds_per_step", "peak_memory", "best_test_accuracy"} <= found.keys()
    assert 0.9 < last["eps_cosine_to_sam"] <= 1.000001
    assert sum(p.numel() for p in load_file(run.model).values()) == found["parameters"]
    record = json.loads(run.provenance.read_text())
    assert record["overrides"] == [*quick, "optimizer=fsam"]
    assert record["data"]["label"] == "digits"
    assert record["versions"]["torch"]


def test_stored_losses(fsbench, quick) -> None:
    """The training path as it was when these numbers were stored; a refactor must reproduce them."""
    stored = json.loads((Path(__file__).parent / "stored_losses.json").read_text())
    for optimizer, expected in stored.items():
        start = ("optimizer.start=immediately",) if optimizer == "fisher_trace" else ()
        fsbench("train", *quick, f"optimizer={optimizer}", f"runs_dir={optimizer}", *start)
        losses = [row["train_loss"] for row in metrics(only_run(Path(optimizer)))]
        assert losses == pytest.approx(expected, rel=1e-5), optimizer


def test_a_method_that_starts_late_or_stops_early(fsbench, quick) -> None:
    """Of two epochs the first, or the second, is the base optimizer's; the rest of an epoch is not told in its row."""

    def first_epochs(*line: str) -> list[dict]:
        name = "-".join(word.replace(".", "_").replace("=", "_") for word in line)
        assert fsbench("train", *quick, "schedule=constant", *line, f"runs_dir={name}").code == 0
        return metrics(only_run(Path(name)))

    sgd, sam = first_epochs("optimizer=sgd"), first_epochs("optimizer=sam")
    late = first_epochs("optimizer=sam", "optimizer.start=0.5")
    early = first_epochs("optimizer=sam", "optimizer.stop=0.5")
    assert late[0] == sgd[0]
    assert early[0] == sam[0]
    assert ["eps_cosine_to_sam" in row for row in (*late, *early)] == [False, True, True, False]
    assert len({rows[1]["train_loss"] for rows in (sgd, sam, late, early)}) == 4


def test_a_finished_run_is_not_repeated(fsbench, quick) -> None:
    fsbench("train", *quick)
    run = only_run(Path("runs"))
    before = run.summary.stat().st_mtime_ns
    again = fsbench("train", *quick, "trainer.workers=0", "data_dir=elsewhere")
    assert again.code == 0
    assert again.out.startswith(f"{run.path}: already done, test accuracy ")
    assert run.summary.stat().st_mtime_ns == before
    assert fsbench("train", *quick, "overwrite=true").code == 0
    assert only_run(Path("runs")).summary.stat().st_mtime_ns > before


class Stop(Exception):
    """Stands for a killed process."""


DROPOUT_AND_BATCHNORM = ["model=wrn28_2", "model.depth=10", "model.width=1", "model.dropout=0.3", "dataset.subset=400"]
RESUMED = [
    pytest.param(["optimizer=sgd"], id="sgd"),
    pytest.param(["optimizer=sam", "optimizer.m=20"], id="sam-m"),
    pytest.param(["optimizer=asam"], id="asam"),
    pytest.param(["optimizer=fsam", "base=adamw"], id="fsam-adamw"),
    pytest.param(["optimizer=fisher_trace"], id="fisher-trace"),
    pytest.param(["optimizer=friendly_sam", "base=adamw"], id="friendly-sam-adamw"),
    pytest.param(["optimizer=sam", "optimizer.start=0.02", "optimizer.stop=0.9"], id="sam-windowed"),
    pytest.param(["optimizer=sam", "trainer.average=ema", *DROPOUT_AND_BATCHNORM], id="ema"),
    pytest.param(
        ["optimizer=sgd", "trainer.average=swa", "trainer.average_start=0.3", *DROPOUT_AND_BATCHNORM], id="swa"
    ),
    pytest.param(["optimizer=gsam", "optimizer.rho_min=0.01", "schedule.warmup_epochs=1"], id="gsam"),
    pytest.param(["optimizer=sam", "schedule=plateau", "schedule.warmup_epochs=1"], id="plateau"),
    pytest.param(["optimizer=fsam", "trainer.precision=bf16"], id="bf16"),
    pytest.param(["optimizer=asam", "trainer.fused=false"], id="not-fused"),
    pytest.param(["optimizer=fsam", *DROPOUT_AND_BATCHNORM, "augment=crop1_flip"], id="dropout-batchnorm-augmented"),
]


@pytest.mark.parametrize("overrides", RESUMED)
@pytest.mark.parametrize("how", ["after-an-epoch", "signal-within-an-epoch"])
def test_n_plus_n_steps_equal_2n(fsbench, quick, monkeypatch, overrides, how) -> None:
    if any(override.startswith("model=") for override in overrides):
        quick = [override for override in quick if not override.startswith("model")]
    line = [*quick, *overrides, "trainer.epochs=4"]
    assert fsbench("train", *line, "runs_dir=straight").code == 0

    if how == "after-an-epoch":
        save = run_module.save_checkpoint

        def save_and_die(path, state):
            save(path, state)
            if state["position"] == [2, 0]:
                raise Stop

        monkeypatch.setattr(run_module, "save_checkpoint", save_and_die)
        assert fsbench("train", *line, "runs_dir=broken").code == 1
        monkeypatch.setattr(run_module, "save_checkpoint", save)
    else:
        count = EpochTotals.add

        def count_and_signal(totals, *rest):
            count(totals, *rest)
            if totals.steps == 2:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(EpochTotals, "add", count_and_signal)
        ended = fsbench("train", *line, "runs_dir=broken")
        assert (ended.code, ended.err) == (
            130, "fsbench: interrupted in epoch 1; the same command goes on from there\n"
        )  # fmt: skip
        assert json.loads(only_run(Path("broken")).status_file.read_text())["status"] == "interrupted"
        monkeypatch.setattr(EpochTotals, "add", count)
    assert only_run(Path("broken")).checkpoint.is_file()

    assert fsbench("train", *line, "runs_dir=broken").code == 0
    straight, broken = only_run(Path("straight")), only_run(Path("broken"))
    assert metrics(straight) == metrics(broken)
    assert results(straight) == results(broken)
    mine, theirs = load_file(broken.model), load_file(straight.model)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not broken.checkpoint.exists()


def test_a_signal_at_the_last_step_of_an_epoch_keeps_its_evaluation(fsbench, quick, monkeypatch) -> None:
    steps = 12
    count = EpochTotals.add

    def count_and_signal(totals, *rest):
        count(totals, *rest)
        if totals.steps == steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(EpochTotals, "add", count_and_signal)
    ended = fsbench("train", *quick)
    assert (ended.code, ended.err.count("interrupted after epoch 1")) == (130, 1)
    monkeypatch.setattr(EpochTotals, "add", count)
    assert fsbench("train", *quick).code == 0
    run = only_run(Path("runs"))
    assert [row["epoch"] for row in metrics(run)] == [1, 2]
    assert all("test_accuracy" in row and row["steps"] == steps for row in metrics(run))


def test_a_truncated_checkpoint_is_named(fsbench, quick, monkeypatch) -> None:
    save = run_module.save_checkpoint

    def save_and_die(path, state):
        save(path, state)
        raise Stop

    monkeypatch.setattr(run_module, "save_checkpoint", save_and_die)
    fsbench("train", *quick)
    run = only_run(Path("runs"))
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:1000])
    ended = fsbench("train", *quick)
    assert ended.code == 2
    assert ended.err == (
        f"fsbench: checkpoint={run.checkpoint}: truncated or not a checkpoint; "
        "delete it to train this run from its start\n"
    )


def test_a_checkpoint_cannot_run_code(fsbench, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "save_checkpoint", lambda path, state: (_ for _ in ()).throw(Stop))
    fsbench("train", *quick)
    run = only_run(Path("runs"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"model": Evil()}, run.checkpoint)
    assert fsbench("train", *quick).code == 2
    assert not (tmp_path / "executed").exists()


def test_a_directory_made_by_another_configuration_is_refused(fsbench, quick) -> None:
    fsbench("train", *quick, "optimizer=sam", "run_name=mine")
    ended = fsbench("train", *quick, "optimizer=sam", "optimizer.rho=0.7", "run_name=mine")
    assert ended.code == 2
    assert "run_name=mine: the directory was made by another configuration: optimizer.rho (0.7 here, 0.05 there)" in (
        ended.err
    )


def test_two_processes_do_not_train_the_same_run(fsbench, quick) -> None:
    fsbench("train", *quick)
    run = only_run(Path("runs"))
    run.summary.unlink()
    config = yaml.safe_load(run.config.read_text())
    with run.open(config):
        ended = fsbench("train", *quick)
    assert (ended.code, ended.err) == (1, f"fsbench: {run.path} is being trained by another process\n")


def test_divergence_ends_with_exit_code_4(fsbench, quick) -> None:
    ended = fsbench("train", *quick, "optimizer.lr=1e30", "trainer.max_skipped=3")
    assert ended.code == 4
    assert "fsbench: diverged: 3 steps in a row had a non-finite gradient (epoch 1" in ended.err
    assert json.loads(only_run(Path("runs")).status_file.read_text())["status"] == "diverged"


def test_a_failure_leaves_its_traceback(fsbench, quick, monkeypatch) -> None:
    def broken(*_):
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(EpochTotals, "add", broken)
    ended = fsbench("train", *quick)
    run = only_run(Path("runs"))
    assert ended.code == 1
    assert ended.err == (
        f"fsbench: {run.path}: failed, ZeroDivisionError: made up; the traceback is in {run.traceback}\n"
    )
    assert "ZeroDivisionError: made up" in run.traceback.read_text()
    assert json.loads(run.status_file.read_text())["status"] == "failed"


def test_a_full_disk_is_one_line(fsbench, quick, monkeypatch) -> None:
    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    ended = fsbench("train", *quick)
    assert (ended.code, ended.err) == (
        2, "fsbench: runs_dir=runs/" + ended.err.split("runs/")[1]
    )  # fmt: skip
    assert "no space left on the disk" in ended.err
    assert list(Path("runs").iterdir()) == []


def test_accumulation_clipping_and_a_validation_split(fsbench, quick) -> None:
    """Micro-batches of a network without BatchNorm add up to the same gradients."""
    common = [*quick, "optimizer=fsam", "dataset.validation=200", "trainer.max_norm=0.5"]
    fsbench("train", *common, "runs_dir=whole")
    fsbench("train", *common, "trainer.micro_batch_size=37", "runs_dir=pieces")
    whole, pieces = metrics(only_run(Path("whole"))), metrics(only_run(Path("pieces")))
    assert "validation_accuracy" in whole[-1]
    for a, b in zip(whole, pieces, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)


def test_a_convolutional_run_is_in_channels_last_and_its_weights_are_written_as_ever(fsbench, quick) -> None:
    line = [override for override in quick if not override.startswith("model")]
    line += ["model=cnn", "model.filters=[4,4,8,8,8,8]", "dataset.subset=200", "optimizer=sam"]
    fsbench("train", *line, "runs_dir=auto")
    fsbench("train", *line, "trainer.memory_format=contiguous", "runs_dir=plain")
    auto, plain = only_run(Path("auto")), only_run(Path("plain"))
    assert auto.path.name == plain.path.name
    for a, b in zip(metrics(auto), metrics(plain), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
    mine, theirs = load_file(auto.model), load_file(plain.model)
    for name, weight in mine.items():
        assert weight.is_contiguous()
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)


def test_a_dev_run_takes_two_steps(fsbench, quick) -> None:
    fsbench("train", *quick, "trainer.fast_dev_run=true")
    assert results(only_run(Path("runs")))["steps"] == 2


def test_overwriting_touches_nothing_that_no_run_wrote(fsbench, quick) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("x")
    ended = fsbench("train", *quick, "runs_dir=.", "run_name=mine", "overwrite=true")
    assert ended.code == 2
    assert "holds other files (thesis.tex, ...)" in ended.err
    fsbench("train", *quick, "run_name=again")
    Path("runs/again/notes.txt").write_text("x")
    assert fsbench("train", *quick, "run_name=again", "overwrite=true", "seed=5").code == 0
    assert Path("runs/again/notes.txt").read_text() == "x"
    assert json.loads(Path("runs/again/summary.json").read_text())["config"]["seed"] == 5


def test_a_run_that_another_process_finished_meanwhile_is_left_alone(fsbench, quick) -> None:
    fsbench("train", *quick)
    run = only_run(Path("runs"))
    before = run.summary.stat().st_mtime_ns
    (job,) = compose_jobs([*quick], multirun=False)
    # What a second process does that looked before the first had finished.
    assert run_module.train(job, StopSignal()) == run.read_results()
    assert run.summary.stat().st_mtime_ns == before
    assert run.metrics.is_file()


@pytest.mark.parametrize("size", [28, 48, 56, 68, 90], ids="{} KiB".format)
def test_full_disks(fsbench, quick, monkeypatch, size) -> None:
    """A disk that fills up at any file: one line, exit code 2, and what was there stays whole."""
    left = [size * 1024]

    def bounded(write):
        def writing(self, data, *rest, **named):
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, data, *rest, **named)

        return writing

    monkeypatch.setattr(Path, "write_text", bounded(Path.write_text))
    monkeypatch.setattr(Path, "write_bytes", bounded(Path.write_bytes))
    ended = fsbench("train", *quick, "trainer.epochs=9", "model.widths=[64]")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "no space left on the disk" in ended.err
    for path in Path("runs").rglob("*.json"):
        json.loads(path.read_text())
    for path in Path("runs").rglob("checkpoint.pt"):
        torch.load(path, weights_only=True)


def test_a_foreign_checkpoint_is_named(fsbench, quick, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "save_checkpoint", lambda path, state: (_ for _ in ()).throw(Stop))
    fsbench("train", *quick)
    run = only_run(Path("runs"))
    torch.save({"a": 1}, run.checkpoint)
    ended = fsbench("train", *quick)
    assert (ended.code, "truncated or not a checkpoint" in ended.err) == (2, True)
