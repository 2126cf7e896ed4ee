"""Wrong labels on purpose: symmetric noise, random labels, the confusion set. Pure functions of a seed.

Every draw is made for all N examples and then cut to the number wanted, so that at one seed a higher rate
changes the examples of a lower rate and some more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.data.seeding import generator


def symmetric_noise(labels: Tensor, rate: float, classes: int, seed: int, *, includes_self: bool = False) -> Tensor:
    """Labels of which exactly round(rate N) were moved to a different class, drawn uniformly.

    Args:
        labels: (N,) int64.
        includes_self: draw from all classes instead, so that on average 1/K of the drawn keep their label
            (at rate 0.8 and ten classes 72 % change).

    Source: kim2022 section 5.5 (after Rooyen et al. 2015); that the drawn class differs is our reading of "flipping".
    """
    n = len(labels)
    draw = generator(seed, "noise")
    chosen = torch.randperm(n, generator=draw)[: round(rate * n)]
    shift = torch.randint(1, classes, (n,), generator=draw)
    anything = torch.randint(classes, (n,), generator=draw)
    noisy = labels.clone()
    noisy[chosen] = anything[chosen] if includes_self else (labels[chosen] + shift[chosen]) % classes
    return noisy


def random_labels(labels: Tensor, ratio: float, classes: int, seed: int, *, permute: bool = False) -> Tensor:
    """Labels of which round(ratio N) were replaced by uniformly random ones (the true one included).

    Args:
        labels: (N,) int64.
        permute: permute the labels among the chosen examples instead, which keeps the class counts.

    Source: Zhang et al. 2017, as used by ibayashi2021 (figures 2 and 4) and tsuzuku2019 (section 6.1).
    """
    n = len(labels)
    draw = generator(seed, "random labels")
    chosen = torch.randperm(n, generator=draw)[: round(ratio * n)]
    anything = torch.randint(classes, (n,), generator=draw)
    changed = labels.clone()
    if permute:
        changed[chosen] = labels[chosen[torch.randperm(len(chosen), generator=draw)]]
    else:
        changed[chosen] = anything[chosen]
    return changed


def confusion_set(available: int, n: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which of the `available` unused images join the training set, and their uniformly random labels.

    Returns:
        Indices (n,) and labels (n,), int64. A smaller set is the beginning of a larger one.

    Raises:
        ValueError: n > available.

    Source: jia2020, scenario I of the comparison of metrics.
    """
    if n > available:
        raise ValueError(f"cannot choose {n} of {available} examples")
    draw = generator(seed, "confusion")
    chosen = torch.randperm(available, generator=draw)
    labels = torch.randint(classes, (available,), generator=draw)
    return chosen[:n], labels[:n]
