"""Reading run directories: which are found, what of them is read, and that the work grows no faster than they do."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fsbench.cli.main import main
from fsbench.report.runs_table import mixed_keys
from fsbench.runs.directory import RunDirectory
from fsbench.runs.records import read_records, run_directories

BY = ("--by", "optimizer,optimizer.lr")
TABLES = {
    "results": (*BY, "--columns", "test_accuracy,test_loss"),
    "measure": (*BY, "--columns", "test_accuracy,fisher_trace"),
    "condition": (*BY, "--where", "optimizer.rho=0.05", "--columns", "seconds"),
    "condition on a measure": (*BY, "--where", "fisher_trace=1", "--columns", "seconds"),
    "line a run": ("--by", "run", "--columns", "fisher_trace"),
}
# Files opened for each run: summary.json, and sharpness.json where a measure is asked for.
FILES = {"results": 1, "measure": 2, "condition": 1, "condition on a measure": 2, "line a run": 2}


@pytest.fixture
def multiplied(fsbench, quick, monkeypatch) -> Callable[[int], Path]:
    """A directory of that many runs, made as `scripts/bench size` makes them, from two that are real."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from many_runs import multiply

    fsbench("train", "-m", *quick, "optimizer=sgd,sam", "trainer.max_steps=2", "runs_dir=originals")
    fsbench("sharpness", "-m", "run=glob(originals/*)", "measures=[fisher_trace]", "samples=50")

    def of(count: int) -> Path:
        root = Path(f"runs{count}")
        multiply(sorted(Path("originals").iterdir()), root, count)
        return root

    return of


_opened: list[Path] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], str | Path):
        _opened.append(Path(arguments[0]))


# It can't be taken away again.
sys.addaudithook(_watch)


@contextmanager
def opened() -> Iterator[list[Path]]:
    """Files opened and directories listed."""
    global _opened
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


@contextmanager
def calls() -> Iterator[Counter[str]]:
    """How many functions were called."""
    counted: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: counted.update([event]) if event.endswith("call") else None)
    try:
        yield counted
    finally:
        sys.setprofile(None)


def test_multiplied_runs_are_runs(fsbench, multiplied) -> None:
    runs = run_directories(multiplied(20))
    assert len(runs) == 20
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        assert RunDirectory.of(summary["config"], summary["choices"]).path == run
        assert summary["run"] == run.name == f"{run.name.rpartition('-')[0]}-{summary['identity']}"
    again = fsbench("sharpness", "-m", "run=glob(runs20/*)", "measures=[fisher_trace]", "samples=50")
    assert again.out.splitlines()[-1].startswith("0 measured, 20 already measured,")


@pytest.mark.parametrize("name", TABLES)
def test_files_opened_per_run(multiplied, capsys, name) -> None:
    main(["table", str(multiplied(2)), *TABLES[name]])  # for what is opened once: modules
    for count in (4, 12):
        root = multiplied(count)
        with opened() as found:
            main(["table", str(root), *TABLES[name]])
        here = Counter(path.name if path.is_file() else "directory" for path in found if root in [path, *path.parents])
        asked = ["directory", "summary.json", "sharpness.json"][: FILES[name] + 1]
        assert here == dict.fromkeys(asked, count) | {"directory": count + 1}
    capsys.readouterr()


@pytest.mark.parametrize("name", TABLES)
def test_work_grows_as_the_runs_do(multiplied, capsys, name) -> None:
    """Twice the runs more are at most 2.2 times the calls more; were it their square, 4."""
    taken = []
    for count in (5, 20, 40, 80):
        root = multiplied(count)
        with calls() as counted:
            main(["table", str(root), *TABLES[name]])
        taken.append(counted.total())
    _, a, b, c = taken
    assert 1.5 < (c - b) / (b - a) < 2.2
    capsys.readouterr()


@pytest.mark.parametrize(
    "asked",
    [["optimizer", "test_loss"], ["optimizer", "fisher_trace"], ["optimizer", "misspelt"], ["run"], []],
    ids=",".join,
)
def test_what_is_asked_for_is_read_as_ever(multiplied, asked) -> None:
    root = multiplied(6)
    runs = run_directories(root)
    (runs[0] / "sharpness.json").unlink()
    (runs[1] / "summary.json").unlink()
    (runs[2] / "summary.json").write_text("{")
    everything, found = read_records([root]), read_records([root], asked)
    assert (found.choices, found.configuration) == (everything.choices, everything.configuration)
    assert found.unfinished == everything.unfinished == {"interrupted": 1, "unreadable": 1}
    assert [[row.get(name) for name in asked] for row in found.rows] == [
        [row.get(name) for name in asked] for row in everything.rows
    ]
    needed = "fisher_trace" in asked or "misspelt" in asked
    assert found.measured == (everything.measured if needed else {})
    assert len(everything.measured) == 4


def test_where_runs_are_found(tmp_path, monkeypatch) -> None:
    """Sorted by parts; none inside of another; links are not followed, and no run is read twice."""
    monkeypatch.chdir(tmp_path)
    for place in ("b", "a/z", "a-b", "a/y", "a/y/inside", "c/d/e"):
        Path(place).mkdir(parents=True)
        Path(place, "config.yaml").touch()
        Path(place, "status.json").write_text('{"status": "failed"}')
    Path("c/link").symlink_to("../a", target_is_directory=True)
    places = ["a/y", "a/z", "a-b", "b", "c/d/e"]
    assert run_directories(Path()) == [*map(Path, places)]
    assert run_directories(tmp_path) == [tmp_path / place for place in places]
    assert run_directories(Path("a/../b")) == [Path("a/../b")]
    assert read_records([Path("."), tmp_path / "a", Path("c/link"), Path("b"), Path("b/../a")]).unfinished == {
        "failed": 5
    }


@pytest.mark.parametrize(
    ("values", "mixed"),
    [
        ([1, 1.0, 1], None),
        ([True, 1], ["1", "true"]),
        ([None, "-", float("nan")], None),
        ([None, 0], ["0", "-"]),
        ([[1, 2], [1, 2]], None),
        ([[1, 2], None, [3]], ["-", "[1, 2]", "[3]"]),
        (["b", "a", "b"], ["a", "b"]),
        ([10, 9.5, 0.1 + 0.2, 0.3], ["0.3", "9.5", "10"]),
    ],
    ids=str,
)
def test_mixed_keys(values, mixed) -> None:
    """Values differ if their texts do; lines of one run mix nothing."""
    rows = [{"by": "x", "key": value} for value in values] + [{"by": "y", "key": "alone"}]
    assert mixed_keys(rows, ["by"], [], ["by", "key"]) == ({"key": mixed} if mixed else {})
