"""The flags that Hydra answers itself: --cfg, --info, --hydra-help and shell completion, without torch."""

from __future__ import annotations

import argparse
import sys

import hydra

from fsbench.config.compose import Composer, normalised
from fsbench.config.paths import conf_dir
from fsbench.config.primary import TRAIN, Primary
from fsbench.errors import UsageError


def show(options: argparse.Namespace, primary: Primary) -> int:
    """Hand the line to Hydra with the flags in front, where 1.3 wants them."""
    if options.multirun:
        raise UsageError("", "", "--cfg, --info and --hydra-help show one run; leave out -m")
    # What does not compose is said in our own one line, not in Hydra's many.
    Composer(options.config_dir).text(options.overrides, primary=primary)
    line = ["--hydra-help"] * options.hydra_help + ["--resolve"] * options.resolve
    for flag in ("cfg", "info", "package", "config_dir"):
        if value := getattr(options, flag):
            line += [f"--{flag.replace('_', '-')}", value]
    return hydra_main([*line, *map(normalised, options.overrides)], primary)


def hydra_main(line: list[str], primary: Primary = TRAIN) -> int:
    """Run Hydra's own main on a command line that only shows something."""
    from fsbench.config.component import offer

    offer()

    @hydra.main(config_path=str(conf_dir()), config_name=primary.name, version_base="1.3")
    def nothing(_: object) -> None:
        raise AssertionError("a flag that only shows something is handed in")

    argv, sys.argv = sys.argv, ["fsbench", *line]
    try:
        nothing()
    finally:
        sys.argv = argv
    return 0
