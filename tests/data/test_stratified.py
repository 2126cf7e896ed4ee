"""Stratified subsets: exact sizes, proportional classes."""

from __future__ import annotations

import pytest
import torch

from fsbench.data.stratified import stratified_split

SKEWED = torch.repeat_interleave(torch.arange(5), torch.tensor([50, 3, 17, 1, 29]))


@pytest.mark.parametrize("n", [0, 1, 2, 5, 10, 33, 50, 99, 100])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_is_within_one_of_its_share(n, seed):
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    labels = SKEWED[order]
    chosen, rest = stratified_split(labels, n, classes=6, seed=seed, purpose="test")
    assert len(chosen) == n
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(100))
    assert torch.equal(chosen, chosen.sort().values)
    got = labels[chosen].bincount(minlength=6).double()
    assert (got - n * labels.bincount(minlength=6) / 100).abs().max() < 1


def test_balanced_classes_stay_balanced():
    chosen, _ = stratified_split(torch.arange(50_000) % 10, 5000, 10, seed=0, purpose="validation")
    assert chosen.remainder(10).bincount().tolist() == [500] * 10


def test_equal_remainders_are_decided_by_the_seed():
    labels = torch.arange(40) % 4
    extra = {int(stratified_split(labels, 1, 4, seed, "test")[0]) % 4 for seed in range(40)}
    assert extra == {0, 1, 2, 3}


def test_seed_and_purpose_separate_the_draws():
    labels = torch.arange(1000) % 10
    first = stratified_split(labels, 100, 10, seed=0, purpose="subset")[0]
    assert torch.equal(first, stratified_split(labels, 100, 10, seed=0, purpose="subset")[0])
    assert not torch.equal(first, stratified_split(labels, 100, 10, seed=1, purpose="subset")[0])
    assert not torch.equal(first, stratified_split(labels, 100, 10, seed=0, purpose="validation")[0])


def test_members_of_a_class_are_drawn_alike():
    labels = torch.arange(20) % 2
    hits = torch.zeros(20)
    for seed in range(400):
        hits[stratified_split(labels, 10, 2, seed, "test")[0]] += 1
    assert (hits - 200).abs().max() < 5 * 10


@pytest.mark.parametrize("n", [-1, 101])
def test_impossible_sizes(n):
    with pytest.raises(ValueError, match=f"cannot choose {n} of 100"):
        stratified_split(SKEWED, n, 5, seed=0, purpose="test")
