"""The public data sets, read by torchvision's own classes in torchvision's own layouts."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from fsbench.config.dataset import DatasetOptions
from fsbench.data.download import fetch, ways_out
from fsbench.data.splits import MemorySplit, RawData, StreamingSplit
from fsbench.errors import UsageError

IMAGES, LABELS = 2051, 2049


def idx_problem(path: Path, magic: int, image_shape: tuple[int, ...]) -> tuple[str | None, int]:
    """A line about what is wrong with the file, or None, and N, the number of examples that its header announces.

    The form: magic number, then one big-endian uint32 per dimension (N first), then N x image_shape bytes.
    """
    header = 4 * (2 + len(image_shape))
    with path.open("rb") as file:
        start = file.read(header)
    if len(start) < header:
        return f"truncated: {len(start)} bytes, the header alone has {header}", 0
    found, count, *shape = struct.unpack(f">{len(start) // 4}I", start)
    expected, size = header + count * math.prod(image_shape), path.stat().st_size
    problem = None
    if found != magic:
        problem = f"not the expected idx file: magic number {found} instead of {magic}"
    elif tuple(shape) != image_shape:
        problem = f"images of {' x '.join(map(str, shape))} instead of {' x '.join(map(str, image_shape))}"
    elif size != expected:
        problem = f"{'truncated' if size < expected else 'too long'}: {size} bytes instead of {expected}"
    return problem, count


@dataclass(frozen=True)
class PublicSet:
    """The files of one of torchvision's data sets on disk.

    Args:
        folder: what to name in messages about it, relative to data_dir.
        files: what has to be there, relative to data_dir, with its md5 where torchvision knows one.
        read: data_dir to the data; torchvision checks the md5s before it opens a pickle.
        download: torchvision's download into a directory; None where there is none.
        sources: what `download` would fetch, with md5s.
        verify: raises UsageError for what torchvision doesn't notice.
    """

    label: str
    folder: str
    files: list[tuple[str, str | None]]
    read: Callable[[Path], RawData]
    download: Callable[[Path], object] | None = None
    sources: list[tuple[str, str]] = field(default_factory=list)
    verify: Callable[[Path], None] = lambda data_dir: None
    how_to_get: str = ""


def _loaded(public: PublicSet, data_dir: Path) -> RawData:
    """The data set, downloaded first where it isn't there.

    Raises:
        UsageError: absent and not to be had, or corrupt; names the file or folder.
    """
    absent = next((data_dir / file for file, _ in public.files if not (data_dir / file).exists()), None)
    if absent is not None:
        if public.download is None:
            problem = f"{public.label} is not there ({absent} is missing). {public.how_to_get}. {ways_out(data_dir)}"
            raise UsageError("data_dir", data_dir, problem)
        fetch(public.label, data_dir, public.download, public.sources, missing=absent)
    public.verify(data_dir)
    try:
        return public.read(data_dir)
    except (UsageError, MemoryError):
        raise
    except Exception as failure:  # a corrupt file can fail in any way that numpy, scipy or pickle know
        raise _corrupt(public, data_dir, failure) from None


def _corrupt(public: PublicSet, data_dir: Path, failure: Exception) -> UsageError:
    from torchvision.datasets.utils import check_integrity

    for file, md5 in public.files:
        try:
            if md5 is not None and not check_integrity(data_dir / file, md5):
                problem = f"{data_dir / file} is corrupt (its md5 is not {md5}); remove it to have it downloaded again"
                return UsageError("data_dir", data_dir, problem)
        except OSError as unreadable:
            return UsageError("data_dir", data_dir, f"{data_dir / file} cannot be read ({unreadable.strerror})")
    reason = " ".join(str(failure).split())
    problem = f"{public.label} in {data_dir / public.folder} is corrupt ({type(failure).__name__}: {reason})"
    return UsageError("data_dir", data_dir, problem)


def _mnist(class_name: str, label: str) -> PublicSet:
    from torchvision import datasets

    known = getattr(datasets, class_name)
    raw = f"{class_name}/raw"
    gz = [name for name, _ in known.resources]
    files = [f"{raw}/{name.removesuffix('.gz')}" for name in gz]

    def verify(data_dir: Path) -> None:
        # torchvision checks the md5 of the archives only; a file once unpacked it reads as it is.
        for images, labels in (files[:2], files[2:]):
            counts = []
            for file, magic, shape in ((images, IMAGES, (28, 28)), (labels, LABELS, ())):
                try:
                    problem, count = idx_problem(data_dir / file, magic, shape)
                except OSError as failure:
                    problem, count = f"cannot be read ({failure.strerror})", 0
                counts.append(count)
                if problem is None and count != counts[0]:
                    problem = f"holds {count} labels for {counts[0]} images"
                if problem is not None:
                    again = "remove it to have it downloaded again"
                    raise UsageError("data_dir", data_dir, f"{data_dir / file} is corrupt ({problem}); {again}")

    def read(data_dir: Path) -> RawData:
        train, test = (known(data_dir, train=train) for train in (True, False))
        return RawData(
            train=MemorySplit(train.data.unsqueeze(1), train.targets),
            test=MemorySplit(test.data.unsqueeze(1), test.targets),
            class_names=tuple(known.classes),
            variant=f"torchvision {class_name}, idx headers and sizes checked",
        )

    return PublicSet(
        label=label,
        folder=raw,
        files=[(file, None) for file in files],
        read=read,
        download=lambda root: known(root, download=True),
        sources=[(f"{raw}/{name}", md5) for name, md5 in known.resources],
        verify=verify,
    )


def _cifar(class_name: str, label: str) -> PublicSet:
    from torchvision import datasets

    known = getattr(datasets, class_name)
    listed = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]

    def read(data_dir: Path) -> RawData:
        train, test = (known(data_dir, train=train) for train in (True, False))
        return RawData(
            train=_memory(train.data.transpose(0, 3, 1, 2), train.targets),
            test=_memory(test.data.transpose(0, 3, 1, 2), test.targets),
            class_names=tuple(train.classes),
            variant=f"torchvision {class_name}, md5 checked",
        )

    return PublicSet(
        label=label,
        folder=known.base_folder,
        files=[(f"{known.base_folder}/{name}", md5) for name, md5 in listed],
        read=read,
        download=lambda root: known(root, download=True),
        sources=[(known.filename, known.tgz_md5)],
    )


def _svhn() -> PublicSet:
    from torchvision.datasets import SVHN

    files = [(file, md5) for _, file, md5 in (SVHN.split_list["train"], SVHN.split_list["test"])]

    def read(data_dir: Path) -> RawData:
        train, test = (SVHN(data_dir, split=split) for split in ("train", "test"))
        return RawData(
            train=_memory(train.data, train.labels),
            test=_memory(test.data, test.labels),
            class_names=tuple(str(digit) for digit in range(10)),
            variant="torchvision SVHN (train and test, without extra), md5 checked",
        )

    return PublicSet(
        label="SVHN",
        folder="train_32x32.mat",
        files=files,
        read=read,
        download=lambda root: [SVHN(root, split=split, download=True) for split in ("train", "test")],
        sources=files,
    )


def _flowers102() -> PublicSet:
    from torchvision.datasets import Flowers102

    base, known = "flowers-102", Flowers102._file_dict

    def read(data_dir: Path) -> RawData:
        train, validation, test = (
            list(zip(part._image_files, part._labels, strict=True))
            for part in (Flowers102(data_dir, split=split) for split in ("train", "val", "test"))
        )
        return RawData(
            train=_streaming(data_dir, train + validation),
            test=_streaming(data_dir, test),
            class_names=tuple(Flowers102.classes),
            variant="torchvision Flowers102, trained on its train and val splits together, label files' md5 checked",
        )

    return PublicSet(
        label="Flowers-102",
        folder=base,
        files=[(f"{base}/jpg", None), *((f"{base}/{known[part][0]}", known[part][1]) for part in ("label", "setid"))],
        read=read,
        download=lambda root: Flowers102(root, download=True),
        sources=[(f"{base}/{name}", md5) for name, md5 in known.values()],
    )


def _stanford_cars() -> PublicSet:
    from torchvision.datasets import StanfordCars

    base = "stanford_cars"

    def read(data_dir: Path) -> RawData:
        train, test = (StanfordCars(data_dir, split=split) for split in ("train", "test"))
        return RawData(
            train=_streaming(data_dir, train._samples),
            test=_streaming(data_dir, test._samples),
            class_names=tuple(train.classes),
            variant="torchvision StanfordCars, file lists checked",
        )

    files = ("cars_train", "cars_test", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat")
    return PublicSet(
        label="Stanford Cars",
        folder=base,
        files=[(f"{base}/{file}", None) for file in (*files, "cars_test_annos_withlabels.mat")],
        read=read,
        how_to_get="Its original address is gone, so torchvision cannot download it",
    )


def _imagenet() -> PublicSet:
    from torchvision.datasets import ImageNet
    from torchvision.datasets.imagenet import META_FILE, load_meta_file, parse_devkit_archive

    base = "imagenet"

    def read(data_dir: Path) -> RawData:
        root = data_dir / base
        if not (root / META_FILE).is_file():
            parse_devkit_archive(root)
        wanted = set(load_meta_file(root)[0])
        for folder in filter(Path.is_dir, (root / "train", root / "val")):
            found = {entry.name for entry in folder.iterdir() if entry.is_dir()}
            if lacking := sorted(wanted - found):
                problem = f"{folder} lacks {len(lacking)} of {len(wanted)} classes ({lacking[0]}, ...)"
                raise UsageError("data_dir", data_dir, problem)
            if excess := sorted(found - wanted):
                raise UsageError(
                    "data_dir", data_dir, f"{folder} has a folder that is no class of ImageNet: {excess[0]}"
                )
        train, test = (ImageNet(root, split=split) for split in ("train", "val"))
        return RawData(
            train=_streaming(data_dir, train.samples, check=False),
            test=_streaming(data_dir, test.samples, check=False),
            class_names=tuple(names[0] for names in train.classes),
            variant="torchvision ImageNet (ILSVRC 2012), tested on its validation split",
        )

    def verify(data_dir: Path) -> None:
        root = data_dir / base
        for part, archive in (("train", "ILSVRC2012_img_train.tar"), ("val", "ILSVRC2012_img_val.tar")):
            if not (root / part).is_dir() and not (root / archive).is_file():
                problem = f"ImageNet is not there (neither {root / part} nor {archive} beside it). {how_to_get}"
                raise UsageError("data_dir", data_dir, f"{problem}. {ways_out(data_dir)}")
        devkit = "ILSVRC2012_devkit_t12.tar.gz"
        if not (root / META_FILE).is_file() and not (root / devkit).is_file():
            problem = f"ImageNet's list of classes is not there ({root / devkit} is missing). {how_to_get}"
            raise UsageError("data_dir", data_dir, f"{problem}. {ways_out(data_dir)}")

    how_to_get = "torchvision cannot download it: get it from image-net.org and lay it out as torchvision's ImageNet"
    return PublicSet(
        label="ImageNet",
        folder=base,
        files=[(base, None)],
        read=read,
        verify=verify,
        how_to_get=how_to_get,
    )


def _memory(images: np.ndarray, labels: object) -> MemorySplit:
    if images.dtype != np.uint8:
        raise TypeError(f"images are {images.dtype}, not uint8")
    return MemorySplit(torch.from_numpy(np.ascontiguousarray(images)), torch.as_tensor(labels, dtype=torch.int64))


def _streaming(data_dir: Path, samples: list[tuple[Path | str, int]], check: bool = True) -> StreamingSplit:
    """Args: check: refuse the list where one of its files is missing."""
    files = [Path(file) for file, _ in samples]
    if check:
        there = {folder: {entry.name for entry in folder.iterdir()} for folder in {file.parent for file in files}}
        if lacking := [file for file in files if file.name not in there[file.parent]]:
            problem = f"{len(lacking)} of {len(files)} images are missing, the first is {lacking[0]}"
            raise UsageError("data_dir", data_dir, problem)
    return StreamingSplit(
        key="data_dir",
        base=str(data_dir),
        items=tuple(str(file.relative_to(data_dir)) for file in files),
        labels=torch.tensor([int(label) for _, label in samples], dtype=torch.int64),
    )


def _builder(public: Callable[..., PublicSet], *names: str) -> Callable[[DatasetOptions, Path], RawData]:
    return lambda options, data_dir: _loaded(public(*names), data_dir)


mnist = _builder(_mnist, "MNIST", "MNIST")
fashion_mnist = _builder(_mnist, "FashionMNIST", "Fashion-MNIST")
cifar10 = _builder(_cifar, "CIFAR10", "CIFAR-10")
cifar100 = _builder(_cifar, "CIFAR100", "CIFAR-100")
svhn = _builder(_svhn)
flowers102 = _builder(_flowers102)
stanford_cars = _builder(_stanford_cars)
imagenet = _builder(_imagenet)
