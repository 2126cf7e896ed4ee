"""Loading weights from a file."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from model_cases import CIFAR, MNIST, options
from safetensors.torch import save_file

from fsbench.errors import UsageError
from fsbench.models import build_model


def lenet(seed: int, classes: int = 10, checkpoint: Path | None = None) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(options("lenet", checkpoint=None if checkpoint is None else str(checkpoint)), MNIST, classes)


def assert_equal(model: torch.nn.Module, weights: dict[str, torch.Tensor], except_for: str = "none") -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]) != name.startswith(except_for), name


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def prefixed(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


SAVED = {
    "safetensors": lambda weights, path: save_file(weights, path),
    "torch": lambda weights, path: torch.save(weights, path),
    "torch legacy": legacy,
    "under model": lambda weights, path: torch.save({"model": weights, "epoch": 3}, path),
    "under net": lambda weights, path: torch.save({"net": weights, "acc": 93.1, "epoch": 3}, path),
    "under a word of its own": lambda weights, path: torch.save({"mine": weights, "epoch": 3}, path),
    "DataParallel": lambda weights, path: torch.save(prefixed(weights, "module."), path),
    "compiled": lambda weights, path: save_file(prefixed(weights, "_orig_mod."), path),
    "compiled in DataParallel": lambda weights, path: torch.save(prefixed(weights, "module._orig_mod."), path),
    "Lightning": lambda weights, path: torch.save({"state_dict": prefixed(weights, "model."), "epoch": 1}, path),
    "beside an average": lambda weights, path: torch.save(
        {"model_ema": {n: w + 1 for n, w in weights.items()}, "model": weights}, path
    ),
    "under state_dict": lambda weights, path: torch.save({"state_dict": weights, "lr": 0.1}, path),
}


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("name", ["weights", "weights.safetensors", "weights.pth"])
def test_weights_are_loaded_whatever_the_file_is_called(tmp_path, save, name):
    source = lenet(1).state_dict()
    save(source, tmp_path / name)
    model = lenet(2, checkpoint=tmp_path / name)
    assert_equal(model, source)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_classifier_of_another_size_stays_as_initialised(tmp_path, caplog):
    path = tmp_path / "lenet.safetensors"
    source = lenet(1, classes=7).state_dict()
    save_file(source, path)
    with caplog.at_level(logging.INFO, "fsbench"):
        model = lenet(2, checkpoint=path)
    initial = lenet(2).state_dict()
    expected = {name: initial[name] if name.startswith("linear3") else source[name] for name in source}
    assert_equal(model, expected)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the classifier linear3 has 7 outputs, not 10, and stays as initialised"
    ]


def test_a_classifier_of_timm_is_known_by_its_name(tmp_path):
    path = tmp_path / "deit.pth"
    tiny = {"name": "deit_tiny_distilled_patch16_224"}
    source = build_model(options("timm", **tiny), CIFAR, 5).state_dict()
    torch.save({"model": source}, path)
    model = build_model(options("timm", **tiny, checkpoint=str(path)), CIFAR, 6)
    for name, tensor in model.state_dict().items():
        assert name.startswith("head") or torch.equal(tensor, source[name])


def test_batchnorm_statistics_are_loaded(tmp_path):
    path = tmp_path / "resnet.safetensors"
    source = build_model(options("resnet20"), CIFAR, 10)
    source(torch.randn(4, *CIFAR))
    save_file(source.state_dict(), path)
    model = build_model(options("resnet20", checkpoint=str(path)), CIFAR, 10)
    assert_equal(model, source.state_dict())
    assert model.bn1.num_batches_tracked == 1


def test_old_files_without_counted_batches_are_taken(tmp_path):
    path = tmp_path / "resnet.pth"
    source = build_model(options("resnet20"), CIFAR, 10).state_dict()
    torch.save({name: value for name, value in source.items() if "num_batches" not in name}, path)
    assert_equal(build_model(options("resnet20", checkpoint=str(path)), CIFAR, 10), source)


class Code:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    weights, trap = lenet(1).state_dict(), tmp_path / "executed"
    saved = {
        "torch": lambda path: torch.save({**weights, "code": Code(trap)}, path),
        "legacy": lambda path: legacy({**weights, "code": Code(trap)}, path),
        "pickle": lambda path: path.write_bytes(pickle.dumps(Code(trap))),
    }
    for name, save in saved.items():
        path = tmp_path / name
        save(path)
        problem = "is damaged or holds more than tensors and plain values; code in a checkpoint is never run"
        with pytest.raises(UsageError, match=f"^{re.escape(f'model.checkpoint={path}: {problem}')}$"):
            lenet(2, checkpoint=path)
        assert not trap.exists()
    pickle.loads((tmp_path / "pickle").read_bytes())  # the trap is a real one
    assert trap.exists()


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_files_are_refused(tmp_path, save, share):
    path = tmp_path / "weights"
    save(lenet(1).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match=f"^model.checkpoint={re.escape(str(path))}: .*damaged"):
        lenet(2, checkpoint=path)


CHANGED = [
    ("nothing", lambda w: {}, "holds no weights; a table of tensors by name is needed"),
    ("a tensor", lambda w: torch.ones(2), "holds no weights; a table of tensors by name is needed"),
    ("number", lambda w: {**w, "step": 3}, "holds more than tensors by name: 'step' is of type int"),
    (
        "lacks",
        lambda w: {name: value for name, value in w.items() if not name.startswith(("conv1", "linear1"))},
        "holds the weights of another network: the file lacks conv1.weight, conv1.bias and 2 more",
    ),
    (
        "unknown",
        lambda w: {**w, "conv9.weight": torch.ones(1)},
        "holds the weights of another network: the file has conv9.weight, which the network doesn't",
    ),
    (
        "both",
        lambda w: {f"net.{name}9": value for name, value in w.items()},
        "holds the weights of another network: the file lacks conv1.weight, conv1.bias and 8 more "
        "and has net.conv1.weight9, net.conv1.bias9 and 8 more, which the network doesn't",
    ),
    ("two tables", lambda w: {"a": w, "b": w}, "tables of tensors lie under the keys a, b; keep one"),
    (
        "shape",
        lambda w: {**w, "conv1.weight": torch.ones(6, 3, 5, 5)},
        "holds the weights of another network: conv1.weight has shape (6, 3, 5, 5) in the file and (6, 1, 5, 5) here",
    ),
    (
        "inputs of the classifier",
        lambda w: {**w, "linear3.weight": torch.ones(7, 50)},
        "holds the weights of another network: linear3.weight has shape (7, 50) in the file and (10, 84) here",
    ),
]


@pytest.mark.parametrize(("change", "problem"), [case[1:] for case in CHANGED], ids=[case[0] for case in CHANGED])
def test_other_weights_are_refused(tmp_path, change, problem):
    path = tmp_path / "weights"
    torch.save(change(lenet(1).state_dict()), path)
    with pytest.raises(UsageError, match=f"^{re.escape(f'model.checkpoint={path}: {problem}')}$"):
        lenet(2, checkpoint=path)


@pytest.mark.parametrize("name", ["absent.pth", "."], ids=["absent", "folder"])
def test_missing_files_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"^model\.checkpoint=.*: there is no such file$"):
        lenet(2, checkpoint=tmp_path / name)
