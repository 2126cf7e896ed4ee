"""sharpness.json: what was measured of one network: by column of tables the current entry, and others."""

from __future__ import annotations

from typing import Any

from fsbench.config.sharpness import SharpnessConfig
from fsbench.errors import FsbenchError
from fsbench.measuring.measures import Measure
from fsbench.measuring.source import Source
from fsbench.runs.atomic import write_json
from fsbench.runs.directory import RunDirectory
from fsbench.runs.read import Unreadable
from fsbench.runs.records import read_measures

Entry = dict[str, Any]

# Settings that are kept of a column.
_KEPT = 20


class Record:
    """The record of a source, kept whole: several processes may add to it at the same time."""

    def __init__(self, source: Source) -> None:
        self._directory, self._weights = source.directory, source.weights
        self._written = _written(self._directory)
        self.unreadable: Unreadable | None = None

    def read(self) -> dict[str, Entry]:
        """The current entries by column, which tables take; none where the record is about other weights."""
        return {column: entries[0] for column, entries in self.kept().items()}

    def kept(self) -> dict[str, list[Entry]]:
        """By column, the current entry and then those of other settings, newest first; none of what is unreadable."""
        try:
            found = read_measures(self._directory.sharpness)
        except Unreadable as failure:
            self.unreadable = failure
            return {}
        if found["weights"] != self._weights:
            return {}
        return kept_in(found)

    def add(self, entries: dict[str, Entry]) -> None:
        """Put entries into the file, each in the place of one with equal settings, and make them the current ones.

        A refusal is kept too, but does not become current where there is a value. Of a column the last 20 settings
        that were asked for are kept.

        Raises:
            FsbenchError: the run was trained again since its weights were read.
            RunIsBusy: it is being trained.
        """
        with self._directory.locked():
            if self._written != _written(self._directory):
                raise FsbenchError(f"{self._directory.path}: the weights changed while they were measured")
            kept = self.kept()
            for column, entry in entries.items():
                kept[column] = _merged(entry, kept.get(column, []))
            current = {column: those[0] for column, those in kept.items()}
            others = {column: those[1:] for column, those in kept.items() if len(those) > 1}
            content = {"weights": self._weights, "measures": current} | ({"others": others} if others else {})
            write_json(self._directory.sharpness, content)


def kept_in(found: dict[str, Any]) -> dict[str, list[Entry]]:
    """By column, all entries of what `read_measures` gives, the current one first."""
    return {column: [entry, *found["others"].get(column, ())] for column, entry in found["measures"].items()}


def answers(
    measure: Measure, config: SharpnessConfig, kept: dict[str, list[Entry]], version: str
) -> dict[str, Entry] | None:
    """The entries by column that answer what is asked, measured with the same settings; None where one is lacking.

    A refusal counts as an answer of the version of fsbench that gave it.
    """
    found = {}
    for column in measure.columns_of(config):
        fitting = (entry for entry in kept.get(column, ()) if _answers(entry, measure, config, version))
        if (entry := next(fitting, None)) is None:
            return None
        found[column] = entry
    return found


def settings_of(measure: Measure, config: SharpnessConfig, used: int, available: int) -> dict[str, Any]:
    """The settings that a value depends on; `samples` and the seed of the draw only where images were left out."""
    drawn = {} if used == available else {"samples": used, "seed": config.seed}
    return measure.settings(config) | drawn


def _merged(entry: Entry, others: list[Entry]) -> list[Entry]:
    """All of them in the order of the file: the newest value first, or the newest refusal where all are."""
    found = [entry, *(other for other in others if other["settings"] != entry["settings"])]
    current = next((one for one in found if "refused" not in one), entry)
    return [current, *(one for one in found if one is not current)][:_KEPT]


def _answers(entry: Entry, measure: Measure, config: SharpnessConfig, version: str) -> bool:
    if not (entry.keys() >= {"provenance", "seconds", "notes"} and entry.get("images", {}).keys() >= {"used", "of"}):
        return False  # it was not written here
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
