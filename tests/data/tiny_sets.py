"""Writes tiny data sets in the layouts that torchvision reads."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx_file(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape) + array.tobytes()


def save_image(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_mnist(root: Path, class_name: str = "MNIST") -> dict[str, np.ndarray]:
    arrays = {
        "train-images-idx3-ubyte": pixels(40, 28, 28, seed=1),
        "train-labels-idx1-ubyte": np.arange(40, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": pixels(20, 28, 28, seed=2),
        "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    }
    raw = root / class_name / "raw"
    raw.mkdir(parents=True)
    for name, array in arrays.items():
        (raw / name).write_bytes(idx_file(array))
    return arrays


def write_cifar(root: Path, monkeypatch, class_name: str = "CIFAR10") -> dict[str, tuple[np.ndarray, list[int]]]:
    """Small pickles in the original form; torchvision's list of md5s is made to fit."""
    from torchvision import datasets

    known = getattr(datasets, class_name)
    folder = root / known.base_folder
    folder.mkdir(parents=True)
    key, classes = ("labels", 10) if class_name == "CIFAR10" else ("fine_labels", 100)
    written: dict[str, tuple[np.ndarray, list[int]]] = {}
    lists = {}
    for which in ("train_list", "test_list"):
        lists[which] = []
        for file, _ in getattr(known, which):
            data, labels = pixels(20, 3072, seed=len(written)), [int(i) % classes for i in range(20)]
            written[file] = data.reshape(-1, 3, 32, 32), labels
            (folder / file).write_bytes(pickle.dumps({"data": data, key: labels}))
            lists[which].append([file, md5(folder / file)])
    meta = dict(known.meta)
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [f"class {i}" for i in range(classes)]}))
    meta["md5"] = md5(folder / meta["filename"])
    for name, value in {**lists, "meta": meta}.items():
        monkeypatch.setattr(known, name, value)
    return written


def write_svhn(root: Path, monkeypatch) -> dict[str, np.ndarray]:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    split_list, written = {}, {}
    for seed, split in enumerate(("train", "test")):
        url, file, _ = SVHN.split_list[split]
        images = pixels(30, 3, 32, 32, seed=seed)
        # As in the original files, the digit 0 has the label 10.
        labels = np.where(np.arange(30) % 10 == 0, 10, np.arange(30) % 10).astype(np.uint8)
        savemat(root / file, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None]})
        split_list[split] = [url, file, md5(root / file)]
        written[split] = images
    monkeypatch.setattr(SVHN, "split_list", split_list)
    return written


def write_flowers(root: Path, monkeypatch) -> None:
    """Images 1..6 train, 7..12 val, 13..24 test; image i has class (i - 1) % 6."""
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    base = root / "flowers-102"
    for i in range(1, 25):
        save_image(base / "jpg" / f"image_{i:05d}.jpg", np.full((20 + i, 30, 3), 10 * i, np.uint8))
    savemat(base / "imagelabels.mat", {"labels": (np.arange(24) % 6 + 1)[None]})
    ids = {"trnid": np.arange(1, 7), "valid": np.arange(7, 13), "tstid": np.arange(13, 25)}
    savemat(base / "setid.mat", {key: value[None] for key, value in ids.items()})
    files = dict(Flowers102._file_dict)
    for part, file in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        files[part] = (file, md5(base / file))
    monkeypatch.setattr(Flowers102, "_file_dict", files)


def write_cars(root: Path) -> None:
    """12 training images, 6 test images of 3 classes, as in the devkit."""
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    for part, count, listing in (
        ("cars_train", 12, "devkit/cars_train_annos.mat"),
        ("cars_test", 6, "cars_test_annos_withlabels.mat"),
    ):
        rows = np.zeros((1, count), dtype=[("class", object), ("fname", object)])
        for i in range(count):
            rows[0, i] = (np.array([[i % 3 + 1]], dtype=np.uint8), f"{i + 1:05d}.jpg")
            save_image(base / part / f"{i + 1:05d}.jpg", np.full((24, 40, 3), 20 * i, np.uint8))
        savemat(base / listing, {"annotations": rows})
    names = np.empty((1, 3), dtype=object)
    names[0] = ["Acura", "BMW", "Volvo"]
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})


def write_imagenet(root: Path) -> None:
    """Three classes; 4 training and 2 validation images each."""
    base = root / "imagenet"
    wnids = {"n01": ("tench", "Tinca tinca"), "n02": ("goldfish",), "n03": ("shark",)}
    for label, wnid in enumerate(wnids):
        for part, count in (("train", 4), ("val", 2)):
            for i in range(count):
                save_image(base / part / wnid / f"{i}.JPEG", np.full((32, 48, 3), 80 * label + i, np.uint8))
    torch.save((wnids, []), base / "meta.bin")


def write_folder(root: Path, size: tuple[int, int] = (12, 12), grey: bool = False, train: int = 10) -> dict:
    """Three classes of PNGs (lossless), `train` and 4 images each; returns the arrays by relative path."""
    written = {}
    for label, name in enumerate(("ant", "bee", "cat")):
        for part, count in (("train", train), ("test", 4)):
            for i in range(count):
                array = pixels(*size, *(() if grey else (3,)), seed=1000 * label + 10 * i + (part == "test"))
                save_image(root / part / name / f"{i:02d}.png", array)
                written[f"{part}/{name}/{i:02d}.png"] = array
    return written
