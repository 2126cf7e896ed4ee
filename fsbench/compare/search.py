"""Random search: the ranges that belong to a method and its base, and the points that are drawn from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from fsbench.config.train import TrainConfig

# The key of a hyperparameter, and the ends of its range.
Ranges = Mapping[str, tuple[float, float]]


def ranges(config: TrainConfig, fixed: Collection[str]) -> Ranges:
    """What is searched for a method: the options that it and its base declare, but those that are `fixed`."""
    base, method = config.base, config.optimizer
    found = {f"{'optimizer' if key == 'lr' else 'base'}.{key}": ends for key, ends in base.search.items()}
    found |= {f"optimizer.{key}": ends for key, ends in method.search.items()}
    return {key: ends for key, ends in found.items() if key not in fixed}


def points(space: Ranges, count: int) -> list[dict[str, str]]:
    """The first `count` points of a scrambled Sobol sequence, on a logarithmic scale, with three digits each.

    The same for the same keys and ranges, so that a search goes on where it stopped, and more trials contain the fewer.
    """
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(space), seed=0).random_base2(math.ceil(math.log2(max(count, 2))))
    return [
        {key: f"{low * (high / low) ** u:.3g}" for (key, (low, high)), u in zip(space.items(), row, strict=True)}
        for row in sequence[:count].tolist()
    ]
