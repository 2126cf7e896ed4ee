"""What a comparison found: frames of its runs, means and verdicts, and their texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fsbench.compare.plan import Cell, Comparison, Run
from fsbench.report.statistics import mean_std
from fsbench.report.table import Grid, markdown
from fsbench.report.text import axis_words, csv_text, difference_text, json_records, mean_text, p_text, share_text
from fsbench.report.verdicts import HOW_TO_READ, judged, paired
from fsbench.runs.atomic import write_text

_FIT = "train_accuracy"
_HIGHER_IS_BETTER = ("test_accuracy", "best_test_accuracy", "train_accuracy")
_NAMES = ("runs", "means", "verdicts", "trials")


class Findings:
    """The frames of a comparison as far as its runs are there.

    Attributes:
        runs: a line for each run: setting, method, seed, what was chosen for it, results, state, directory.
        means: a line for each setting and method.
        trials: a line for each trial: setting, method, hyperparameters, accuracy on the images held out.
        verdicts: a line for each setting and pair, with what `fsbench.report.verdicts.Comparison` has.
    """

    def __init__(self, comparison: Comparison) -> None:
        config = comparison.config
        self._metric, self._settings = config.metric, list(comparison.cells[0].setting)
        # Shares are shown in percent.
        share = config.metric.endswith(("accuracy", "gap"))
        self._scale, self._unit = (100.0, " %") if share else (1.0, "")
        self._decimals = 2 if share else None
        self._delta = f"{self._scale * config.delta:g}{self._unit}"
        rows: list[dict[str, Any]] = []
        means: list[dict[str, Any]] = []
        values: dict[tuple[tuple[str, ...], str], dict[int, float]] = {}
        for cell in comparison.cells:
            own = [self._row(cell, seed, run) for seed, run in comparison.runs(cell).items()]
            of_cell = {row["seed"]: row[self._metric] for row in own if row[self._metric] is not None}
            values[tuple(cell.setting.values()), cell.method] = of_cell
            means.append(_mean(cell, own, list(of_cell.values())))
            rows += own
        keys = comparison.compared
        found_pairs = judged(
            [paired(values[setting, one], values[setting, other], config.delta) for setting, (one, other) in keys],
            config.delta,
            higher_is_better=config.metric in _HIGHER_IS_BETTER,
        )
        self.trials = pd.DataFrame(_trial(cell, *one) for cell in comparison.cells for one in cell.trials)
        self._notes = comparison.notes
        # Without runs the file of them has its head still.
        head = [*self._settings, "method", "seed", *dict.fromkeys((self._metric, _FIT)), "state", "run"]
        self.runs = pd.DataFrame(rows, columns=None if rows else head)
        self.means = pd.DataFrame(means)
        self.verdicts = pd.DataFrame(
            {**dict(zip(self._settings, setting, strict=True)), "comparison": " - ".join(pair), **vars(one)}
            for (setting, pair), one in zip(keys, found_pairs, strict=True)
        )

    def _row(self, cell: Cell, seed: int, run: Run) -> dict[str, Any]:
        found = run.results()
        results = {name: found.get(name) for name in dict.fromkeys((self._metric, _FIT))}
        place = {"state": run.state, "run": run.directory.path.name}
        return {**cell.setting, "method": cell.method, "seed": seed, **(cell.chosen or {}), **results, **place}

    @property
    def text(self) -> str:
        """Both tables as Markdown, and how they are read."""
        means = [self._mean_line(row) for row in self.means.to_dict("records")]
        verdicts = [self._verdict_line(row) for row in self.verdicts.to_dict("records")]
        names = {**dict(zip(self._settings, map(axis_words, self._settings), strict=True)), "method": "method"}
        left = len(self._settings) + 2
        tables = (
            markdown(Grid([names.get(key, key) for key in lines[0]], [list(line.values()) for line in lines], left))
            for lines in (means, verdicts)
        )
        notes = [" ".join(self._notes)] if self._notes else []
        return "\n".join((*tables, *(f"{text}\n" for text in (*notes, HOW_TO_READ.format(delta=self._delta)))))

    @property
    def as_json(self) -> dict[str, Any]:
        """The frames as lists of records, without NaN."""
        return {name: json_records(getattr(self, name)) for name in _NAMES}

    def write(self, directory: Path, title: str) -> list[Path]:
        """Write comparison.md and a CSV of each frame, each whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        texts = {"comparison.md": f"# {title}\n\n{self.text}"}
        texts |= {
            f"{name}.csv": csv_text(getattr(self, name)) for name in _NAMES if name != "trials" or len(self.trials)
        }
        for name, text in texts.items():
            write_text(directory / name, text)
        return [directory / name for name in texts]

    def _mean_line(self, row: Mapping[Any, Any]) -> dict[str, str]:
        diverged = f", {row['diverged']} diverged" if row["diverged"] else ""
        return {
            **{key: row[key] for key in self._settings},
            "method": row["method"],
            "chosen": row["chosen"] or "-",
            "epochs": f"{row['epochs']}",
            "passes": f"{row['passes']:g}",
            "n": f"{row['n']}{diverged}",
            f"{axis_words(self._metric)}{self._unit}": mean_text(
                self._scale * row["mean"], self._scale * row["std"], self._decimals
            ),
            "train accuracy %": mean_text(100 * row[_FIT], math.nan, 2),
        }

    def _verdict_line(self, row: Mapping[Any, Any]) -> dict[str, str]:
        def shown(key: str) -> str:
            return difference_text(self._scale * row[key], self._decimals)

        return {
            **{key: row[key] for key in self._settings},
            "comparison": row["comparison"],
            "verdict": row["verdict"],
            "n": f"{row['n']}",
            f"difference{self._unit}": shown("difference"),
            "95 % interval": "-" if math.isnan(row["low"]) else f"{shown('low')} to {shown('high')}",
            "P(A > B)": share_text(row["superiority"]),
            "p (Holm)": p_text(row["p"]),
            f"detectable{self._unit}": mean_text(self._scale * row["detectable"], math.nan, self._decimals),
        }


def _trial(cell: Cell, values: Mapping[str, str], run: Run) -> dict[str, Any]:
    found = {"validation_accuracy": run.results().get("validation_accuracy"), "state": run.state}
    chosen = {"chosen": values == cell.chosen, "run": run.directory.path.name}
    return {**cell.setting, "method": cell.method, **values, **found, **chosen}


def _mean(cell: Cell, rows: list[dict[str, Any]], values: list[float]) -> dict[str, Any]:
    mean, std = mean_std(values)
    fitted = [row[_FIT] for row in rows if row[_FIT] is not None]
    config, chosen = cell.job.config, cell.chosen
    words = None if chosen is None else " ".join(f"{key}={value}" for key, value in chosen.items())
    return {
        **cell.setting, "method": cell.method, "chosen": "all trials diverged" if words is None else words,
        "epochs": config.trainer.epochs,
        "passes": config.trainer.epochs * cell.passes,
        "n": len(values), "diverged": sum(row["state"] == "diverged" for row in rows), "mean": mean, "std": std,
        _FIT: mean_std(fitted)[0],
    }  # fmt: skip
