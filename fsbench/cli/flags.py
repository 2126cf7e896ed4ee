"""Telling flags from overrides, wherever on the line they stand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fsbench.config.compose import Composer
from fsbench.config.primary import TRAIN, Primary
from fsbench.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse with one-line usage errors."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError("", "", f"{self.prog}: {message}; see {self.prog} --help")


def runs_parser(program: str, description: str, epilog: str) -> Parser:
    """The flags of a command about finished runs: their directories, and which of them."""
    parser = Parser(prog=program, description=description, epilog=epilog)
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="directories (default: runs)")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this value")
    return parser


def _parser(program: str) -> Parser:
    parser = Parser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-p", "--package")
    parser.add_argument(
        "-i", "--info", nargs="?", const="all",
        choices=["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*")
    return parser


def words_parser(program: str) -> Parser:
    """The flags of a command that trains runs, and has keys of its own beside theirs, all among its words."""
    parser = Parser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    parser.add_argument("-cd", "--config-dir")
    parser.add_argument("words", nargs="*")
    return parser


def parse_composed(program: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command that composes a configuration, such as `fsbench train`.

    `-m` and its kin may stand between overrides. An override may begin with a tilde or plus; nothing that
    is one begins with a dash.
    """
    options = _parser(program).parse_intermixed_args(list(arguments))
    if (options.resolve or options.package) and not options.cfg:
        raise UsageError("", "", "--resolve and --package go with --cfg job")
    return options


def show_instead(options: argparse.Namespace, text: str, primary: Primary = TRAIN) -> bool:
    """Show what `--help` (`text`, then the configuration), `--cfg`, `--info` or `--hydra-help` asks for, if any."""
    if options.help:
        print(text + Composer(options.config_dir).text(options.overrides, primary=primary), end="")
    elif options.hydra_help or options.cfg or options.info is not None:
        from fsbench.cli.show import show

        show(options, primary)
    else:
        return False
    return True
