"""Bad input: one line on stderr naming key, value and what is allowed; exit code 2; nothing left behind."""

from __future__ import annotations

import pytest

CASES = [
    ("misspelt-group", ["optimzer=sam"], "optimzer=sam: no such key; did you mean 'optimizer'?"),
    ("misspelt-key", ["sed=1"], "sed=1: no such key; did you mean 'seed'?"),
    ("misspelt-option", ["trainer.epohcs=3"], "trainer.epohcs=3: no such key; did you mean 'trainer.epochs'?"),
    ("unknown-choice", ["optimizer=nope"],
     "optimizer=nope: no such optimizer; allowed: adam, adamw, asam, fisher_trace, fsam, sam, sgd"),
    ("near-choice", ["model=resnet-20"], "model=resnet-20: no such model; did you mean 'resnet20'?"),
    ("near-experiment", ["experiment=kim2022/tabel1"], "did you mean 'kim2022/table1'?"),
    ("added-key", ["+optimizer.foo=1"], "optimizer.foo=1: no such key"),
    ("other-methods-key", ["optimizer=sgd", "optimizer.rho=0.1"], "optimizer.rho=0.1: no such key"),
    ("wrong-type", ["optimizer.lr=foo"], "optimizer.lr=foo: must be a number"),
    ("not-whole", ["trainer.epochs=2.5"], "trainer.epochs=2.5: must be a whole number"),
    ("null", ["optimizer.lr=null"], "optimizer.lr=null: must be a number"),
    ("nan", ["optimizer.lr=nan"], "optimizer.lr=nan: must be a finite number"),
    ("not-bool", ["overwrite=1"], "overwrite=1: must be true or false"),
    ("rho", ["optimizer=sam", "optimizer.rho=-1"], "optimizer.rho=-1: must be >= 0"),
    ("eta", ["optimizer=fsam", "optimizer.eta=-0.5"], "optimizer.eta=-0.5: must be >= 0"),
    ("additive-eta", ["optimizer=fsam", "optimizer.form=additive", "optimizer.eta=0"],
     "optimizer.eta=0: must be > 0 with optimizer.form=additive"),
    ("regulariser-bf16", ["optimizer=fisher_trace", "trainer.precision=bf16"],
     "trainer.precision=bf16: optimizer=fisher_trace needs fp32"),
    ("regulariser-tf32", ["optimizer=fisher_trace", "trainer.precision=tf32"],
     "trainer.precision=tf32: optimizer=fisher_trace needs fp32, because the difference of gradients it adds is below "
     "the rounding of tf32"),
    ("tf32-cpu", ["dataset=digits", "model=mlp", "trainer.precision=tf32", "trainer.device=cpu"],
     "trainer.precision=tf32: needs a GPU with TF32, and the run is on the CPU; use fp32"),
    ("regulariser-constant", ["optimizer=fisher_trace", "schedule=constant"],
     "optimizer.start=first_drop: the learning rate never drops with schedule=constant"),
    ("fisher", ["optimizer=fsam", "optimizer.fisher=no"],
     "optimizer.fisher=no: must be one of batch, per_example, true"),
    ("together", ["optimizer=fisher_trace", "optimizer.together=maybe"],
     "optimizer.together=maybe: must be one of auto, true, false"),
    ("together-micro-batches", ["optimizer=fisher_trace", "optimizer.together=true", "trainer.micro_batch_size=8"],
     "optimizer.together=true: needs each mini-batch in one pass of the network as it is, which "
     "trainer.micro_batch_size rules out; use optimizer.together=auto"),
    ("together-batchnorm", ["dataset=digits", "model=resnet20", "optimizer=fisher_trace", "optimizer.together=true"],
     "optimizer.together=true: BatchNorm gives each sub-batch statistics of its own; use optimizer.together=auto"),
    ("noise", ["dataset.noise=1.5"], "dataset.noise=1.5: must be <= 1"),
    ("epochs", ["trainer.epochs=0"], "trainer.epochs=0: must be >= 1"),
    ("device", ["trainer.device=gpu"], "trainer.device=gpu: must be one of auto, cpu, cuda"),
    ("widths", ["model=mlp", "model.widths=3"], "model.widths=3: must be a list, such as [1,2]"),
    ("base", ["optimizer=sgd", "base=adamw"],
     "base=adamw: optimizer=sgd is that optimizer alone; use optimizer=adamw, or base=sgd"),
    ("sweep-without-m", ["optimizer=sgd,sam"], "optimizer=sgd,sam: several values; add -m to run each of them"),
    ("not-an-override", ["foo"], "foo: must read KEY=VALUE"),
    ("unquoted", ["dataset.label=CIFAR-10 (copy)"],
     "dataset.label=CIFAR-10 (copy): can't be read; values with brackets"),
    ("flag", ["--foo"], "unrecognized arguments: --foo"),
    ("flag-alone", ["--resolve"], "--resolve and --package go with --cfg job"),
    ("cfg", ["--cfg", "job", "optimizer=nope"], "optimizer=nope: no such optimizer; allowed: adam"),
    ("help", ["--help", "sed=1"], "sed=1: no such key; did you mean 'seed'?"),
    ("hydra-dir", ["hydra.run.dir=x"], "hydra.run.dir=x: fsbench has its own run directories and sweeps"),
    ("config-dir", ["--config-dir", "nowhere"], "--config-dir=nowhere: no such directory"),
    ("batch-size", ["dataset=digits", "model=cnn", "trainer.batch_size=5000"], "trainer.batch_size=5000: "),
    ("image-size", ["dataset=digits", "model=lenet"], "lenet"),
    ("no-data", ["dataset=folder"], "dataset.root=null: dataset=folder needs the directory"),
    ("run-name", ["run_name=a/b"], "run_name=a/b: must begin with a letter or digit"),
    ("parent-as-run", ["run_name=.."], "run_name=..: must begin with a letter or digit"),
    ("blame-the-right-key", ["optimizer=sam", "optimizer.rho=0.1", "model=mlp", "model.widths=[8]", "trainer.epoch=3"],
     "trainer.epoch=3: no such key; did you mean 'trainer.epochs'?"),
    ("key-of-the-chosen-group", ["optimizer=sam", "optimizer.rh=1"], "did you mean 'optimizer.rho'?"),
    ("near-optimizer", ["model=mlp", "model.widths=[8]", "optimizer=fsm"], "did you mean 'fsam'?"),
    ("no-group", ["model=null"], "model=null: one is needed; allowed: cnn, "),
    ("field-check", ["model=resnet20", "model.depth=21"], "model.depth=21: the depth must be 6n + 2"),
    ("interval", ["-m", "optimizer.lr=interval(0,1)"], "optimizer.lr=interval(0,1): can't be swept"),
    ("cfg-of-a-sweep", ["-m", "--cfg", "job", "optimizer=sgd,sam"], "--cfg, --info and --hydra-help show one run"),
    ("shared-run-name", ["-m", "dataset=digits", "model=mlp", "run_name=x", "seed=0,1"],
     "run_name=x: several runs of the sweep would share this directory"),
    ("deleted-group", ["~optimizer"], "optimizer: can't be deleted"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), [pytest.param(c[1], c[2], id=c[0]) for c in CASES])
def test_one_line_and_nothing_left(fsbench, tmp_path, overrides, message) -> None:
    ended = fsbench("train", *overrides)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.startswith("fsbench: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bad_value_in_a_sweep_stops_it_before_the_first_run(fsbench, tmp_path) -> None:
    ended = fsbench("train", "-m", "dataset=digits", "model=cnn", "optimizer=sam", "optimizer.rho=0.1,-1")
    assert (ended.code, ended.err) == (2, "fsbench: optimizer.rho=-1: must be >= 0\n")
    assert list(tmp_path.iterdir()) == []


def test_unknown_command(fsbench) -> None:
    ended = fsbench("trian")
    assert (ended.code, ended.err) == (2, "fsbench: no command 'trian'; did you mean 'train'?; see fsbench --help\n")


def test_full_error_on_request(fsbench, monkeypatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ended = fsbench("train", "optimizer.lr=foo")
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.err
    assert ended.err.endswith("fsbench: optimizer.lr=foo: must be a number\n")
