"""Tables and figures that need no training run (the toy problem, timings, exact values): their functions called, once
for the same options.
"""

from __future__ import annotations

import json
import pkgutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsbench.papers.artefact import Computed
from fsbench.reproduce.plan import scale_of
from fsbench.reproduce.request import Request
from fsbench.runs.atomic import scratch_directory
from fsbench.runs.provenance import FILE, command_provenance, write_provenance
from fsbench.runs.read import Unreadable, read_json

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Context:
    """Where and how a computed artefact is computed, beside its options.

    Args:
        data_dir: where data sets lie, or are downloaded to.
        device: to compute on.
        say: shows a line of progress.
        cuts: what differs from the artefact as published, a sentence each, for the caption.
    """

    data_dir: Path
    device: torch.device
    say: Callable[[str], None]
    cuts: tuple[str, ...] = ()


def options_of(artefact: Computed, request: Request) -> dict[str, Any]:
    """The options that its function is handed. Raises UsageError where the scale is not declared."""
    scale_of(artefact, request.config.scale)
    options = dict(artefact.options[request.config.scale])
    if "seeds" in options and request.config.seeds is not None:
        options["seeds"] = request.config.seeds
    return options


def computed_cuts(artefact: Computed, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that are not as published, a sentence each."""
    published = artefact.options.get("paper", {})
    return tuple(
        f"{key[0].upper()}{key[1:]}: {_value_text(value)} instead of {_value_text(published[key])}."
        for key, value in options.items()
        if key in published and published[key] != value
    )


def is_computed(artefact: Computed, options: Mapping[str, Any], directory: Path) -> bool:
    """The directory holds it, computed with these options."""
    try:
        found = read_json(directory / FILE)
        return found["function"] == artefact.function and found["options"] == json.loads(json.dumps(options))
    except (FileNotFoundError, Unreadable, KeyError):
        return False


def compute_artefact(
    artefact: Computed, request: Request, directory: Path, say: Callable[[str], None], command: str
) -> list[Path]:
    """Call the function and record where its files come from.

    Raises:
        UsageError: there is no such device, or whatever the function says.
    """
    from fsbench.distributed.devices import build_device
    from fsbench.training.precision import arithmetic

    config, options = request.config, options_of(artefact, request)
    function = pkgutil.resolve_name(artefact.function)
    device = build_device(config.device)
    context = Context(Path(config.data_dir).expanduser(), device, say, computed_cuts(artefact, options))
    begun = time.perf_counter()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_directory(directory) as part, arithmetic("fp32", device):
            written = [Path(path) for path in function(config.scale, options, part, context)]
            paths = [path.replace(directory / path.relative_to(part)) for path in written]
    finally:
        with suppress(OSError):
            directory.rmdir()  # where it was made for nothing
    record = command_provenance(command, artefact=artefact.name, scale=config.scale) | {
        "function": artefact.function,
        "options": options,
        "cuts": list(context.cuts),
        "device": str(device),
        "wall_time": {"computing": time.perf_counter() - begun},
    }
    return [*paths, write_provenance(directory, record)]


def _value_text(value: Any) -> str:
    if value is None:
        return "all"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
