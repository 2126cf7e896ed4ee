"""Measuring in this process, or in several that share the images."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

from torch.distributed.elastic.multiprocessing import SignalException

from fsbench import __version__
from fsbench.config.sharpness import SharpnessConfig
from fsbench.distributed.devices import Devices, refuse_absent
from fsbench.distributed.elastic import start
from fsbench.distributed.failures import recorded_failure
from fsbench.errors import Interrupted
from fsbench.measuring.measure import device_named, measure_on
from fsbench.measuring.measures import MEASURES, Failed, Measure
from fsbench.measuring.record import Entry, Record, answers
from fsbench.measuring.source import Source
from fsbench.plugins import load_plugins
from fsbench.runs.atomic import scratch_directory
from fsbench.stop_signal import at_once


def measure(
    source: Source, config: SharpnessConfig, measures: list[Measure], record: Record
) -> Iterator[dict[str, Entry] | Failed]:
    """As `measure_on`, in this process, or in `devices=N` of them; what N recorded is yielded when all are done.

    Raises:
        UsageError: there are too few GPUs, or what `measure_on` raises.
        KeyboardInterrupt: a signal came.
    """
    if config.devices == 1:
        yield from measure_on(Devices(device_named(config.device)), source, config, measures, record)
        return
    refuse_absent(config.device, config.devices, "devices")
    with scratch_directory(Path(gettempdir())) as scratch:
        place = str(scratch)
        handed = (source, config, [one.name for one in measures])
        Path(place, "job.pickle").write_bytes(pickle.dumps(handed))
        try:
            start(config.devices, "fsbench.measuring.processes", place)
        except (SignalException, Interrupted):
            raise KeyboardInterrupt from None
        failed = json.loads(Path(place, "failed.json").read_text(encoding="utf-8"))
    kept = record.kept()
    for one in measures:
        if one.name in failed:
            yield Failed(one, failed[one.name])
        elif (entries := answers(one, config, kept, __version__)) is not None:
            yield entries


def main(directory: str) -> int:
    """Measure in one of the processes, as the files in `directory` say."""
    place = Path(directory)
    with at_once(), recorded_failure(place) as ended:
        load_plugins()
        source, config, names = pickle.loads((place / "job.pickle").read_bytes())
        devices = Devices.joined(config.device, config.devices, "devices")
        try:
            with devices.failing_together():
                found = list(measure_on(devices, source, config, [MEASURES[name] for name in names], Record(source)))
                failed = {one.measure.name: one.reason for one in found if isinstance(one, Failed)}
                if devices.first:
                    (place / "failed.json").write_text(json.dumps(failed), encoding="utf-8")
                devices.any(False)
        finally:
            devices.leave()
    return ended[0]
