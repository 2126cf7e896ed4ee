"""`fsbench rerun RUN_DIR [KEY=VALUE ...]`: the command that made a run, with changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import Parser
from fsbench.cli.train import train
from fsbench.config.compose import compose_jobs
from fsbench.errors import UsageError
from fsbench.training.attempt import by_torchrun
from fsbench.training.stop_signal import stop_signal


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="fsbench rerun", description="Train again what a run directory holds, with changes.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path)
    parser.add_argument("-m", "--multirun", action="store_true", help="the changes hold sweeps")
    parser.add_argument("-cd", "--config-dir", help="config groups of your own")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for fsbench train; the last one wins")
    options = parser.parse_intermixed_args(list(arguments))
    if by_torchrun():
        raise UsageError("rerun", options.run, "not with torchrun; say trainer.devices=N")
    try:
        record = json.loads((options.run / "provenance.json").read_text(encoding="utf-8"))
        overrides = [str(override) for override in record["overrides"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError("rerun", options.run, "is not a run directory: it holds no readable provenance.json") from None
    changed = {_key(override) for override in options.overrides}
    # What was said of a node that is swapped whole does not hold for the new one; and the old run stays.
    forgotten = changed | {"overwrite"} | ({"run_name"} if changed else set())
    kept = [o for o in overrides if _key(o) not in forgotten and _key(o).partition(".")[0] not in changed]
    with stop_signal() as stop:
        jobs = compose_jobs([*kept, *options.overrides], multirun=options.multirun, config_dir=options.config_dir)
        return train(jobs, options.multirun, stop)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
