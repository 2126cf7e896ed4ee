"""`fsbench evaluate`: what a run recorded, exactly; other images, by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from data.tiny_sets import pixels, save_image
from safetensors.torch import load_file
from torch.nn import functional

from fsbench.config.dataset import Digits
from fsbench.data import load as load_module
from fsbench.data.digits import load_digits


def trained(fsbench, *line: str, name: str = "run") -> dict[str, float]:
    """What the run recorded."""
    assert fsbench("train", *line, f"run_name={name}").code == 0
    return json.loads(Path("runs", name, "summary.json").read_text())["results"]


def evaluated(fsbench, *line: str) -> dict[str, object]:
    ended = fsbench("evaluate", "run=runs/run", *line, "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


KINDS = {
    "mlp": ("model=mlp", "model.widths=[16]"),
    "channels-last": ("model=cnn", "model.filters=[4,4,8,8]"),
    "batchnorm": ("model=resnet20", "model.depth=8", "trainer.max_steps=2"),
    "bf16": ("model=cnn", "model.filters=[4,4,8,8]", "trainer.precision=bf16"),
    "noise": ("model=mlp", "model.widths=[16]", "dataset.noise=0.5", "loss.label_smoothing=0.1"),
    "mse": ("model=mlp", "model.widths=[16]", "loss=mse"),
    "moments": ("model=mlp", "model.widths=[16]", "dataset.mean=[0.5]", "dataset.std=[0.2]"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_recorded_values_exactly(fsbench, kind) -> None:
    """Of every split, in the arithmetic and memory format of the run."""
    line = ("dataset=digits", "dataset.validation=100", "trainer.epochs=1", "trainer.batch_size=256", "setup=standard")
    recorded = trained(fsbench, *line, *kind, "trainer.progress=false")
    for split in ("test", "train", "validation"):
        found = evaluated(fsbench, f"split={split}")
        assert (found["loss"], found["accuracy"]) == (recorded[f"{split}_loss"], recorded[f"{split}_accuracy"]), split
        assert found["images"] == {"test": 360, "train": 1337, "validation": 100}[split]


def test_the_line(fsbench, quick) -> None:
    recorded = trained(fsbench, *quick)
    ended = fsbench("evaluate", "run=runs/run", "split=train")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        f"runs/run: 1437 training images of digits: accuracy {100 * recorded['train_accuracy']:.2f} %, "
        f"loss {recorded['train_loss']:.4g}\n"
    )
    assert sorted(path.name for path in Path("runs/run").iterdir()) == [
        "config.yaml", "lock", "metrics.jsonl", "model.safetensors", "provenance.json", "status.json", "summary.json",
        "train.log",
    ]  # fmt: skip


def by_hand(mean: float, std: float) -> tuple[float, float]:
    """Loss and accuracy of the network of `quick` on the test images of digits."""
    weights = list(load_file("runs/run/model.safetensors").items())
    (_, b1), (_, w1), (_, b2), (_, w2) = sorted(weights)
    raw = load_digits(Digits(), Path()).test
    x = ((raw.images.float() / 255 - mean) / std).flatten(1)
    logits = functional.linear(functional.linear(x, w1, b1).relu(), w2, b2)
    return float(functional.cross_entropy(logits, raw.labels)), float((logits.argmax(1) == raw.labels).float().mean())


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "of-an-earlier-release"])
def test_normalised_as_the_run_unless_said(fsbench, quick, recorded) -> None:
    """The data set's own file says 0.3046 and 0.3755; the run was trained with others."""
    trained(fsbench, *quick, "dataset.mean=[0.5]", "dataset.std=[0.2]")
    if not recorded:
        file = Path("runs/run/provenance.json")
        content = json.loads(file.read_text())
        for key in ("shape", "classes", "mean", "std"):
            del content["data"][key]
        file.write_text(json.dumps(content))
    for line, mean, std in (
        ([], 0.5, 0.2),
        (["dataset=digits"], 0.5, 0.2),
        (["dataset=digits", "dataset.mean=[0.3046]", "dataset.std=[0.3755]"], 0.3046, 0.3755),
    ):
        found = evaluated(fsbench, *line)
        assert (found["mean"], found["std"]) == ([mean], [std])
        assert (found["loss"], found["accuracy"]) == pytest.approx(by_hand(mean, std), rel=1e-5)


@pytest.fixture
def folders(fsbench, tmp_path) -> dict[str, float]:
    """A run on 8 x 8 images of three classes, and others of the same and of other kinds."""
    write_images(tmp_path / "own", classes=3)
    write_images(tmp_path / "others", classes=3, seed=1)
    write_images(tmp_path / "two", classes=2)
    write_images(tmp_path / "large", classes=3, side=12)
    network = ("model=mlp", "model.widths=[8]", "trainer.epochs=1", "trainer.batch_size=6", "trainer.progress=false")
    return trained(fsbench, "dataset=folder", "dataset.root=own", *network)


def write_images(root: Path, classes: int, side: int = 8, seed: int = 0, each: int = 3) -> None:
    for split in ("train", "test"):
        for label in range(classes):
            for number in range(each):
                drawn = pixels(side, side, 3, seed=1000 * seed + 100 * label + 10 * number + (split == "test"))
                save_image(root / split / f"class{label:03}" / f"{number}.png", drawn)


def test_another_folder(fsbench, folders) -> None:
    """The images of another, in the place of the run's own, are what the run says of itself."""
    other = evaluated(fsbench, "dataset=folder", "dataset.root=others")
    assert other["dataset"] == "others"
    assert other["loss"] != folders["test_loss"]
    copied = evaluated(fsbench, "dataset=folder", "dataset.root=own")
    assert copied["loss"] == folders["test_loss"]
    # A copy of the run's images, evaluated without them.
    shutil.move("own", "elsewhere")
    load_module._memo.key = None
    assert evaluated(fsbench, "dataset.root=elsewhere")["loss"] == folders["test_loss"]
    assert evaluated(fsbench, "dataset=folder", "dataset.root=others")["loss"] == other["loss"]
    assert evaluated(fsbench, "dataset=folder", "dataset.root=large", "dataset.image_size=8")["images"] == 9


def test_five_best_of_a_hundred_classes(fsbench, tmp_path) -> None:
    write_images(tmp_path / "own", classes=100, each=1)
    recorded = trained(
        fsbench, "dataset=folder", "dataset.root=own", "model=mlp", "model.widths=[8]", "trainer.epochs=1",
        "trainer.batch_size=50", "trainer.progress=false",
    )  # fmt: skip
    assert evaluated(fsbench)["top5_accuracy"] == recorded["test_top5_accuracy"]
    assert f", top-5 {100 * recorded['test_top5_accuracy']:.2f} %, loss" in fsbench("evaluate", "run=runs/run").out


REFUSED = {
    "classes": (["dataset=folder", "dataset.root=two"], "dataset=folder: has 2 classes; runs/run was trained for 3"),
    "size": (
        ["dataset=folder", "dataset.root=large"],
        "dataset=folder: has images of 3 x 12 x 12; runs/run was trained for 3 x 8 x 8; "
        "dataset.image_size=8 resizes them",
    ),
    "other-images": (
        ["dataset.root=others"],
        "others: holds other training images or labels than the run was trained on; dataset= evaluates on others",
    ),
    "absent": (["dataset=folder", "dataset.root=nowhere"], "nowhere: there is no such directory"),
    "validation": (["split=validation"], "split=validation: there is none, dataset.validation is 0; allowed here: "),
    "split": (["split=tets"], "split=tets: must be one of test, train, validation"),
    "model": (["model=mlp"], "model=mlp: no such key in fsbench evaluate; its groups: dataset"),
    "misspelt": (["datset=mnist"], "datset=mnist: no such key (did you mean 'dataset'?)"),
    "no-data-set": (["dataset.mean=[0.5]"], "dataset.mean=[0.5]: choose a dataset first: dataset=NAME, one of "),
}


def test_refused(fsbench, folders) -> None:
    for name, (line, said) in REFUSED.items():
        ended = fsbench("evaluate", "run=runs/run", *line)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), name
        assert said in ended.err, name


def test_runs_that_are_none(fsbench, quick) -> None:
    trained(fsbench, *quick)
    Path("runs/run/summary.json").unlink()
    said = {
        "run=runs/run": "run=runs/run: is not finished: interrupted",
        "run=runs/rum": "run=runs/rum: no such directory (did you mean 'run'?)",
        "run=runs": "run=runs: is not a run directory: it holds no config.yaml",
        "split=test": "run=null: give a finished run, run=runs/ID",
        "run=glob(runs/*)": "several values; add -m to run each of them",
    }
    for argument, line in said.items():
        ended = fsbench("evaluate", argument)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), argument
        assert line in ended.err


def test_several_runs(fsbench, quick) -> None:
    recorded = [trained(fsbench, *quick, f"seed={seed}", name=f"s{seed}") for seed in (0, 1)]
    ended = fsbench("evaluate", "-m", "run=glob(runs/*)", "--format", "json")
    assert [found["loss"] for found in json.loads(ended.out)] == [one["test_loss"] for one in recorded]
    assert len(fsbench("evaluate", "run=runs/s0,runs/s1", "-m").out.splitlines()) == 2


def test_help(fsbench) -> None:
    assert "  evaluate   loss and accuracy of a trained network, on its own images or on others\n" in fsbench("-h").out
    assert fsbench("evaluate", "--help").out.startswith("fsbench evaluate [-m] run=runs/ID [KEY=VALUE ...]: loss and ")
    assert "split: test\n" in fsbench("evaluate", "--cfg", "job").out


def test_a_failure_is_one_line(fsbench, quick, monkeypatch) -> None:
    trained(fsbench, *quick)

    def broken(*_: object) -> torch.nn.Module:
        raise RuntimeError("no luck\nmore")

    monkeypatch.setattr("fsbench.measuring.evaluation.build_network", broken)
    ended = fsbench("evaluate", "run=runs/run")
    assert (ended.code, ended.err) == (1, "fsbench: runs/run: failed, RuntimeError: no luck\n")
