"""Results that papers print and runs do not record as such: error rates, the gap of top-5, half of gamma-hat."""

from __future__ import annotations

from collections.abc import Mapping


def derived(results: Mapping[str, float | None]) -> dict[str, float]:
    """What follows from the results and measures of a run, by name.

    `test_error` is 1 - `test_accuracy`, and so for every accuracy of a split; `top5_generalization_gap` is the gap of
    top-5 accuracies; `half_fisher_log_determinant` is gamma-hat as the code of jia2020 returns it: the sum of ln
    singular values, half of eq. 6.
    """
    # None: a measure that was refused.
    known = {name: value for name, value in results.items() if value is not None}
    found = {
        f"{split}_{top}error": 1 - known[name]
        for split in ("train", "validation", "test")
        for top in ("", "top5_")
        if (name := f"{split}_{top}accuracy") in known
    }
    if {"train_top5_accuracy", "test_top5_accuracy"} <= known.keys():
        found["top5_generalization_gap"] = known["train_top5_accuracy"] - known["test_top5_accuracy"]
    if "fisher_log_determinant" in known:
        found["half_fisher_log_determinant"] = known["fisher_log_determinant"] / 2
    return found
