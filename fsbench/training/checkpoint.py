"""Saving and loading everything a run needs to go on bit for bit; loading never executes code."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from fsbench.data.seeding import derived_seed
from fsbench.errors import UsageError
from fsbench.runs.atomic import atomic_path

PARTS = {"model", "optimizer", "schedule", "precision", "position", "totals", "rows", "data", "random"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain containers) and the global random state, atomically."""
    # Through memory: torch's own writer hides that a disk is full.
    whole = BytesIO()
    torch.save({**state, "random": random_state()}, whole)
    with atomic_path(path) as part:
        part.write_bytes(whole.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        UsageError: the file is truncated or not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and state.keys() >= PARTS:
            return state
        raise ValueError
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError):
        raise UsageError(
            "checkpoint", path, "truncated or not a checkpoint; delete it to train this run from its start"
        ) from None


def random_state() -> dict[str, torch.Tensor]:
    """Torch's global random state, of the CPU and of this process's GPU."""
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    return random


def restore_random_state(state: dict[str, Any], rank: int = 0, count: int = 1, seed: int = 0) -> None:
    """Go on with the draws of device `rank`; where the number of devices changed, all but the first begin anew."""
    states = [state["random"], *state.get("random_of_others", [])]
    if rank and len(states) != count:
        torch.manual_seed(derived_seed(seed, "device", rank, *state["position"]))
        return
    torch.set_rng_state(states[rank]["cpu"])
    if "cuda" in states[rank] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[rank]["cuda"])
