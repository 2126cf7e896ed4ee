"""A folder of images as files: which are taken, which are passed over, whether they have changed. Needs no torch."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from fsbench.errors import UsageError

KEY = "dataset.root"
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Pillow would open all that it knows, PostScript (in Ghostscript) among them. Some .jpg that one meets are GIF.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")

_SHOWN = 6


@dataclass
class FolderPart:
    """The images of ROOT/train or ROOT/test: paths relative to ROOT, their classes by number, their sizes in bytes."""

    classes: list[str]
    items: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By kind (an ending, "folder") what lies there and is neither taken nor hidden."""


def folder_parts(base: Path) -> tuple[FolderPart, FolderPart]:
    """Training and test images, classes in alphabetical order of their folders' names.

    Raises:
        UsageError: naming dataset.root: a directory or its images are missing, the classes of the two differ.
    """
    if not base.is_dir():
        raise refused(base, "is not a directory" if base.exists() else "there is no such directory")
    train, test = _part(base, "train"), _part(base, "test")
    spelt: dict[str, str] = {}
    for name in sorted({*train.classes, *test.classes}):
        if (other := spelt.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise refused(base, f"classes {other!a} and {name!a} differ only in how letters are composed; rename one")
    if train.classes != test.classes:
        for one, rest, here, there in ((train, test, "train", "test"), (test, train, "test", "train")):
            if lacking := sorted(set(one.classes) - set(rest.classes)):
                raise refused(base, f"class {lacking[0]!r} is in {here}/ but not in {there}/; both need all classes")
    return train, test


def files_digest(*parts: FolderPart) -> str:
    """sha256 of the images' names and sizes in bytes; they are not read."""
    digest = hashlib.sha256()
    for part in parts:
        for item, size in zip(part.items, part.sizes, strict=True):
            digest.update(f"{item}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def list_of(passed_over: dict[str, list[str]]) -> str:
    """`3 .tif (train/a/x.tif, ...), 1 folder (train/a/more/)`."""
    kinds = sorted(passed_over.items(), key=lambda kind: -len(kind[1]))
    said = [f"{len(paths)} {kind} ({paths[0]}{', ...' * (len(paths) > 1)})" for kind, paths in kinds[:_SHOWN]]
    return ", ".join(said + ["..."] * (len(kinds) > _SHOWN))


def refused(base: Path, problem: str) -> UsageError:
    return UsageError(KEY, base, problem)


def _part(base: Path, part: str) -> FolderPart:
    if not (base / part).is_dir():
        raise refused(base, f"has no directory {part}/; needed are train/<class>/ and test/<class>/")
    try:
        entries = _entries(base / part)
        found = FolderPart([entry.name for entry in entries if entry.is_dir()])
        for entry in entries:
            if not entry.is_dir():
                found.passed_over[_kind(entry)].append(f"{part}/{entry.name}")
        for label, name in enumerate(found.classes):
            _take(found, base, os.path.join(part, name), label)
    except OSError as failure:
        raise refused(base, f"cannot be read ({failure.strerror}: {failure.filename})") from None
    if len(found.classes) < 2:
        only = f"only one class, {found.classes[0]!r}" if found.classes else "no class folders"
        raise refused(base, f"{part}/ has {only}; at least two are needed, as {part}/<class>/<image>")
    return found


def _take(found: FolderPart, base: Path, directory: str, label: int) -> None:
    taken, passed_over = len(found.items), defaultdict(list)
    for entry in _entries(base / directory):
        path = os.path.join(directory, entry.name)
        if entry.is_dir():
            passed_over["folder"].append(f"{path}/")
        elif entry.name.lower().endswith(ENDINGS):
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                raise refused(base, f"{path} is not a file; replace or remove it")
            found.items.append(path)
            found.labels.append(label)
            found.sizes.append(status.st_size)
        else:
            passed_over[_kind(entry)].append(path)
    if len(found.items) == taken:
        there = f"; there are {list_of(passed_over)}" if passed_over else ""
        counted = ", ".join(ending[1:] for ending in ENDINGS)
        raise refused(base, f"{directory}/ has no images; counted are {counted}{there}")
    for kind, paths in passed_over.items():
        found.passed_over[kind] += paths


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _kind(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower() or "without ending"
