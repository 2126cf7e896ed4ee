"""load_data on digits: splits, labels, provenance, what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from fsbench.config.dataset import Digits
from fsbench.data import load, load_data
from fsbench.errors import UsageError


def digits(tmp_path, **options):
    return load_data(Digits(**options), tmp_path)


def rows(split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.images]


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    data, found = digits(tmp_path), load_digits()
    assert (len(data.train), len(data.test), data.validation) == (1437, 360, None)
    assert (data.shape, data.classes, data.class_names[3]) == ((1, 8, 8), 10, "3")
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    expected = {
        (round_half(image).tobytes(), int(label)) for image, label in zip(found.images, found.target, strict=True)
    }
    both = [*zip(rows(data.train), data.train.labels.tolist(), strict=True)]
    both += zip(rows(data.test), data.test.labels.tolist(), strict=True)
    assert set(both) == expected
    shares = torch.from_numpy(found.target).bincount() * 360 / 1797
    assert (data.test.labels.bincount() - shares).abs().max() < 1


def round_half(image):
    import numpy as np

    return np.round(image * 255 / 16).astype(np.uint8)


def test_the_test_split_of_digits_is_the_same_at_every_seed(tmp_path, monkeypatch):
    first = digits(tmp_path, seed=0)
    monkeypatch.setattr(load, "_memo", load._Memo())
    assert torch.equal(first.test.images, digits(tmp_path, seed=9).test.images)


def test_splits_partition_the_training_images(tmp_path):
    whole = digits(tmp_path)
    data = digits(tmp_path, validation=137, subset=300, confusion=50, noise=0.1, seed=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (350, 137, 360)
    taken = rows(data.train) + rows(data.validation)
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(rows(whole.train))
    truth = dict(zip(rows(whole.train), whole.train.labels.tolist(), strict=True))
    assert all(truth[row] == label for row, label in zip(rows(data.validation), data.validation.labels, strict=True))
    assert torch.equal(data.test.labels, whole.test.labels)
    # the confusion set comes last; before it exactly 10 % of the labels are wrong
    wrong = torch.tensor([truth[row] != label for row, label in zip(rows(data.train), data.train.labels, strict=True)])
    assert int(wrong[:300].sum()) == 30 == data.provenance["noisy_labels"]
    assert int(wrong[300:].sum()) == data.provenance["confusion_labels_changed"]
    for split, share in ((data.validation, 137), (data.train.take(torch.arange(300)), 300)):
        labels = torch.tensor([truth[row] for row in rows(split)])
        assert (labels.bincount() - whole.train.labels.bincount() * share / 1437).abs().max() < 2


@pytest.mark.parametrize(
    "change",
    [{"noise": 0.4}, {"random_labels": 0.5}, {"random_labels": 0.5, "permute_labels": True}, {"confusion": 40}],
    ids=lambda change: "+".join(change),
)
def test_changing_labels_moves_no_split(tmp_path, change):
    plain = digits(tmp_path, validation=200, subset=500)
    data = digits(tmp_path, validation=200, subset=500, **change)
    assert torch.equal(plain.validation.images, data.validation.images)
    assert torch.equal(plain.train.images, data.train.images[:500])
    assert not torch.equal(plain.train.labels, data.train.labels[: len(data.train)])
    assert plain.provenance["sha256"] != data.provenance["sha256"]


def test_the_subset_comes_after_the_validation_split(tmp_path):
    assert torch.equal(
        digits(tmp_path, validation=200, subset=500).validation.images,
        digits(tmp_path, validation=200).validation.images,
    )


def test_random_labels_are_counted(tmp_path):
    clean = digits(tmp_path).train.labels
    data = digits(tmp_path, random_labels=0.5)
    changed = int((data.train.labels != clean).sum())
    assert data.provenance["random_labels"] == round(0.5 * 1437)
    assert data.provenance["random_labels_changed"] == changed
    assert changed == pytest.approx(0.9 * 718, abs=5 * (718 * 0.09) ** 0.5)


def test_provenance_is_json_and_follows_the_data(tmp_path):
    first, again = digits(tmp_path, noise=0.2, label="8 x 8"), digits(tmp_path, noise=0.2)
    assert json.loads(json.dumps(first.provenance)) == first.provenance
    assert first.provenance["label"] == "8 x 8"
    assert again.provenance["label"] == "digits"
    assert first.provenance["sha256"] == again.provenance["sha256"]
    assert first.provenance["sha256"] != digits(tmp_path, noise=0.2, seed=1).provenance["sha256"]
    assert {key: first.provenance[key] for key in ("train", "validation", "test")} == {
        "train": 1437, "validation": 0, "test": 360,
    }  # fmt: skip


def test_a_sweep_reads_once(tmp_path, monkeypatch):
    digits(tmp_path)
    monkeypatch.setattr(Digits, "builder", lambda *_: pytest.fail("read again"))
    assert len(digits(tmp_path, seed=1, noise=0.5).train) == 1437


def test_true_labels_survive_noise_in_an_earlier_run(tmp_path):
    before = digits(tmp_path).train.labels.clone()
    digits(tmp_path, noise=1.0)
    digits(tmp_path, random_labels=1.0, permute_labels=True)
    assert torch.equal(digits(tmp_path).train.labels, before)


def test_image_size_is_the_shape(tmp_path):
    assert digits(tmp_path, image_size=32).shape == (1, 32, 32)


def test_given_moments_win(tmp_path):
    data = digits(tmp_path, mean=[0.5], std=[0.25])
    assert (data.mean, data.std) == ((0.5,), (0.25,))


def test_computed_moments(tmp_path):
    data = digits(tmp_path)
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx((float(pixels.mean()),), abs=1e-12)
    assert data.std == pytest.approx((float(pixels.std(correction=0)),), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1437}, "dataset.validation=1437: must be smaller than the 1437 training images"),
        ({"subset": 1438}, "dataset.subset=1438: must be at most the 1437 training images"),
        (
            {"subset": 1000, "validation": 500},
            "dataset.subset=1000: must be at most the 937 training images left beside the validation split",
        ),
        (
            {"subset": 1400, "confusion": 38},
            "dataset.confusion=38: must be at most 37, the training images outside the subset",
        ),
        (
            {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
            "dataset.mean=[0.5, 0.5, 0.5]: needs 1 number, one per channel of the images",
        ),
    ],
    ids=["validation", "subset", "subset+validation", "confusion", "mean"],
)
def test_sizes_that_the_data_cannot_fill(tmp_path, options, message):
    with pytest.raises(UsageError) as caught:
        digits(tmp_path, **options)
    assert str(caught.value) == message
