"""Which runs are the same run: a hash of what determines the result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fsbench.config.component import components

# Where and how a run is carried out, but not what comes out of it.
_INCIDENTAL = {"runs_dir", "data_dir", "run_name", "overwrite", "logger"}
_INCIDENTAL_OF = {
    "trainer": {
        "device",
        "workers",
        "checkpoint_every",
        "progress",
        "compare_every",
        "memory_format",
        "compile",
        "fused",
        "cuda_graph",
        "sync_batchnorm",
        "population",
    },
    "dataset": {"label"},
    "optimizer": {"together"},  # of older runs
}
# Keys that came later, with the value at which a run is what it was before them: left out there, so that runs keep
# their identity.
_ADDED: dict[str, dict[str, Any]] = {
    "augment": {"name": "standard", "padding": "zeros", "autoaugment_first": False},
    "loss": {"name": "cross_entropy"},
    "trainer": {"devices": 1, "average": "none", "average_decay": None, "average_start": None},
    "optimizer": {"full_batch": "own", "perturbation": "global", "start": 0.0, "stop": 1.0},
}


def essential(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that determines the result."""

    def counts(group: str, key: str, value: Any) -> bool:
        added = _ADDED.get(group, {})
        if (group, key) == ("trainer", "devices") and not _devices_matter(config):
            return False
        return key not in _INCIDENTAL_OF.get(group, ()) and not (key in added and value == added[key])

    return {
        group: {key: value for key, value in values.items() if counts(group, key, value)}
        if isinstance(values, dict)
        else values
        for group, values in config.items()
        if group not in _INCIDENTAL
    }


def _devices_matter(config: dict[str, Any]) -> bool:
    """Whether several devices come to another result than one, rounding and the draws of dropout aside.

    They share each mini-batch, so the gradient is the same; but each has BatchNorm's statistics of its own rows, unless
    they are synchronised (then too where the rows come in micro-batches), and so its perturbation, if that is local.
    """
    trainer = config["trainer"]
    if config.get("optimizer", {}).get("perturbation") == "local":
        return True
    family = components("model").get(config.get("model", {}).get("family"))
    if not getattr(family, "batchnorm", True):
        return False
    return not trainer.get("sync_batchnorm") or trainer.get("micro_batch_size") is not None


def identity(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits; 1 and 1.0 are the same value."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in sorted(value.items())}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else value

    text = json.dumps(plain(essential(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer": {"rho": 0.1}} as {"optimizer.rho": 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """`optimizer.rho (0.1 here, 0.05 there)` for every essential key that differs."""
    a, b = flatten(essential(ours)), flatten(essential(theirs))
    absent = "absent"
    return [
        f"{key} ({a.get(key, absent)} here, {b.get(key, absent)} there)"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, absent) != b.get(key, absent)
    ]
