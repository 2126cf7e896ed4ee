"""Measuring in several processes, which share the images."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

from torch.distributed.elastic.multiprocessing import SignalException

from fsbench import __version__
from fsbench.config.sharpness import SharpnessConfig
from fsbench.distributed.devices import refuse_absent
from fsbench.distributed.elastic import start
from fsbench.errors import Interrupted
from fsbench.measuring.failed import Failed
from fsbench.measuring.measures import Measure
from fsbench.measuring.record import Entry, Record, answers
from fsbench.measuring.source import Source
from fsbench.runs.atomic import scratch_directory


def measure_by_several(
    source: Source, config: SharpnessConfig, measures: list[Measure], record: Record
) -> Iterator[dict[str, Entry] | Failed]:
    """As `measure`, in `config.devices` processes; what they recorded is yielded when all are done.

    Raises:
        UsageError: there are too few GPUs, or what `measure` raises.
        KeyboardInterrupt: a signal came.
    """
    refuse_absent(config.device, config.devices, "devices")
    with scratch_directory(Path(gettempdir())) as scratch:
        place = str(scratch)
        handed = (source, config, [one.name for one in measures])
        Path(place, "job.pickle").write_bytes(pickle.dumps(handed))
        try:
            start(config.devices, "fsbench.measuring.worker", place)
        except (SignalException, Interrupted):
            raise KeyboardInterrupt from None
        failed = json.loads(Path(place, "failed.json").read_text(encoding="utf-8"))
    kept = record.kept()
    for one in measures:
        if one.name in failed:
            yield Failed(one, failed[one.name])
        elif (entries := answers(one, config, kept, __version__)) is not None:
            yield entries
