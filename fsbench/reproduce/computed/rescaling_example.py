"""The running example of Tsuzuku et al. 2019, appendix A.1: norms that rescaling rows and columns moves at will."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fsbench.report.table import write_frame
from fsbench.reproduce.computed import Context

# Row i of the first matrix divided by alpha, column i of the second multiplied with it: eq. 38 to 41.
STEPS = ((0, 10.0), (1, 0.1))
# As printed, eq. 34 to 37 and 42 to 45; squares where the paper prints a square root.
PUBLISHED = {
    ("before", 1, "Frobenius"): 30**0.5,
    ("before", 1, "spectral"): 5.48,
    ("before", 2, "Frobenius"): 174**0.5,
    ("before", 2, "spectral"): 13.19,
    ("after", 1, "Frobenius"): 2500.05**0.5,
    ("after", 1, "spectral"): 50.00,
    ("after", 2, "Frobenius"): 6101.13**0.5,
    ("after", 2, "spectral"): 78.11,
}


def rescaled(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """W2 relu(W1 x) with other weights and the same function."""
    first, second = first.clone(), second.clone()
    for unit, alpha in STEPS:
        first[unit] /= alpha
        second[:, unit] *= alpha
    return first, second


def norms() -> pd.DataFrame:
    """Published and recomputed norms of both matrices before and after, and their difference."""
    before = (torch.tensor([[1.0, 2], [3, 4]]).double(), torch.tensor([[5.0, 6], [7, 8]]).double())
    rows = []
    for when, matrices in (("before", before), ("after", rescaled(*before))):
        for number, matrix in enumerate(matrices, 1):
            for norm, value in (
                ("Frobenius", torch.linalg.matrix_norm(matrix)),
                ("spectral", torch.linalg.matrix_norm(matrix, 2)),
            ):
                published = PUBLISHED[when, number, norm]
                difference = float(value) - published
                rows.append((f"W({number})", when, norm, published, float(value), difference))
    columns = ["matrix", "rescaling", "norm", "published", "recomputed", "difference"]
    return pd.DataFrame(rows, columns=columns).round(3)


def compute(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """The table; eq. 44 and 45 are misprints: ||W(2)||_F^2 is 7401.0, not 6101.13, and the spectral norm 86.03."""
    caption = [
        "Norms of the running example before and after rescaling rows and columns, which changes no output "
        "(Tsuzuku et al. 2019, appendix A.1).",
        "Three printed norms do not follow from the printed entries: 5.48 for the spectral norm of W(1) is its "
        "Frobenius norm; eq. 44 and 45 should read sqrt(7401.0) = 86.03 and 86.03.",
    ]
    return write_frame(norms(), directory, "appA", caption)
