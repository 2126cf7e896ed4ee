"""The table of runs in its formats; the command itself is tested in tests/cli and tests/training."""

from __future__ import annotations

import json
import math
from io import StringIO

import pandas as pd
import pytest

from fsbench.report.runs_table import aggregate, formatted

BY, COLUMNS = ("optimizer", "optimizer.rho"), ("test_accuracy", "fisher_log_determinant")
ROWS = [
    {"optimizer": "sam", "optimizer.rho": 0.1, "test_accuracy": 0.9, "fisher_log_determinant": -5.0},
    {"optimizer": "sam", "optimizer.rho": 0.1, "test_accuracy": 0.92, "fisher_log_determinant": -math.inf},
    {"optimizer": "sam", "optimizer.rho": 0.05, "test_accuracy": 0.8},
    {"optimizer": "=sgd", "test_accuracy": 0.7, "fisher_log_determinant": 2.5},
]
TABLE = aggregate(ROWS, BY, COLUMNS)


def test_markdown() -> None:
    assert formatted(TABLE, "markdown", BY, COLUMNS) == (
        "| optimizer | optimizer.rho |   n | test accuracy % | fisher log determinant |\n"
        "| --------- | ------------- | --: | --------------: | ---------------------: |\n"
        "| =sgd      | -             |   1 |           70.00 |                    2.5 |\n"
        "| sam       | 0.05          |   1 |           80.00 |                      - |\n"
        "| sam       | 0.1           |   2 |    91.00 ± 1.41 |                   -inf |\n"
    )


def test_json_has_the_columns_of_the_csv() -> None:
    csv = pd.read_csv(StringIO(formatted(TABLE, "csv", BY, COLUMNS)), dtype={"optimizer.rho": str})
    records = json.loads(formatted(TABLE, "json", BY, COLUMNS))
    assert [list(record) for record in records] == [list(csv.columns)] * 3
    # The CSV marks what a spreadsheet would take for a formula.
    assert (csv["optimizer"][0], records[0]["optimizer"]) == ("'=sgd", "=sgd")
    assert [record["optimizer.rho"] for record in records] == list(csv["optimizer.rho"]) == ["-", "0.05", "0.1"]
    assert [record["n"] for record in records] == list(csv["n"])
    assert [record["test_accuracy_mean"] for record in records] == pytest.approx(list(csv["test_accuracy_mean"]))
    # JSON has no NaN and no infinity.
    assert [record["fisher_log_determinant_mean"] for record in records] == [2.5, None, "-inf"]
    assert [record["fisher_log_determinant_std"] for record in records] == [None] * 3
