"""Bad input: one line on stderr naming key, value and what is allowed; exit code 2; nothing left behind."""

from __future__ import annotations

import pytest

CASES = [
    ("misspelt-group", ["optimzer=sam"], "optimzer=sam: no such key (did you mean 'optimizer'?)"),
    ("misspelt-key", ["sed=1"], "sed=1: no such key (did you mean 'seed'?)"),
    ("misspelt-option", ["trainer.epohcs=3"], "trainer.epohcs=3: no such key (did you mean 'trainer.epochs'?)"),
    ("unknown-choice", ["optimizer=nope"],
     "optimizer=nope: no such optimizer; allowed: adam, adamw, asam, fisher_trace, friendly_sam, fsam, gsam, sam, sgd"),
    ("near-choice", ["model=resnet-20"], "model=resnet-20: no such model (did you mean 'resnet20'?)"),
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
    ("rho_min", ["optimizer=gsam", "optimizer.rho_min=0.1"],
     "optimizer.rho_min=0.1: must be at most optimizer.rho=0.05"),
    ("lr_min", ["optimizer=gsam", "optimizer.lr_min=0.001"],
     "optimizer.lr_min=0.001: must be below optimizer.lr=0.1, with optimizer.rho_min given"),
    ("gsam-local", ["optimizer=gsam", "optimizer.perturbation=local"],
     "optimizer.perturbation=local: must be one of global"),
    ("friendly-decay", ["optimizer=friendly_sam", "optimizer.decay=1"], "optimizer.decay=1: must be < 1"),
    ("start-as-a-word", ["optimizer=sam", "optimizer.start=immediately"],
     "optimizer.start=immediately: must be a number"),
    ("start-and-stop", ["optimizer=fsam", "optimizer.start=0.8", "optimizer.stop=0.5"],
     "optimizer.start=0.8: must be below optimizer.stop=0.5"),
    ("average", ["trainer.average=mean"], "trainer.average=mean: must be one of none, ema, swa"),
    ("average-decay", ["trainer.average=swa", "trainer.average_decay=0.9"],
     "trainer.average_decay=0.9: is that of trainer.average=ema"),
    ("average-start", ["trainer.average_start=0.9"], "trainer.average_start=0.9: needs trainer.average=ema or swa"),
    ("of-older-runs", ["optimizer=fisher_trace", "optimizer.together=true"], ": no such key"),
    ("of-older-runs-added", ["optimizer=fisher_trace", "+optimizer.together=true"], ": no such key"),
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
    ("help", ["--help", "sed=1"], "sed=1: no such key (did you mean 'seed'?)"),
    ("hydra-dir", ["hydra.run.dir=x"], "hydra.run.dir=x: fsbench has its own run directories and sweeps"),
    ("config-dir", ["--config-dir", "nowhere"], "--config-dir=nowhere: no such directory"),
    ("batch-size", ["dataset=digits", "model=cnn", "trainer.batch_size=5000"], "trainer.batch_size=5000: "),
    ("image-size", ["dataset=digits", "model=lenet"], "lenet"),
    ("no-data", ["dataset=folder"], "dataset.root=null: dataset=folder needs the directory"),
    ("run-name", ["run_name=a/b"], "run_name=a/b: must begin with a letter or digit"),
    ("parent-as-run", ["run_name=.."], "run_name=..: must begin with a letter or digit"),
    ("blame-the-right-key", ["optimizer=sam", "optimizer.rho=0.1", "model=mlp", "model.widths=[8]", "trainer.epoch=3"],
     "trainer.epoch=3: no such key (did you mean 'trainer.epochs'?)"),
    ("key-of-the-chosen-group", ["optimizer=sam", "optimizer.rh=1"], "did you mean 'optimizer.rho'?"),
    ("near-optimizer", ["model=mlp", "model.widths=[8]", "optimizer=fsm"], "did you mean 'fsam'?"),
    ("no-group", ["model=null"], "model=null: one is needed; allowed: cnn, "),
    ("field-check", ["model=resnet20", "model.depth=21"], "model.depth=21: the depth must be 6n + 2"),
    ("interval", ["-m", "optimizer.lr=interval(0,1)"], "optimizer.lr=interval(0,1): can't be swept"),
    ("cfg-of-a-sweep", ["-m", "--cfg", "job", "optimizer=sgd,sam"], "--cfg, --info and --hydra-help show one run"),
    ("shared-run-name", ["-m", "dataset=digits", "model=mlp", "run_name=x", "seed=0,1"],
     "run_name=x: several runs of the sweep would share this directory"),
    ("deleted-group", ["~optimizer"], "optimizer: can't be deleted"),
    ("no-group-in-a-list", ["augment=[]"], "augment=[]: one is needed; allowed: "),
    ("empty-range", ["-m", "seed=range(0,0)"], "seed=range(0,0): stands for no value at all"),
    ("empty-glob", ["-m", "model=glob(zzz*)"], "model=glob(zzz*): stands for no value at all"),
    ("endless-range", ["-m", "seed=range(0,100000000000)"], "can't be swept: a sweep has at most 100,000 runs"),
    ("range-without-a-step", ["-m", "seed=range(0,5,0)"], "can't be swept: its step is 0"),
    ("endless-product", ["-m", "seed=range(0,1000)", "trainer.epochs=range(1,1000)"], "makes 999,000 runs; a sweep"),
    ("searchpath", ["hydra.searchpath=x"], "hydra.searchpath=x: must be a list of directories"),
    ("searchpath-absent", ["hydra.searchpath=[file:///no/such]"], "must be a list of directories"),
    ("long-choice", [f"model={'x' * 3000}"], "(3000 characters): no such model"),
    ("long-name", [f"run_name={'x' * 300}"], "(300 characters): must have at most 200 characters"),
    ("long-path", [f"runs_dir={'x' * 300}"], "(300 characters): no file system takes such a path"),
    ("deep", [f"model.widths={'[' * 3000}{']' * 3000}"], "nested too deeply"),
    ("deep-table", [f"+model.x={'{a:' * 300}1{'}' * 300}"], "nested too deeply"),
    ("no-text", ["run_name=\udcff"], "can't be read"),
    ("empty-path", ["runs_dir="], "runs_dir=: must not be empty"),
    ("empty-file", ["model.checkpoint=''"], "model.checkpoint=: must not be empty"),
    ("no-such-home", ["runs_dir='~no.such.user/x'"], "runs_dir=~no.such.user/x: there is no such home directory"),
    ("infinite-warmup", ["schedule.warmup_epochs=inf"], "schedule.warmup_epochs=inf: must be a finite number"),
    ("infinite-norm", ["trainer.max_norm=inf"], "trainer.max_norm=inf: must be a finite number"),
    ("huge-number", ["trainer.epochs=100000000000000000000000"], "epochs=100000000000000000000000: must lie within 63"),
    ("huge-width", ["model=mlp", "model.widths=[100000000000000000000000]"], "must lie within 63 bits"),
    ("too-wide", ["dataset=digits", "model=mlp", "model.widths=[9223372036854775807]"], "can't be built: "),
    ("larger-than-memory", ["dataset=digits", "model=mlp", "model.widths=[2000000,2000000]"], " GiB of memory"),
    ("processes", ["trainer.workers=1000000"], "trainer.workers=1000000: must be <= 1024"),
    ("pixels", ["augment.crop=1000000"], "augment.crop=1000000: must be <= 10000"),
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
    assert (ended.code, ended.err) == (2, "fsbench: no command 'trian' (did you mean 'train'?); see fsbench --help\n")


def test_full_error_on_request(fsbench, monkeypatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ended = fsbench("train", "optimizer.lr=foo")
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.err
    assert ended.err.endswith("fsbench: optimizer.lr=foo: must be a number\n")


OTHERS = [
    ("eigenvalues", ["sharpness", "run=x", "eigenvalues=1000000000"], "eigenvalues=1000000000: must be <= 1000"),
    ("subsets", ["sharpness", "run=x", "subsets=1000000000"], "subsets=1000000000: must be <= 1000000"),
    ("infinite-length", ["sharpness", "run=x", "rho=inf"], "rho=inf: must be a finite number"),
    ("no-measure", ["sharpness", "run=x", "measures=''"], "measures=: no such measure"),
    ("long-run", ["sharpness", f"run={'x' * 300}"], "no file system takes such a path"),
    ("device-as-run", ["sharpness", "run=/dev/null"], "run=/dev/null: no such directory"),
    ("no-runs", ["sharpness", "-m", "run=glob(zzz*)"], "matches no directory"),
    ("out-below-a-file", ["sharpness", "model=mlp", "dataset=digits", "out=/dev/null/x"], "null is not a directory"),
    ("by-nothing", ["table", "--by", ""], "--by=: names nothing"),
    ("no-columns", ["table", "--columns", ","], "--columns=,: names nothing"),
    ("long-directory", ["table", "x" * 300], "File name too long"),
    ("rerun-of-a-file", ["rerun", "/dev/null"], "rerun=/dev/null: is not a run directory"),
    ("long-rerun", ["rerun", "x" * 300], "is not a run directory"),
    ("no-papers", ["reproduce", "--papers", "nowhere", "list"], "papers=nowhere: no such directory"),
    ("results-in-a-file", ["reproduce", "kim2022/table4", "scale=tiny", "results_dir=/dev/null"],
     "results_dir=/dev/null: can't be written: /dev/null is not a directory"),
    ("runs-in-a-file", ["reproduce", "kim2022/table4", "scale=tiny", "runs_dir=/dev/null"], "/dev/null: can't"),
    ("seeds", ["reproduce", "kim2022/table4", "seeds=100000000000"], "seeds=100000000000: must be <= 1000"),
    ("long-artefact", ["reproduce", "x" * 3000], "no such table or figure"),
    ("kind", ["list", "\n"], "no such kind"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), [pytest.param(c[1], c[2], id=c[0]) for c in OTHERS])
def test_every_command_says_it_in_one_line(fsbench, tmp_path, arguments, message) -> None:
    ended = fsbench(*arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert message in ended.err
    assert list(tmp_path.iterdir()) == []


PAPERS = [
    ("a number", b"ARTEFACTS = 3", "ARTEFACTS is a int, not a tuple"),
    ("no Python", b"ARTEFACTS = (", "can't be read, SyntaxError"),
    ("an end", b"ARTEFACTS = (); raise SystemExit(3)", "can't be read, SystemExit: 3"),
    ("no text", b"ARTEFACTS = '\xff'", "is no text"),
    ("other things", b"ARTEFACTS = (1,)", "ARTEFACTS holds a int, not an Artefact"),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in PAPERS], ids=[case[0] for case in PAPERS])
def test_papers_that_are_none(fsbench, tmp_path, content, message) -> None:
    (tmp_path / "abc.py").write_bytes(content)
    ended = fsbench("reproduce", "--papers", str(tmp_path), "list")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert message in ended.err


LAUNCHED = [
    ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2: LOCAL_RANK is not set"),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "WORLD_SIZE=2: MASTER_ADDR is not set"),
    ({"RANK": "0", "WORLD_SIZE": "x"}, "WORLD_SIZE=x: the environment variable must be a whole number"),
    (
        {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
        "RANK=2: must be",
    ),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "b"}, "MASTER_PORT=b: "),
]


@pytest.mark.parametrize(("environment", "message"), LAUNCHED, ids=range(len(LAUNCHED)))
def test_half_an_environment_of_torchrun(fsbench, monkeypatch, environment, message) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ended = fsbench("train", "dataset=digits", "model=mlp")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert message in ended.err


@pytest.mark.parametrize("environment", [{"RANK": "0", "WORLD_SIZE": ""}, {"RANK": "", "WORLD_SIZE": "2"}], ids=str)
def test_empty_variables_of_a_batch_script_are_none(fsbench, monkeypatch, environment, quick) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert fsbench("train", *quick, "trainer.fast_dev_run=true").code == 0


def test_a_directory_with_an_apostrophe(fsbench, tmp_path) -> None:
    groups = tmp_path / "it's" / "model"
    groups.mkdir(parents=True)
    (groups / "mine.yaml").write_text("family: mlp\nwidths: [8]\n", encoding="utf-8")
    ended = fsbench("train", "-cd", "it's", "model=mine", "dataset=digits", "trainer.fast_dev_run=true")
    assert ended.code == 0, ended.err


def test_home_is_expanded(fsbench, tmp_path, monkeypatch, quick) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fsbench("train", *quick, "trainer.fast_dev_run=true", "runs_dir='~/runs'", "run_name=here").code == 0
    assert (tmp_path / "home/runs/here/summary.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_logger_that_is_there_and_broken(fsbench, tmp_path, monkeypatch) -> None:
    (tmp_path / "site/wandb").mkdir(parents=True)
    (tmp_path / "site/wandb/__init__.py").write_text("import no_such_protobuf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    ended = fsbench("train", "dataset=digits", "model=mlp", "logger=wandb")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "logger=wandb: is installed, but can't be imported (ModuleNotFoundError: No module named" in ended.err
    assert not (tmp_path / "runs").exists()
