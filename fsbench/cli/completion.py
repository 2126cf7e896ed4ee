"""Tab completion: the command words here, overrides by Hydra with the command word taken out of its line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO

from fsbench.cli.list import ALL, choices_in
from fsbench.config.paths import conf_dir
from fsbench.config.primary import COMPARE, EVALUATE, REPRODUCE, SHARPNESS, TRAIN, Primary
from fsbench.errors import UsageError
from fsbench.measuring import measures
from fsbench.papers import artefacts
from fsbench.papers.artefact import SCALES
from fsbench.plugins import name_plugins, taken_out

# Commands whose arguments are Hydra overrides.
_HYDRA = {primary.name: primary for primary in (TRAIN, SHARPNESS, EVALUATE)}
_OF_DIRECTORIES = ("runs", "table", "plot", "report", "correlate", "rerun")
# Commands that have keys of their own beside those of the runs that they train.
_TRAINING = {primary.name: primary for primary in (REPRODUCE, COMPARE)}
# Values of those keys.
_CHOICES = {
    "budget": ("epochs", "passes", "both"),
    "metric": (
        "test_accuracy",
        "best_test_accuracy",
        "test_loss",
        "generalization_gap",
        "train_accuracy",
        "train_loss",
    ),
    "pairs": ("all",),
    "scale": SCALES,
    "device": ("auto", "cpu", "cuda"),
    "executor": ("serial", "ray", "slurm"),
    **dict.fromkeys(("plan", "render", "measure", "progress"), ("true", "false")),
}
_SHELLS = ("bash", "zsh", "fish")
# Bash expands what it is offered: a file called `$(reboot)` would be run.
_HARMLESS = re.compile(r"[\w./=,:@%+~^\[\]{}-]+")


def complete(arguments: Sequence[str], commands: Iterable[str]) -> int:
    """Answer `-sc install=SHELL`, `-sc uninstall=SHELL` and `-sc query=SHELL` (of COMP_LINE and COMP_POINT)."""
    from fsbench.cli.show import hydra_main

    request = next((a for a in arguments if a.startswith(("install=", "uninstall=", "query="))), "")
    if request.partition("=")[2] not in _SHELLS:
        raise UsageError(
            "-sc", request or "(missing)", "must read install=SHELL or uninstall=SHELL; SHELL: bash, zsh, fish"
        )
    if not request.startswith("query="):
        return hydra_main(["-sc", request])
    line = os.environ.get("COMP_LINE", "")
    before = line[: int(os.environ.get("COMP_POINT", len(line)))]
    try:
        named, words = taken_out(before.split(" "))
    except UsageError:  # its file is still to be typed
        return 0
    name_plugins(named)
    with redirect_stdout(StringIO()) as found:
        _answer(request, " ".join(words), commands)
    for line in found.getvalue().splitlines():
        print(" ".join(filter(_HARMLESS.fullmatch, line.split())))
    return 0


def _answer(request: str, before: str, commands: Iterable[str]) -> None:
    """Print what may follow the line so far, separated by spaces."""
    from fsbench.cli.show import hydra_main

    words = before.split()
    # `python -m fsbench train ...` and `fsbench train ...` alike: what follows the word fsbench counts.
    start = next((i for i, word in enumerate(words) if word.rpartition("/")[2] == "fsbench"), 0)
    typed = words[start + 1 :]
    if (not before.endswith(" ") and len(typed) <= 1) or not typed:
        print(" ".join(name for name in commands if name.startswith(typed[0] if typed else "")))
        return
    command, current = typed[0], "" if before.endswith(" ") else typed[-1]
    if command in _TRAINING and (found := _own_words(_TRAINING[command], current)):
        print(" ".join(found))
        return
    primary = TRAIN if command in _TRAINING else _HYDRA.get(command)
    if primary is not None:
        if current.startswith("experiment="):
            # Experiments lie in folders, which Hydra's completion does not look into.
            names = (f"experiment={name}" for name in choices_in(conf_dir() / "experiment"))
            print(" ".join(name for name in names if name.startswith(current)))
            return
        key, equals, value = current.partition("=")
        if equals and ((key == "run" and "run" in primary.directories) or (key == "measures" and key in primary.lists)):
            found = _directories(value) if key == "run" else _names(value)
            print(" ".join(f"{key}={one}" for one in found))
            return
        program = words[start]
        rest = before.split(None, start + 2)[start + 2] if len(typed) > 1 else ""
        if command in _TRAINING:
            rest = current  # artefacts, and what several values are methods of, are no overrides of one run
        os.environ["COMP_LINE"] = f"{program} {rest}"
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
        hydra_main(["-sc", request], primary)
        return
    if command in _OF_DIRECTORIES:
        print(" ".join(_directories(current)))
    if command == "list":
        print(" ".join(kind for kind in ALL if kind.startswith(current)))


def _own_words(primary: Primary, current: str) -> list[str]:
    """Artefacts, keys, and the values of keys that have few."""
    key, equals, _ = current.partition("=")
    if equals:
        return [one for value in _CHOICES.get(key, ()) if (one := f"{key}={value}").startswith(current)]
    keys = (f"{line.partition(':')[0]}=" for line in _options_of(primary))
    named = (*artefacts(), "list") if primary is REPRODUCE else ("--arm", "search.")
    return [one for one in (*named, *keys, "executor=") if one.startswith(current)]


def _options_of(primary: Primary) -> list[str]:
    """The lines of a primary configuration that set a key."""
    lines = (conf_dir() / f"{primary.name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line[:1].isalpha() and line.partition(":")[0] not in ("defaults", "hydra")]


def _directories(typed: str) -> list[str]:
    """Run directories, and with a slash the directories on the way to them."""
    above, _, beginning = typed.rpartition("/")
    above = f"{above}/" if "/" in typed else ""
    try:
        entries = sorted(e.name for e in os.scandir(above or ".") if e.is_dir() and e.name.startswith(beginning))
    except OSError:
        return []
    paths = [above + name for name in entries if beginning or not name.startswith(".")]
    return [path if os.path.isfile(os.path.join(path, "config.yaml")) else f"{path}/" for path in paths]


def _names(typed: str) -> list[str]:
    """The last of the measures that are listed, `[minimum,nor`, completed."""
    before, comma, last = typed.rpartition(",")
    if not comma:
        before, last = ("[", typed[1:]) if typed.startswith("[") else ("", typed)
    names = [*measures.MEASURES, "default", "all"]
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
