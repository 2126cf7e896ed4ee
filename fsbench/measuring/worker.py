"""One of the processes that share the images of a measure."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from fsbench.distributed.devices import Devices
from fsbench.distributed.failures import recorded_failure
from fsbench.measuring.failed import Failed
from fsbench.measuring.measure import measure
from fsbench.measuring.measures import MEASURES
from fsbench.measuring.record import Record
from fsbench.plugins import load_plugins
from fsbench.stop_signal import at_once


def main(directory: str) -> int:
    """One of the processes."""
    place = Path(directory)
    with at_once(), recorded_failure(place) as ended:
        load_plugins()
        source, config, names = pickle.loads((place / "job.pickle").read_bytes())
        devices = Devices.joined(config.device, config.devices, "devices")
        try:
            with devices.failing_together():
                found = list(measure(source, config, [MEASURES[name] for name in names], Record(source), devices))
                failed = {one.measure.name: one.reason for one in found if isinstance(one, Failed)}
                if devices.first:
                    (place / "failed.json").write_text(json.dumps(failed), encoding="utf-8")
                devices.any(False)
        finally:
            devices.leave()
    return ended[0]
