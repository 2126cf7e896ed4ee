"""fsbench: train with sharpness-aware optimizers, measure sharpness, write the papers' tables."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import fsbench.runs as _runs

if TYPE_CHECKING:
    from fsbench.declare import augmentation as augmentation
    from fsbench.declare import dataset as dataset
    from fsbench.declare import loss as loss
    from fsbench.declare import model as model
    from fsbench.declare import optimizer as optimizer
    from fsbench.declare import paper as paper
    from fsbench.declare import schedule as schedule
    from fsbench.notebook import Run as Run
    from fsbench.notebook import load as load
    from fsbench.notebook import measure as measure
    from fsbench.notebook import runs as runs
    from fsbench.notebook import train as train

__version__ = "0.1.0"

# Ways in from Python, and what declares components of one's own: each is imported when it is first asked for, so that
# `import fsbench` stays light.
_LATER = {
    **dict.fromkeys(("Run", "load", "measure", "train"), "fsbench.notebook"),
    **dict.fromkeys(("augmentation", "dataset", "loss", "model", "optimizer", "paper", "schedule"), "fsbench.declare"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'fsbench' has no attribute '{name}'")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])


class _Runs(ModuleType):
    """The package `fsbench.runs`, which is called as the function of its name: `fsbench.runs("runs")`."""

    def __call__(self, *directories: Any) -> Any:
        return importlib.import_module("fsbench.notebook").runs(*directories)


_runs.__class__ = _Runs
