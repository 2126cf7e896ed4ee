"""Run directories by the thousand: a few that were trained and measured, copied with other settings and numbers."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import fsbench
from fsbench.runs.atomic import finite
from fsbench.runs.directory import RunDirectory
from fsbench.runs.identity import identity

# A line of a table by optimizer, rho and lr has runs that differ in their seed alone.
METHODS = ("sgd", "sam", "asam", "fsam")
RHOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
LRS = (0.01, 0.02, 0.05, 0.1)
_TRAINED = (
    "dataset=digits", "model=mlp", "model.widths=[16]", "trainer.epochs=1", "trainer.progress=false",
    "trainer.device=cpu",
)  # fmt: skip
_CHECKOUT = Path(fsbench.__file__).resolve().parents[1]
# What differs between runs only in ways that no table shows is linked, not written again.
_LINKED = ("model.safetensors", "provenance.json", "metrics.jsonl", "train.log", "status.json", "lock")


def trained(root: Path) -> list[Path]:
    """A run of each method with the default measures, by the commands that a user types; seconds each."""
    command(["train", "-m", *_TRAINED, f"optimizer={','.join(METHODS)}", f"runs_dir={root}"])
    command(["sharpness", "-m", f"run=glob({root}/*)", "device=cpu"])
    return sorted(root.iterdir())


def command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`fsbench` in a fresh process. Raises SystemExit with what it said where it failed."""
    # The fsbench that is imported here, whichever is installed.
    done = subprocess.run(
        [sys.executable, "-m", "fsbench", *arguments], capture_output=True, text=True, cwd=_CHECKOUT
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"fsbench {' '.join(arguments)}: {done.stderr}")
    return done


def multiply(originals: Sequence[Path], root: Path, count: int) -> None:
    """Write runs until `root` holds `count`: the same ones whatever it held before."""
    root.mkdir(parents=True, exist_ok=True)
    there = sum(1 for _ in root.iterdir())
    texts = [(path, *(_content(path / name) for name in ("summary.json", "sharpness.json"))) for path in originals]
    for number in range(there, count):
        path, summary, sharpness = texts[number % len(texts)]
        _write(path, copy.deepcopy(summary), copy.deepcopy(sharpness), root, number // len(texts))


def _write(original: Path, summary: dict[str, Any], sharpness: dict[str, Any], root: Path, number: int) -> None:
    config = summary["config"]
    config["runs_dir"] = str(root)
    number, rho = divmod(number, len(RHOS))
    config["seed"], lr = divmod(number, len(LRS))
    config["optimizer"]["lr"] = LRS[lr]
    if "rho" in config["optimizer"]:
        config["optimizer"]["rho"] = RHOS[rho]
    else:
        config["base"]["weight_decay"] = RHOS[rho] / 100
    draw = random.Random(f"{original.name} {number} {rho}")
    summary["results"] = {name: _near(value, draw) for name, value in summary["results"].items()}
    for entry in sharpness["measures"].values():
        entry["value"] = _near(entry["value"], draw)
    directory = RunDirectory.of(config, summary["choices"])
    summary["run"], summary["identity"] = directory.path.name, identity(config)
    directory.path.mkdir()
    for name in _LINKED:
        os.link(original / name, directory.path / name)
    # As fsbench writes them, but for the wait until each is on the disk.
    directory.config.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8")
    for place, value in ((directory.summary, summary), (directory.sharpness, sharpness)):
        place.write_text(json.dumps(finite(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _near(value: Any, draw: random.Random) -> Any:
    return value * draw.uniform(0.9, 1.1) if isinstance(value, float) else value


def _content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
