"""The progress of a training run as a person sees it: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import logging
from typing import Any

from tqdm import tqdm

from fsbench.lines import shown_on_terminal, tell

log = logging.getLogger("fsbench")


class Progress:
    """One bar for all steps of a run, on stderr; the same line per epoch goes to train.log either way."""

    def __init__(self, title: str, epochs: int, steps: int, done: int, wanted: bool) -> None:
        self.epochs = epochs
        self.on_terminal = wanted and shown_on_terminal()
        self.lines = wanted and not self.on_terminal
        self.title = title
        self.bar = tqdm(
            total=steps, initial=done, desc=title, unit="step", disable=not self.on_terminal, dynamic_ncols=True
        )

    def step(self) -> None:
        self.bar.update()

    def epoch(self, row: dict[str, Any]) -> None:
        line = epoch_line(row, self.epochs)
        log.info(line)
        if row.get("test_accuracy") is not None:
            self.bar.set_postfix_str(f"epoch {row['epoch']}/{self.epochs}, test {100 * row['test_accuracy']:.2f} %")
        if self.lines:
            tell(f"{self.title}: {line}")

    def close(self) -> None:
        self.bar.close()


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """The line about an epoch: its losses, accuracies and learning rate."""
    return f"epoch {row['epoch']}/{epochs}  " + "  ".join(
        f"{name.replace('_', ' ')} {_formatted(name, value)}"
        for name, value in row.items()
        if name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr") and value is not None
    )


def _formatted(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4g}"
