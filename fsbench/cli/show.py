"""What Hydra prints itself: --help, --cfg, --info, --hydra-help and shell completion, without torch."""

from __future__ import annotations

import argparse
import sys

import hydra

from fsbench.cli.flags import SHOWING
from fsbench.config.compose import normalised
from fsbench.config.paths import conf_dir
from fsbench.errors import UsageError


def show(options: argparse.Namespace) -> int:
    """Hand the line to Hydra with the flags in front, where 1.3 wants them."""
    line = ["--multirun"] if options.multirun and options.cfg else []
    if options.help:
        line.append("--help")
    if options.hydra_help:
        line.append("--hydra-help")
    if options.cfg:
        line += ["--cfg", options.cfg]
    if options.info is not None:
        line += ["--info", options.info]
    if options.resolve:
        line.append("--resolve")
    if options.package:
        line += ["--package", options.package]
    if options.config_dir:
        line += ["--config-dir", options.config_dir]
    return hydra_main([*line, *map(normalised, options.overrides)])


def hydra_main(line: list[str]) -> int:
    """Run Hydra's own main on a command line that only shows something."""

    @hydra.main(config_path=str(conf_dir()), config_name="train", version_base="1.3")
    def nothing(_: object) -> None:
        raise UsageError("", "", f"one of {', '.join(SHOWING)} is needed here")

    argv, sys.argv = sys.argv, ["fsbench", *line]
    try:
        nothing()
    finally:
        sys.argv = argv
    return 0
