"""sharpness.json: what was measured of one network, an entry for each column of tables."""

from __future__ import annotations

from typing import Any

from fsbench.config.sharpness import SharpnessConfig
from fsbench.errors import FsbenchError
from fsbench.measuring.measures import Measure
from fsbench.measuring.source import Source
from fsbench.runs.atomic import write_json
from fsbench.runs.directory import RunDirectory
from fsbench.runs.records import read_measures

Entry = dict[str, Any]


class Record:
    """The record of a source, kept whole: several processes may add to it at the same time."""

    def __init__(self, source: Source) -> None:
        self._directory, self._weights = source.directory, source.weights
        self._written = _written(self._directory)

    def read(self) -> dict[str, Entry]:
        """The entries by column; none where the record is about other weights."""
        found = read_measures(self._directory.sharpness)
        return found["measures"] if found["weights"] == self._weights else {}

    def add(self, entries: dict[str, Entry]) -> None:
        """Merge entries into the file.

        Raises:
            FsbenchError: the run was trained again since its weights were read.
            RunIsBusy: it is being trained.
        """
        with self._directory.locked():
            if self._written != _written(self._directory):
                raise FsbenchError(f"{self._directory.path}: the weights changed while they were measured")
            write_json(self._directory.sharpness, {"weights": self._weights, "measures": self.read() | entries})


def recorded(measure: Measure, config: SharpnessConfig, entries: dict[str, Entry], version: str) -> bool:
    """Whether the entries answer what is asked: all columns, measured with the same settings.

    A refusal counts as an answer of the version of fsbench that gave it.
    """
    return all(
        column in entries and _answers(entries[column], measure, config, version)
        for column in measure.columns_of(config)
    )


def settings_of(measure: Measure, config: SharpnessConfig, used: int, available: int) -> dict[str, Any]:
    """What a value depends on; `samples` and the seed that drew them only where some images were left out."""
    drawn = {} if used == available else {"samples": used, "seed": config.seed}
    return measure.settings(config) | drawn


def _answers(entry: Entry, measure: Measure, config: SharpnessConfig, version: str) -> bool:
    if "refused" in entry and entry["provenance"]["fsbench"] != version:
        return False
    available = entry["images"]["of"]
    used = available if measure.whole or config.samples is None else min(config.samples, available)
    return entry["settings"] == settings_of(measure, config, used, available)


def _written(directory: RunDirectory) -> tuple[int, int] | None:
    """Size and time of a run's weights."""
    try:
        found = directory.model.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
