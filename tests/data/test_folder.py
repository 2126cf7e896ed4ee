"""dataset=folder: anyone's images."""

from __future__ import annotations

import os
import shutil
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny_sets
import torch
from PIL import EpsImagePlugin, Image

from fsbench.config.dataset import Folder
from fsbench.data import MemorySplit, StreamingSplit, load_data
from fsbench.errors import UsageError


def folder(root: Path, **options):
    return load_data(Folder(root=str(root), **options), Path("unused"))


def refusal(root: Path, **options) -> str:
    with pytest.raises(UsageError) as caught:
        folder(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_small_images_of_one_size_live_in_memory(tmp_path):
    written = tiny_sets.write_folder(tmp_path / "Insects")
    data = folder(tmp_path / "Insects")
    assert isinstance(data.train, MemorySplit)
    assert (data.shape, data.classes, data.class_names) == ((3, 12, 12), 3, ("ant", "bee", "cat"))
    expected = [written[name] for name in sorted(written) if name.startswith("train/")]
    np.testing.assert_array_equal(data.train.images.permute(0, 2, 3, 1), np.stack(expected))
    assert data.train.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.provenance["label"] == "Insects"
    pixels = np.stack(expected) / 255
    assert data.mean == pytest.approx(tuple(pixels.mean((0, 1, 2))), abs=1e-12)
    assert data.std == pytest.approx(tuple(pixels.std((0, 1, 2))), abs=1e-12)


def test_label_and_relative_root(tmp_path, monkeypatch):
    tiny_sets.write_folder(tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert folder(Path(".")).provenance["label"] == "copy"
    assert folder(Path("."), label="CIFAR-10 (JPEG copy)").provenance["label"] == "CIFAR-10 (JPEG copy)"


def test_all_grey_is_one_channel(tmp_path):
    written = tiny_sets.write_folder(tmp_path, grey=True)
    data = folder(tmp_path)
    assert (data.shape, len(data.mean)) == ((1, 12, 12), 1)
    np.testing.assert_array_equal(data.train.images[0, 0], written["train/ant/00.png"])


def test_some_grey_becomes_rgb(tmp_path):
    written = tiny_sets.write_folder(tmp_path)
    grey = tiny_sets.pixels(12, 12, seed=99)
    tiny_sets.save_image(tmp_path / "train/bee/03.png", grey)
    data = folder(tmp_path)
    assert data.shape == (3, 12, 12)
    for channel in range(3):
        np.testing.assert_array_equal(data.train.images[13, channel], grey)
    np.testing.assert_array_equal(data.train.images[12].permute(1, 2, 0), written["train/bee/02.png"])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((12, 12), 257 * 77, np.uint16)), (77, 77, 77)),
        (Image.new("1", (12, 12), 1), (255, 255, 255)),
        (Image.new("LA", (12, 12), (50, 0)), (50, 50, 50)),
        (Image.new("RGBA", (12, 12), (1, 2, 3, 100)), (1, 2, 3)),
        (Image.new("RGB", (12, 12), (9, 8, 7)).quantize(4), (9, 8, 7)),
    ],
    ids=["16 bit", "1 bit", "grey with alpha", "alpha", "palette"],
)
def test_modes_of_png(tmp_path, image, expected):
    tiny_sets.write_folder(tmp_path)
    options = {"transparency": b"\x80\x40"} if image.mode == "P" else {}
    image.save(tmp_path / "train/ant/00.png", **options)
    assert folder(tmp_path).train.images[0, :, 5, 5].tolist() == list(expected)


def test_endings_hidden_and_other_files(tmp_path):
    tiny_sets.write_folder(tmp_path)
    for ending in ("JPG", "jpeg", "bmp", "webp"):
        Image.new("RGB", (12, 12)).save(tmp_path / f"train/ant/zz.{ending}")
    for name in ("train/ant/notes.txt", "train/ant/._00.png", "train/README.md"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "train/.cache").mkdir()
    assert folder(tmp_path).train.labels.bincount().tolist() == [14, 10, 10]


def test_large_images_are_streamed(tmp_path):
    tiny_sets.write_folder(tmp_path, size=(65, 70), train=2)
    data = folder(tmp_path, image_size=65)
    assert isinstance(data.train, StreamingSplit)
    assert data.shape == (3, 65, 65)
    assert data.mean == (0.485, 0.456, 0.406)
    assert "dataset.image_size=null: must be a number of pixels" in refusal(tmp_path)


def test_large_images_with_a_small_image_size_are_resized_into_memory(tmp_path):
    written = tiny_sets.write_folder(tmp_path, size=(65, 70), train=2)
    data = folder(tmp_path, image_size=16)
    assert tuple(data.train.images.shape) == (6, 3, 16, 16)
    expected = Image.fromarray(written["train/ant/01.png"]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.train.images[1].permute(1, 2, 0), np.asarray(expected))


def test_small_images_with_a_large_image_size_stay_small_in_memory(tmp_path):
    tiny_sets.write_folder(tmp_path)
    data = folder(tmp_path, image_size=224)
    assert tuple(data.train.images.shape[1:]) == (3, 12, 12)
    assert data.shape == (3, 224, 224)


def test_differing_sizes(tmp_path):
    written = tiny_sets.write_folder(tmp_path)
    odd = tiny_sets.pixels(20, 14, 3)
    tiny_sets.save_image(tmp_path / "train/bee/03.png", odd)
    message = refusal(tmp_path, in_memory=True)
    assert message == (
        "dataset.image_size=null: must be a number, because images differ in size: "
        "train/ant/00.png is 12 x 12, train/bee/03.png is 14 x 20"
    )
    data = folder(tmp_path, image_size=12)
    np.testing.assert_array_equal(data.train.images[0].permute(1, 2, 0), written["train/ant/00.png"])
    expected = Image.fromarray(odd).resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.train.images[13].permute(1, 2, 0), np.asarray(expected))


def remove(path: str):
    return lambda root: shutil.rmtree(root / path)


def emptied(path: str):
    return lambda root: [file.unlink() for file in (root / path).iterdir()]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove("."), "there is no such directory"),
        (lambda root: (shutil.rmtree(root), root.write_text("x")), "is not a directory"),
        (remove("train"), "has no directory train/; needed are train/<class>/ and test/<class>/"),
        (remove("test"), "has no directory test/; needed are train/<class>/ and test/<class>/"),
        (remove("test/bee"), "class 'bee' is in train/ but not in test/; both need all classes"),
        (remove("train/cat"), "class 'cat' is in test/ but not in train/; both need all classes"),
        (emptied("test/bee"), "test/bee/ has no images; counted are png, jpg, jpeg, bmp, webp"),
        (lambda root: [remove(f"train/{name}")(root) for name in ("ant", "bee", "cat")], "train/ has no class folders"),
        (lambda root: [remove(f"train/{name}")(root) for name in ("ant", "bee")], "train/ has only one class, 'cat'"),
    ],
    ids=[
        "no root",
        "file",
        "no train",
        "no test",
        "test class",
        "train class",
        "empty class",
        "no classes",
        "one class",
    ],
)
def test_incomplete_folders(tmp_path, damage, problem):
    root = tmp_path / "images"
    tiny_sets.write_folder(root)
    damage(root)
    assert refusal(root).startswith(f"dataset.root={root}: {problem}")


@pytest.mark.parametrize("item", ["train/ant/00.png", "train/cat/07.png", "test/bee/02.png"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is not an image"), (b"some text", "is not an image"), (None, "cannot be decoded (")],
    ids=["empty", "text", "truncated"],
)
def test_unreadable_images_are_named(tmp_path, item, content, problem):
    tiny_sets.write_folder(tmp_path)
    path = tmp_path / item
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    message = refusal(tmp_path)
    assert message.startswith(f"dataset.root={tmp_path}: {path} {problem}")
    assert message.endswith("; replace or remove it")


def test_streamed_folder_has_no_paths_of_its_place_in_its_hash(tmp_path):
    tiny_sets.write_folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (folder(tmp_path / name, in_memory=False, image_size=12) for name in "ab")
    assert first.provenance["sha256"] == second.provenance["sha256"]
    assert first.train.items[0] == os.path.join("train", "ant", "00.png")
    assert torch.equal(first.train.labels, second.train.labels)


def passed_over(root: Path, caplog, **options) -> list[str]:
    caplog.clear()
    folder(root, **options)
    return [record.getMessage().removeprefix(f"dataset.root={root}: ") for record in caplog.records]


def test_what_is_passed_over_is_named(tmp_path, caplog):
    tiny_sets.write_folder(tmp_path)
    (tmp_path / "train/.cache").mkdir()
    assert passed_over(tmp_path, caplog, image_size=12) == []
    (tmp_path / "train/ant/more.png").mkdir()
    for name in ("train/ant/x.tif", "train/cat/y.TIF", "test/bee/z.ppm", "train/ant/LICENSE", "train/q.png"):
        (tmp_path / name).write_bytes(b"x")
    assert passed_over(tmp_path, caplog, image_size=11) == [
        "passed over are 2 .tif (train/ant/x.tif, ...), 1 .png (train/q.png), 1 .ppm (test/bee/z.ppm), "
        "1 folder (train/ant/more.png/), 1 without ending (train/ant/LICENSE)"
    ]


def test_a_class_whose_images_lie_deeper_is_told_so(tmp_path):
    tiny_sets.write_folder(tmp_path)
    (tmp_path / "train/bee").rename(tmp_path / "images")
    (tmp_path / "train/bee").mkdir()
    (tmp_path / "images").rename(tmp_path / "train/bee/images")
    assert refusal(tmp_path).endswith("webp; there are 1 folder (train/bee/images/)")


@pytest.mark.parametrize("parts", [("test", "test"), ("train", "test")], ids=["in one part", "in both"])
def test_names_that_only_differ_in_composition_are_one(tmp_path, parts):
    tiny_sets.write_folder(tmp_path)
    for part, form in zip(parts, ("NFC", "NFD"), strict=True):
        shutil.copytree(tmp_path / part / "ant", tmp_path / part / unicodedata.normalize(form, "é"))
    problem = r"classes 'e\u0301' and '\xe9' differ only in how letters are composed; rename one"
    assert refusal(tmp_path) == f"dataset.root={tmp_path}: {problem}"


def test_levels_of_16_bit_grey_are_scaled(tmp_path):
    tiny_sets.write_folder(tmp_path, grey=True)
    levels = np.linspace(0, 65535, 144).astype(np.uint16).reshape(12, 12)
    Image.fromarray(levels).save(tmp_path / "train/ant/00.png")
    found = folder(tmp_path).train.images[0]
    assert found.shape == (1, 12, 12)
    np.testing.assert_array_equal(found[0].numpy(), np.round(levels / 257).astype(np.uint8))


def test_orientation_is_as_stored(tmp_path):
    written = tiny_sets.write_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(written["train/ant/00.png"]).save(tmp_path / "train/ant/00.png", exif=exif)
    np.testing.assert_array_equal(folder(tmp_path).train.images[0].permute(1, 2, 0), written["train/ant/00.png"])


def bomb(path: Path) -> None:
    """A PNG that says it is 20,000 x 20,000."""
    Image.new("L", (12, 12)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 20000, 20000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def postscript(path: Path) -> None:
    Image.new("RGB", (12, 12)).save(path, format="EPS")


@pytest.mark.parametrize("streamed", [False, True], ids=["memory", "streamed"])
@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (os.mkfifo, "is not a file; replace or remove it"),
        (lambda path: path.symlink_to("nowhere"), "cannot be read (No such file or directory: "),
        (bomb, "cannot be decoded (Image size (400000000 pixels) exceeds limit of "),
        (postscript, "is not an image in one of the formats PNG, JPEG, BMP, WEBP, GIF; replace or remove it"),
        (lambda path: Image.new("L", (12, 12)).save(path, format="TIFF"), "is not an image in one of the formats"),
    ],
    ids=["FIFO", "broken link", "20,000 x 20,000", "PostScript", "TIFF"],
)
def test_what_is_no_image_is_refused_at_once(tmp_path, monkeypatch, write, problem, streamed):
    tiny_sets.write_folder(tmp_path)
    path = tmp_path / "train/ant/00.png"
    path.unlink()
    write(path)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was called"))
    if streamed:
        options = {} if "file" in problem or "read" in problem else {"image_size": 80}
        message = refusal(tmp_path, in_memory=None, **options)
    else:
        message = refusal(tmp_path, in_memory=True)
    assert problem in message
    assert "train/ant/00.png" in message


def test_a_gif_by_the_name_of_jpg_is_read(tmp_path):
    tiny_sets.write_folder(tmp_path)
    Image.new("RGB", (12, 12), (9, 8, 7)).save(tmp_path / "train/ant/zz.jpg", format="GIF")
    assert folder(tmp_path).train.images[10, :, 5, 5].tolist() == [9, 8, 7]


def test_a_folders_files_are_on_record(tmp_path):
    tiny_sets.write_folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (folder(tmp_path / name).provenance["files"] for name in "ab")
    assert first == second
    with (tmp_path / "b/test/ant/00.png").open("ab") as file:
        file.write(b"0")
    assert folder(tmp_path / "b", image_size=12).provenance["files"] != first
