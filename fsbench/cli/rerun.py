"""`fsbench rerun RUN_DIR [KEY=VALUE ...]`: the command that made a run, with changes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from fsbench.cli.flags import Parser
from fsbench.cli.train import train
from fsbench.config.compose import compose_jobs
from fsbench.errors import UsageError
from fsbench.measuring.source import missing_plugins
from fsbench.runs.directory import RunDirectory
from fsbench.runs.read import Unreadable, read_json
from fsbench.stop_signal import stop_signal
from fsbench.training.outcome import by_torchrun


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="fsbench rerun", description="Train again what a run directory holds, with changes.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path)
    parser.add_argument("-m", "--multirun", action="store_true", help="the changes hold sweeps")
    parser.add_argument("-cd", "--config-dir", help="config groups of your own")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for fsbench train; the last one wins")
    options = parser.parse_intermixed_args(list(arguments))
    if by_torchrun():
        raise UsageError("rerun", options.run, "not with torchrun; say trainer.devices=N")
    if not os.path.isdir(options.run):
        raise UsageError("rerun", options.run, "is not a run directory")
    file = options.run / "provenance.json"
    try:
        overrides = read_json(file).get("overrides")
    except FileNotFoundError:
        raise UsageError("rerun", options.run, "is not a run directory: it holds no provenance.json") from None
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise Unreadable(file, "it holds no overrides")
    changed = {_key(override) for override in options.overrides}
    # What was said of a node that is swapped whole does not hold for the new one; and the old run stays.
    forgotten = changed | {"overwrite"} | ({"run_name"} if changed else set())
    kept = [o for o in overrides if _key(o) not in forgotten and _key(o).partition(".")[0] not in changed]
    for override in kept:
        _refuse_foreign(override, options.run)
    with stop_signal() as stop:
        line = [*kept, *options.overrides]
        try:
            jobs = compose_jobs(line, multirun=options.multirun, config_dir=options.config_dir)
        except UsageError as failure:
            raise UsageError("", "", f"{failure}{missing_plugins(RunDirectory(options.run))}") from None
        return train(jobs, options.multirun, stop)


# What decides about code that runs, places that are written and what is sent where.
_OWN = re.compile(r"(hydra|executor|logger)|.*_dir")


def _refuse_foreign(override: str, run: Path) -> None:
    """Raise UsageError for what is not taken from a record, which anybody may have written."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    file = run / "provenance.json"
    try:
        parsed = OverridesParser.create().parse_override(override)
        value = parsed.value()
    except HydraException:
        raise Unreadable(file, f"{_key(override)}: no override") from None
    key, text = parsed.key_or_group, str(value.text if isinstance(value, QuotedString) else value)
    named = ".".join([key, parsed.package or "", *_keys(value)])
    outside = "." not in key and (text.startswith("/") or ".." in text.split("/"))  # a choice from another directory
    # The directory that was named, and the default, are no foreign ones.
    known = {"runs_dir": run.resolve().parent, "data_dir": Path(os.environ.get("FSBENCH_DATA", "data")).resolve()}
    if "${" not in override and key in known and Path(text).resolve() == known[key]:
        return
    if "${" not in override and not outside and not any(map(_OWN.fullmatch, re.split("[./:@]", named))):
        return
    raise UsageError("", "", f"{file} sets {key}, which is not taken from a record; say it yourself: {key}=...")


def _keys(value: object) -> list[str]:
    if isinstance(value, dict):
        return [name for key, inner in value.items() for name in (str(key), *_keys(inner))]
    return [name for inner in value for name in _keys(inner)] if isinstance(value, list) else []


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
