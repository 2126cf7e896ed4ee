"""Wrong labels: exact counts, uniform draws, independent streams."""

from __future__ import annotations

import pytest
import torch

from fsbench.data.labels import confusion_set, random_labels, symmetric_noise

LABELS = torch.arange(2000) % 10


@pytest.mark.parametrize(
    ("n", "rate", "changed"),
    [(2000, 0.0, 0), (2000, 0.2, 400), (2000, 0.8, 1600), (2000, 1.0, 2000), (7, 0.5, 4), (33, 0.1, 3), (1, 0.4, 0)],
    ids=lambda value: str(value),
)
def test_noise_changes_exactly_the_rounded_share(n, rate, changed):
    noisy = symmetric_noise(LABELS[:n], rate, 10, seed=3)
    assert int((noisy != LABELS[:n]).sum()) == changed
    assert noisy.dtype == torch.int64
    assert 0 <= int(noisy.min()) <= int(noisy.max()) < 10


def test_noise_draws_every_other_class_alike():
    clean = torch.full((90_000,), 4)
    counts = torch.bincount(symmetric_noise(clean, 1.0, 10, seed=0), minlength=10)
    assert counts[4] == 0
    others = counts[counts > 0].double()
    # chi-square with 8 degrees of freedom: mean 8, standard deviation 4
    assert len(others) == 9
    assert float(((others - 10_000) ** 2 / 10_000).sum()) < 8 + 5 * 4


def test_noise_hits_examples_and_classes_alike():
    labels = torch.arange(20_000) % 10
    hit = symmetric_noise(labels, 0.5, 10, seed=1) != labels
    per_class = torch.tensor([int(hit[labels == label].sum()) for label in range(10)])
    assert per_class.sub(1000).abs().max() < 5 * (2000 * 0.25) ** 0.5
    assert abs(int(hit[:10_000].sum()) - 5000) < 5 * (20_000 * 0.25) ** 0.5 / 2**0.5


def test_noise_including_self_leaves_one_in_ten_of_the_drawn():
    labels = torch.arange(50_000) % 10
    share = float((symmetric_noise(labels, 0.8, 10, seed=0, includes_self=True) != labels).double().mean())
    assert share == pytest.approx(0.72, abs=5 * (0.8 * 0.1 * 0.9 / 50_000) ** 0.5)


def test_noise_with_two_classes_flips():
    labels = torch.tensor([0, 1, 1, 0])
    assert torch.equal(symmetric_noise(labels, 1.0, 2, seed=0), 1 - labels)


def test_random_labels_touch_only_their_share_and_are_uniform():
    labels = torch.zeros(40_000, dtype=torch.int64)
    changed = random_labels(labels, 0.5, 10, seed=0)
    counts = torch.bincount(changed, minlength=10).double()
    # of the 20,000 drawn, a tenth each; class 0 also holds the 20,000 not drawn
    assert counts[0] > 20_000
    counts[0] -= 20_000
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 9 + 5 * 18**0.5


def test_random_labels_at_ratio_one_forget_the_true_ones():
    changed = random_labels(LABELS, 1.0, 10, seed=0)
    agreement = float((changed == LABELS).double().mean())
    assert agreement == pytest.approx(0.1, abs=5 * (0.09 / 2000) ** 0.5)


def test_permuting_keeps_the_class_counts_and_the_unchosen():
    skewed = (torch.arange(1000) ** 2 // 1000) % 7
    for ratio in (0.1, 0.6, 1.0):
        permuted = random_labels(skewed, ratio, 7, seed=5, permute=True)
        assert torch.equal(permuted.bincount(minlength=7), skewed.bincount(minlength=7))
        assert 0 < int((permuted != skewed).sum()) <= round(ratio * 1000)


@pytest.mark.parametrize(
    "change",
    [
        lambda rate: symmetric_noise(LABELS, rate, 10, seed=2),
        lambda rate: random_labels(LABELS, rate, 10, seed=2),
    ],
    ids=["noise", "random"],
)
def test_a_higher_rate_extends_a_lower_one(change):
    low, high = change(0.2), change(0.6)
    moved = low != LABELS
    assert torch.equal(high[moved], low[moved])


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(1)
    first = symmetric_noise(LABELS, 0.4, 10, seed=0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(symmetric_noise(LABELS, 0.4, 10, seed=0), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(symmetric_noise(LABELS, 0.4, 10, seed=1), first)
    assert torch.equal(LABELS, torch.arange(2000) % 10)


def test_confusion_set_is_distinct_uniform_and_nested():
    chosen, labels = confusion_set(40_000, 20_000, 10, seed=0)
    assert len(chosen.unique()) == len(chosen) == len(labels) == 20_000
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < 40_000
    counts = labels.bincount(minlength=10).double()
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 9 + 5 * 18**0.5
    fewer, their_labels = confusion_set(40_000, 500, 10, seed=0)
    assert torch.equal(fewer, chosen[:500])
    assert torch.equal(their_labels, labels[:500])
    with pytest.raises(ValueError, match="cannot choose 4 of 3"):
        confusion_set(3, 4, 10, seed=0)
