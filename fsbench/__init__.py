"""fsbench: train with sharpness-aware optimizers, measure sharpness, write the papers' tables."""

from typing import Any

__version__ = "0.1.0"

# What `fsbench.NAME` stands for, imported when it is asked for.
_LATE = dict.fromkeys(
    ("augmentation", "dataset", "loss", "measure", "model", "optimizer", "schedule"), "fsbench.plugins"
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'fsbench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATE[name]), name)
