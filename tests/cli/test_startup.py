"""Help, lists and completion answer at once: they import no torch."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

LINES = {
    "help": ["--help"],
    "version": ["--version"],
    "train-version": ["train", "--version"],
    "train-help": ["train", "--help"],
    "cfg": ["train", "--cfg", "job", "optimizer=fsam", "model=wrn28_10"],
    "cfg-resolved": ["train", "--cfg", "job", "--resolve", "-p", "optimizer"],
    "info": ["train", "--info", "defaults-tree"],
    "list": ["list", "models"],
    "list-measures": ["list", "measures"],
    "sharpness-help": ["sharpness", "--help", "model=resnet20"],
    "sharpness-cfg": ["sharpness", "--cfg", "job", "dataset=digits"],
    "sharpness-bad-input": ["sharpness", "run=nowhere"],
    "sharpness-bad-measure": ["sharpness", "run=nowhere", "measures=[foo]"],
    "evaluate-help": ["evaluate", "--help", "dataset=mnist"],
    "evaluate-bad-input": ["evaluate", "run=nowhere"],
    "runs": ["runs", "."],
    "runs-help": ["runs", "--help"],
    "plot-help": ["plot", "--help"],
    "plot-bad-input": ["plot", "--x", "epoch", "--y", "lr", "-o", "x"],
    "runs-bad-input": ["runs", "--status", "x"],
    "bad-input": ["train", "optimizer.lr=foo"],
    "reproduce-help": ["reproduce", "--help"],
    "reproduce-cfg": ["reproduce", "--cfg", "job", "scale=tiny"],
    "reproduce-bad-input": ["reproduce", "kim2022/tabel1"],
    "list-artefacts": ["list", "artefacts"],
}
# What a line says beside.
SAID = {
    "version": "fsbench 0.",
    "train-version": "fsbench 0.",
    "reproduce-help": "fsbench reproduce ARTEFACT ... [KEY=VALUE ...]",
    "reproduce-cfg": "scale: tiny",
    "list-artefacts": "kim2022/table1 ",
}
COMPLETIONS = {
    "commands": ("fsbench ", {"train", "table", "list", "rerun", "runs", "evaluate", "plot"}),
    "command-prefix": ("fsbench t", {"train", "table"}),
    "choice": ("fsbench train optimizer=f", {"optimizer=fsam", "optimizer=fisher_trace"}),
    "with-flag": ("fsbench train -m optimizer=fsa", {"optimizer=fsam"}),
    "second-override": ("fsbench train dataset=digits optimizer=as", {"optimizer=asam"}),
    "key": ("fsbench train optimizer.l", {"optimizer.lr="}),
    "python-m": ("python -m fsbench train optimizer=fsa", {"optimizer=fsam"}),
    "experiment-in-a-folder": ("fsbench train experiment=kim2022/t", {"experiment=kim2022/table1"}),
    "list-kinds": ("fsbench list m", {"models", "measures"}),
    "sharpness": ("fsbench sh", {"sharpness"}),
    "sharpness-key": ("fsbench sharpness sam", {"samples="}),
    "sharpness-group": ("fsbench sharpness model=resnet20 dataset=fo", {"dataset=folder"}),
    "sharpness-model-key": ("fsbench sharpness model=resnet20 model.d", {"model.depth="}),
    "sharpness-measure": ("fsbench sharpness measures=[minimum,norm", {"measures=[minimum,normalized"}),
    "sharpness-first-measure": ("fsbench sharpness measures=[fisher_t", {"measures=[fisher_trace"}),
    "evaluate-key": ("fsbench evaluate sp", {"split="}),
    "evaluate-data-set": ("fsbench evaluate run=x dataset=fo", {"dataset=folder"}),
    "evaluate-run": ("fsbench evaluate run=runs/", {"run=runs/a"}),
    "runs-directory": ("fsbench runs ru", {"runs/"}),
    "rerun-directory": ("fsbench rerun runs/", {"runs/a", "runs/b/"}),
    "sharpness-run": ("fsbench sharpness run=ru", {"run=runs/"}),
    "sharpness-run-below": ("fsbench sharpness run=runs/", {"run=runs/a", "run=runs/b/"}),
    "reproduce": ("fsbench reproduce kim2022/table1 model=resnet2", {"model=resnet20"}),
}
NOTHING_KNOWN = {"none": [], "key": ["foo=bash"], "shell": ["install=nope"]}


PROBE = """
import contextlib, io, json, os, sys
from fsbench.cli.main import main
heavy = {"torch", "torchvision", "timm", "pandas", "sklearn", "matplotlib"}
os.environ |= {"COMP_LINE": "", "COMP_POINT": ""}
told = {}
for name, (place, arguments, line) in json.load(sys.stdin).items():
    os.chdir(place)
    os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        main(arguments)
    told[name] = out.getvalue(), err.getvalue(), sorted(heavy & set(sys.modules))
    heavy -= set(told[name][2])
print(json.dumps(told))
"""


def ask(lines: dict[str, tuple[str, list[str], str]]) -> dict[str, tuple[str, str, list[str]]]:
    """What lines say to stdout and to stderr, and what each is the first to import; all in one process.

    Args:
        lines: working directory, arguments, and the line to be completed.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE], input=json.dumps(lines), capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty working directory."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def told(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, list[str]]]:
    """What all lines say, and all completions where there are runs."""
    place = tmp_path_factory.mktemp("runs")
    (place / "runs/a").mkdir(parents=True)
    (place / "runs/b").mkdir()
    (place / "runs/a/config.yaml").touch()
    query = ["-sc", "query=bash"]
    return ask(
        {name: (str(empty), arguments, "") for name, arguments in LINES.items()}
        | {f"complete {name}": (str(place), query, line) for name, (line, _) in COMPLETIONS.items()}
        | {f"-sc {name}": (str(place), ["-sc", *words], "") for name, words in NOTHING_KNOWN.items()}
        | {"-sc install": (str(place), ["-sc", "install=bash"], "")}
    )


@pytest.mark.parametrize("name", LINES)
def test_no_heavy_import(told, empty, name) -> None:
    out, _, heavy = told[name]
    assert heavy == []
    assert SAID.get(name, "") in out
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["sharpness", "--help"], ["list", "models"]], ids=" ".join
)
def test_within_a_second(arguments) -> None:
    """In CPU seconds, the best of three at most: the machine may be busy with other things."""
    times = [float("inf")]
    while min(times) >= 1.0 and len(times) <= 3:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "fsbench", *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 1.0


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completion(told, name) -> None:
    out, _, heavy = told[f"complete {name}"]
    assert COMPLETIONS[name][1] <= set(out.split())
    assert heavy == []


def test_completion_can_be_installed(told) -> None:
    out, _, _ = told["-sc install"]
    assert "complete " in out
    assert "fsbench" in out


@pytest.mark.parametrize("name", NOTHING_KNOWN)
def test_completion_of_nothing_known_is_one_line(told, name) -> None:
    _, err, _ = told[f"-sc {name}"]
    assert err.startswith("fsbench: -sc=")
    assert err.count("\n") == 1


def test_what_is_measured_is_told_without_torch(fsbench, quick, tmp_path) -> None:
    fsbench("train", *quick, "trainer.max_steps=1")
    (run,) = (tmp_path / "runs").iterdir()
    asked = ("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=20")
    assert fsbench(*asked).code == 0
    out, _, heavy = ask({"again": (str(tmp_path), [*asked], "")})["again"]
    assert "already measured" in out
    assert heavy == []
