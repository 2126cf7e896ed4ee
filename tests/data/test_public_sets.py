"""torchvision's data sets, from small files in their original formats."""

from __future__ import annotations

import errno
import gzip
import io
import os
import pickle
import socket
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tiny_sets
import torch
from PIL import Image

from fsbench.config.component import components
from fsbench.config.dataset import DatasetOptions
from fsbench.data import load_data
from fsbench.errors import UsageError

SIZES = {"imagenet": 224, "stanford_cars": 224, "flowers102": 224}
DOWNLOADABLE = ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "flowers102"]
THREE_WAYS = ("put its files below", "point data_dir (or $FSBENCH_DATA) at", "dataset=digits, which needs no download")


def options(name: str) -> DatasetOptions:
    return DatasetOptions.model_validate({"name": name, "image_size": SIZES.get(name)})


def refusal(name: str, data_dir: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_data(options(name), data_dir)
    assert caught.value.key == "data_dir"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "class_name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist(tmp_path, name, class_name):
    arrays = tiny_sets.write_mnist(tmp_path, class_name)
    data = load_data(options(name), tmp_path)
    assert (data.shape, data.classes) == ((1, 28, 28), 10)
    np.testing.assert_array_equal(data.train.images.squeeze(1), arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.train.labels, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.test.images.squeeze(1), arrays["t10k-images-idx3-ubyte"])
    assert data.train.labels.dtype == torch.int64


@pytest.mark.parametrize(("name", "class_name"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar(tmp_path, monkeypatch, name, class_name):
    written = tiny_sets.write_cifar(tmp_path, monkeypatch, class_name)
    data = load_data(options(name), tmp_path)
    *train, (test_images, test_labels) = written.values()
    assert (data.shape, data.classes) == ((3, 32, 32), 10 if name == "cifar10" else 100)
    np.testing.assert_array_equal(data.train.images, np.concatenate([images for images, _ in train]))
    assert data.train.labels.tolist() == [label for _, labels in train for label in labels]
    np.testing.assert_array_equal(data.test.images, test_images)
    assert data.test.labels.tolist() == test_labels
    assert data.class_names[2] == "class 2"


def test_svhn(tmp_path, monkeypatch):
    written = tiny_sets.write_svhn(tmp_path, monkeypatch)
    data = load_data(options("svhn"), tmp_path)
    np.testing.assert_array_equal(data.train.images, written["train"])
    np.testing.assert_array_equal(data.test.images, written["test"])
    assert data.train.labels.tolist() == [i % 10 for i in range(30)]


def test_flowers102_trains_on_train_and_val(tmp_path, monkeypatch):
    tiny_sets.write_flowers(tmp_path, monkeypatch)
    data = load_data(options("flowers102"), tmp_path)
    assert (data.shape, data.classes) == ((3, 224, 224), 102)
    assert [Path(item).stem for item in data.train.items] == [f"image_{i:05d}" for i in range(1, 13)]
    assert data.train.labels.tolist() == [i % 6 for i in range(12)]
    assert len(data.test) == 12
    image, label = data.train[3]
    with Image.open(tmp_path / "flowers-102/jpg/image_00004.jpg") as expected:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert label == 3
    assert "train and val splits together" in data.provenance["variant"]
    assert data.mean == (0.485, 0.456, 0.406)


def test_stanford_cars(tmp_path):
    tiny_sets.write_cars(tmp_path)
    data = load_data(options("stanford_cars"), tmp_path)
    assert data.class_names == ("Acura", "BMW", "Volvo")
    assert data.train.labels.tolist() == [i % 3 for i in range(12)]
    assert len(data.test) == 6
    assert data.test.items[5] == os.path.join("stanford_cars", "cars_test", "00006.jpg")
    assert data.train[2][0].size == (40, 24)


def test_imagenet_is_tested_on_its_validation_split(tmp_path):
    tiny_sets.write_imagenet(tmp_path)
    data = load_data(options("imagenet"), tmp_path)
    assert data.class_names == ("tench", "goldfish", "shark")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    image, label = data.test[5]
    assert (image.mode, label, np.asarray(image)[0, 0, 0] // 80) == ("RGB", 2, 2)


def test_streamed_sha256_follows_sizes_names_and_labels(tmp_path):
    tiny_sets.write_cars(tmp_path)
    first = load_data(options("stanford_cars"), tmp_path).provenance["sha256"]
    assert first == load_data(options("stanford_cars"), tmp_path).provenance["sha256"]
    noisy = components("dataset")["stanford_cars"](image_size=224, noise=0.5)
    assert first != load_data(noisy, tmp_path).provenance["sha256"]
    with (tmp_path / "stanford_cars/cars_train/00001.jpg").open("ab") as file:
        file.write(b"more")
    assert first != load_data(options("stanford_cars"), tmp_path).provenance["sha256"]


# Absent


@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_no_network_names_three_ways_out_and_leaves_nothing(tmp_path, capfd, name):
    data_dir = tmp_path / "not" / "there"
    message = refusal(name, data_dir)
    assert message.startswith(f"data_dir={data_dir}: ")
    assert "could not be downloaded" in message
    assert "no network in tests" in message
    for way in THREE_WAYS:
        assert way in message
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_a_directory_that_was_there_stays_as_it_was(tmp_path):
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "mine.txt").write_text("x")
    refusal("mnist", tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["MNIST", "mine.txt"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("imagenet", "torchvision cannot download it: get it from image-net.org"), ("stanford_cars", "address is gone")],
)
def test_what_cannot_be_downloaded_says_so(tmp_path, name, reason):
    data_dir = tmp_path / "absent"
    message = refusal(name, data_dir)
    assert reason in message
    for way in THREE_WAYS:
        assert way in message
    assert not data_dir.exists()


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    timeouts = []

    def urlopen(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert "could not be downloaded (timed out)" in refusal("cifar10", tmp_path)
    assert 0 < timeouts[0] <= 15
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("code", "text"),
    [(errno.ENOSPC, "cannot be written: the disk is full"), (errno.EROFS, "cannot be written: the file system is")],
)
def test_a_disk_that_cannot_be_written(tmp_path, monkeypatch, code, text):
    def urlopen(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert text in refusal("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "not a directory" in refusal("cifar10", tmp_path / "file")


# Downloads


class Response(io.BytesIO):
    def __init__(self, url: str, content: bytes) -> None:
        super().__init__(content)
        self.url, self.length = url, len(content)


def serve(monkeypatch, files: dict[str, bytes]) -> list[str]:
    asked = []

    def urlopen(request, *args, **kwargs):
        asked.append(request.full_url)
        return Response(request.full_url, files[request.full_url.rsplit("/", 1)[1]])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def packed_mnist(tmp_path, monkeypatch) -> dict[str, bytes]:
    from torchvision.datasets import MNIST

    tiny_sets.write_mnist(tmp_path / "origin")
    packed, resources = {}, []
    for name, _ in MNIST.resources:
        path = tmp_path / "origin" / name
        path.write_bytes(gzip.compress((tmp_path / "origin/MNIST/raw" / name.removesuffix(".gz")).read_bytes()))
        packed[name] = path.read_bytes()
        resources.append((name, tiny_sets.md5(path)))
    monkeypatch.setattr(MNIST, "resources", resources)
    return packed


def test_mnist_is_downloaded_on_first_use_only(tmp_path, monkeypatch, capfd):
    asked = serve(monkeypatch, packed_mnist(tmp_path, monkeypatch))
    data_dir = tmp_path / "data"
    data = load_data(options("mnist"), data_dir)
    assert len(data.train) == 40
    assert asked
    assert sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file()) == [
        f"MNIST/raw/{part}"
        for part in (
            "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
        )
    ]  # fmt: skip
    assert [path.name for path in data_dir.iterdir()] == ["MNIST"]
    assert capfd.readouterr().out == ""
    del asked[:]
    load_data(options("mnist"), data_dir)
    assert asked == []


def test_a_download_with_the_wrong_md5_is_refused(tmp_path, monkeypatch):
    packed = packed_mnist(tmp_path, monkeypatch)
    serve(monkeypatch, {name: content[:-20] for name, content in packed.items()})
    data_dir = tmp_path / "data"
    assert "could not be downloaded" in refusal("mnist", data_dir)
    assert not data_dir.exists()


def packed_cifar(tmp_path, monkeypatch) -> bytes:
    from torchvision.datasets import CIFAR10

    tiny_sets.write_cifar(tmp_path / "origin", monkeypatch)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "origin" / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", tiny_sets.md5(tmp_path / "cifar-10-python.tar.gz"))
    return (tmp_path / "cifar-10-python.tar.gz").read_bytes()


def test_an_archive_put_there_by_hand_is_used_and_kept(tmp_path, monkeypatch):
    content = packed_cifar(tmp_path, monkeypatch)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "cifar-10-python.tar.gz").write_bytes(content)
    assert len(load_data(options("cifar10"), data_dir).train) == 100
    assert sorted(path.name for path in data_dir.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert (data_dir / "cifar-10-python.tar.gz").read_bytes() == content


def test_a_missing_batch_is_downloaded(tmp_path, monkeypatch):
    serve(monkeypatch, {"cifar-10-python.tar.gz": packed_cifar(tmp_path, monkeypatch)})
    data_dir = tmp_path / "origin"
    (data_dir / "cifar-10-batches-py/data_batch_3").unlink()
    assert len(load_data(options("cifar10"), data_dir).train) == 100
    assert [path.name for path in data_dir.iterdir()] == ["cifar-10-batches-py"]


# Corrupt

OBLONG = bytes([0, 0, 0, 14, 0, 0, 0, 56])


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "truncated: 31375 bytes instead of 31376"),
        ("train-images-idx3-ubyte", lambda b: b[:7], "truncated: 7 bytes, the header alone has 16"),
        ("train-images-idx3-ubyte", lambda b: b"", "truncated: 0 bytes, the header alone has 16"),
        ("train-images-idx3-ubyte", lambda b: b + b"0", "too long: 31377 bytes instead of 31376"),
        ("t10k-images-idx3-ubyte", lambda b: b"<html>" + b[6:], "magic number 1013478509 instead of 2051"),
        ("t10k-images-idx3-ubyte", lambda b: b[:8] + OBLONG + b[16:], "images of 14 x 56 instead of 28 x 28"),
        ("train-labels-idx1-ubyte", lambda b: b[:-3], "truncated: 45 bytes instead of 48"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:4] + b"\0\0\0\x13" + b[8:-1], "holds 19 labels for 20 images"),
    ],
    ids=["one byte short", "no header", "empty", "too long", "html", "dimensions", "labels short", "fewer labels"],
)  # fmt: skip
def test_corrupt_mnist(tmp_path, file, change, problem):
    tiny_sets.write_mnist(tmp_path)
    path = tmp_path / "MNIST/raw" / file
    path.write_bytes(change(path.read_bytes()))
    assert refusal("mnist", tmp_path) == (
        f"data_dir={tmp_path}: {path} is corrupt ("
        + ("not the expected idx file: " if "magic" in problem else "")
        + f"{problem}); remove it to have it downloaded again"
    )


def test_mnist_labels_out_of_range(tmp_path):
    tiny_sets.write_mnist(tmp_path)
    path = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    assert "the test labels reach from 0 to 11, allowed are 0 to 9" in refusal("mnist", tmp_path)


@pytest.mark.parametrize("file", ["data_batch_2", "test_batch", "batches.meta"])
def test_cifar_with_a_wrong_md5_is_named_and_never_unpickled(tmp_path, monkeypatch, file):
    tiny_sets.write_cifar(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / file
    path.write_bytes(pickle.dumps(Explosive()))
    message = refusal("cifar10", tmp_path)
    assert f"{path} is corrupt (its md5 is not " in message
    assert not Explosive.went_off


class Explosive:
    went_off = False

    def __reduce__(self):
        return explode, ()


def explode() -> None:
    Explosive.went_off = True


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"images": []})], ids=["empty", "text", "keys"])
def test_a_broken_pickle(tmp_path, monkeypatch, content):
    from torchvision.datasets import CIFAR10

    tiny_sets.write_cifar(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py/test_batch"
    path.write_bytes(content)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", tiny_sets.md5(path)]])
    assert f"CIFAR-10 in {path.parent} is corrupt (" in refusal("cifar10", tmp_path)


def test_corrupt_svhn(tmp_path, monkeypatch):
    tiny_sets.write_svhn(tmp_path, monkeypatch)
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut sh")
    assert f"{tmp_path / 'test_32x32.mat'} is corrupt (its md5 is not " in refusal("svhn", tmp_path)


def test_flowers_with_a_missing_image(tmp_path, monkeypatch):
    tiny_sets.write_flowers(tmp_path, monkeypatch)
    path = tmp_path / "flowers-102/jpg/image_00008.jpg"
    path.unlink()
    assert f"1 of 12 images are missing, the first is {path}" in refusal("flowers102", tmp_path)


def test_cars_with_broken_annotations(tmp_path):
    tiny_sets.write_cars(tmp_path)
    (tmp_path / "stanford_cars/devkit/cars_meta.mat").write_bytes(b"nothing")
    assert f"Stanford Cars in {tmp_path / 'stanford_cars'} is corrupt (" in refusal("stanford_cars", tmp_path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda base: (base / "meta.bin").unlink(), "list of classes is not there"),
        (lambda base: (base / "meta.bin").write_bytes(b"x"), "is corrupt ("),
        (lambda base: (base / "train").rename(base / "training"), "ImageNet is not there (neither "),
        (lambda base: (base / "val/n02").rename(base / "n02"), "lacks 1 of 3 classes (n02, ...)"),
        (lambda base: (base / "val/n02").rename(base / "val/n09"), "lacks 1 of 3 classes (n02, ...)"),
        (lambda base: (base / "val/n09").mkdir(), "has a folder that is no class of ImageNet: n09"),
        (lambda base: [file.unlink() for file in (base / "train/n01").iterdir()], "is corrupt ("),
    ],
    ids=["no meta", "broken meta", "no train", "no class", "other class", "extra class", "empty class"],
)
def test_incomplete_imagenet(tmp_path, damage, problem):
    tiny_sets.write_imagenet(tmp_path)
    damage(tmp_path / "imagenet")
    assert problem in refusal("imagenet", tmp_path)
