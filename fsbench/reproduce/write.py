"""The files of an artefact that is made of runs: its rows handed to `fsbench.report`, and their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fsbench.reproduce.gather import gather
from fsbench.reproduce.plan import Plan
from fsbench.reproduce.provenance import command_provenance, runs_provenance, write_provenance


def write_artefact(plan: Plan, directory: Path, command: str, reasons: Mapping[Path, str]) -> list[Path]:
    """Table, figure and provenance.json.

    Args:
        reasons: why a run has no network or lacks a measure, by its directory.
    """
    from fsbench.report.artefact import write

    frame = gather(plan, reasons)
    paths = write(plan.artefact, frame, directory, list(plan.cuts))
    record = command_provenance(plan.artefact.name, plan.scale, command) | runs_provenance(plan)
    return [*paths, write_provenance(directory, record)]
