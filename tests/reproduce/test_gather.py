from __future__ import annotations

import pytest

from fsbench.reproduce.write import derived


def test_what_follows_from_results() -> None:
    results = {"test_accuracy": 0.75, "train_accuracy": 1.0, "test_top5_accuracy": 0.9, "train_top5_accuracy": 0.97}
    found = derived({**results, "fisher_log_determinant": -8.0, "minimum_sharpness": None})
    assert found == pytest.approx(
        {"test_error": 0.25, "train_error": 0.0, "test_top5_error": 0.1, "train_top5_error": 0.03,
         "top5_generalization_gap": 0.07, "half_fisher_log_determinant": -4.0}
    )  # fmt: skip
    assert derived({"test_accuracy": 0.5, "fisher_log_determinant": None}) == {"test_error": 0.5}
