"""Saving and loading everything a run needs to go on bit for bit; loading never executes code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from fsbench.data.seeding import derived_seed
from fsbench.errors import FsbenchError, UsageError, first_line
from fsbench.runs.atomic import atomic_path

_DELETE = "delete it to train this run from its start"
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
        with warnings.catch_warnings(action="ignore"):  # of what is no file of torch's it says more than one line
            state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and state.keys() >= PARTS:
            return state
        raise ValueError
    except MemoryError:
        raise
    except Exception as failure:  # a damaged pickle makes torch raise whatever it likes
        why = failure.strerror if isinstance(failure, OSError) else "truncated or not a checkpoint"
        raise UsageError("checkpoint", path, f"{why}; {_DELETE}") from None


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Within, whatever is raised means that what the checkpoint holds does not go with this run.

    Raises:
        UsageError: it does not.
    """
    try:
        yield
    except FsbenchError:
        raise
    except Exception as failure:
        problem = f"is not one of this run ({type(failure).__name__}: {first_line(failure)}); {_DELETE}"
        raise UsageError("checkpoint", path, problem) from None


def refuse_other_kinds(saved: Any, here: Any, name: str = "it") -> None:
    """Raise TypeError where `saved` has another kind of value, or shape, than what is `here`.

    None stands for any value, an empty list or table for one of any length; names, such as that of the method, may be
    missing in `saved`, as they are in earlier releases' checkpoints.
    """
    alike = here is None
    if isinstance(here, torch.Tensor):
        alike = isinstance(saved, torch.Tensor) and (saved.shape, saved.dtype) == (here.shape, here.dtype)
    elif isinstance(here, dict):
        needed = {key for key, value in here.items() if not isinstance(value, str)}
        alike = isinstance(saved, dict) and saved.keys() >= needed
        for key in here.keys() & saved.keys() if alike else ():
            refuse_other_kinds(saved[key], here[key], f"{name}.{key}" if name != "it" else str(key))
    elif isinstance(here, (list, tuple)):
        alike = isinstance(saved, (list, tuple)) and len(here) in (0, len(saved))
        for one, other in zip(saved, here, strict=False) if alike else ():
            refuse_other_kinds(one, other, name)
    elif isinstance(here, (bool, str)):
        alike = isinstance(saved, type(here))
    elif isinstance(here, (int, float)):
        alike = isinstance(saved, (int, float))
    if not alike:
        raise TypeError(f"{name} is of another kind")


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
