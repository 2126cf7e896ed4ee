"""`fsbench <command> ...`: a table of commands, each imported when it is called; exit codes."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from fsbench.errors import FsbenchError, Interrupted, UsageError, bad_input, did_you_mean, one_line, traceback_wanted
from fsbench.lines import aligned, flushed, steady_streams, tell
from fsbench.plugins import load_plugins, name_plugins, taken_out
from fsbench.stop_signal import AtOnce, at_once, too_late

# name: (module with a function `main(arguments) -> exit code`, one line)
COMMANDS = {
    "train": ("fsbench.cli.train", "train a model, or a sweep of them with -m"),
    "runs": ("fsbench.cli.runs", "what became of the runs in a directory; removes those that are not wanted"),
    "table": ("fsbench.cli.table", "mean and standard deviation over seeds of finished runs"),
    "compare": ("fsbench.cli.compare", "methods compared: equal searches, paired seeds, and a verdict"),
    "evaluate": ("fsbench.cli.evaluate", "loss and accuracy of a trained network, on its own images or on others"),
    "sharpness": ("fsbench.cli.sharpness", "measure how sharp the minimum of a trained network is"),
    "conform": ("fsbench.cli.conform", "whether anyone's sharpness-aware optimizer is what its paper says"),
    "reproduce": ("fsbench.cli.reproduce", "the papers' tables and figures, published numbers beside measured ones"),
    "plot": ("fsbench.cli.plot", "curves of finished runs, or one point a run, as a picture"),
    "report": ("fsbench.cli.report", "finished runs and written tables as one HTML page"),
    "correlate": ("fsbench.cli.correlate", "whether measures go with generalization, by Kendall's tau"),
    "list": ("fsbench.cli.list", "what there is: models, datasets, optimizers, experiments, ..."),
    "rerun": ("fsbench.cli.rerun", "train again what a run directory holds, with changes"),
    "help": ("fsbench.cli.help", "the guides: training, sharpness, library, extending, ..."),
}

HELP = """fsbench: train with sharpness-aware optimizers and compare what comes out.

usage: fsbench COMMAND ...

{commands}

  fsbench train --help          keys, groups and examples
  fsbench sharpness --help      likewise; fsbench list measures shows the measures
  fsbench reproduce list        the papers' tables and figures, and how many runs they take
  fsbench list models           what can be put after model=
  fsbench --version

Tab completion: eval "$(fsbench -sc install=bash)"     (also zsh, fish)
Exit codes: 0 done, 1 failed, 2 bad input, 3 some runs failed, 4 diverged, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code and prints errors as one line on stderr."""
    steady_streams()
    code = _ended(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        too_late()
    if (lost := flushed()) is not None:
        tell(f"fsbench: stdout: {lost.strerror}")
        return code or 1
    return code


def _ended(arguments: list[str]) -> int:
    signals = AtOnce()
    try:
        with at_once() as signals:
            return _dispatch(arguments)
    except BrokenPipeError:  # the reader of stdout went away (`| head`); nothing is left to say to it
        return 0
    except BaseException as met:
        failure = _explained(met, signals)
        if failure is None:
            raise
        if isinstance(failure, Interrupted):
            # Python ends by SIGINT, whatever the exit code, if the last code that it ran from text (a dataclass's
            # methods, say) was interrupted.
            exec("")
        if traceback_wanted():
            traceback.print_exc()
        if not failure.said:
            tell(f"fsbench: {one_line(failure)}")
        return failure.exit_code


def _explained(met: BaseException, signals: AtOnce) -> FsbenchError | None:
    """The words for an exception that ends a command; None where it explains nothing and its traceback is needed."""
    if isinstance(met, Interrupted):
        return met
    # A signal may come out as another exception: where it came, some libraries take it for their own failure.
    if isinstance(met, KeyboardInterrupt) or signals.requested:
        return Interrupted("interrupted")
    if isinstance(met, FsbenchError):
        return met
    if (wrong := bad_input(met)) is not None:
        return wrong
    # A full disk, say: the machine's fault, not ours.
    return FsbenchError(one_line(met)) if isinstance(met, OSError) else None


def _dispatch(arguments: list[str]) -> int:
    named, arguments = taken_out(arguments)
    name_plugins(named)
    if "-sc" in arguments or "--shell-completion" in arguments:
        from fsbench.cli.completion import complete

        load_plugins()
        return complete(arguments, COMMANDS)
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = aligned([(f"  {name}", line) for name, (_, line) in COMMANDS.items()])
        print(HELP.format(commands="\n".join(lines)), end="")
        return 0
    command, *rest = arguments
    if command == "--version" or (command in COMMANDS and "--version" in rest):
        print(_versions())
        return 0
    if command not in COMMANDS:
        raise UsageError("", "", f"no command '{command}'{did_you_mean(command, COMMANDS)}; see fsbench --help")
    load_plugins()
    return importlib.import_module(COMMANDS[command][0]).main(rest)


def _versions() -> str:
    from importlib import metadata

    import fsbench

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    return f"fsbench {fsbench.__version__} (torch {version('torch')}, hydra {version('hydra-core')})"
