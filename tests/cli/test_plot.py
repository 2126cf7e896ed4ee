"""`fsbench plot`: what is drawn, by value; what is said of columns that there are not."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

PNG, PDF = b"\x89PNG\r\n", b"%PDF"


@pytest.fixture
def runs(fsbench, quick) -> dict[str, dict[str, object]]:
    """sgd and sam, two seeds each, by directory: what they recorded, and their epochs."""
    fsbench("train", "-m", *quick, "optimizer=sgd,sam", "seed=0,1", "trainer.epochs=3")
    return {
        str(path): json.loads((path / "summary.json").read_text())
        | {"metrics": [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]}
        for path in sorted(Path("runs").iterdir())
    }


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are written."""
    from matplotlib.figure import Figure

    found, write = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (found.append(self), write(self, *a, **k))[1])
    return found


def lines(figure) -> list[list[tuple[float, float]]]:
    return [[tuple(point) for point in line.get_xydata().tolist()] for line in figure.axes[0].lines]


def bands(figure) -> list[dict[float, tuple[float, float]]]:
    """Lower and upper end by place."""
    found = []
    for band in figure.axes[0].collections:
        vertices = band.get_paths()[0].vertices.tolist()
        at = {place: [y for x, y in vertices if x == place] for place, _ in vertices}
        found.append({place: (min(ends), max(ends)) for place, ends in at.items()})
    return found


def legend(figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def caption(figure) -> str:
    return " ".join(figure._supxlabel.get_text().split())


def of_optimizer(runs, name: str) -> list[dict]:
    return [run for run in runs.values() if run["choices"]["optimizer"] == name]


@pytest.mark.parametrize("band", ["stderr", "range"])
def test_means_over_seeds_epoch_by_epoch(fsbench, runs, drawn, band) -> None:
    ended = fsbench(
        "plot", "runs", "--x", "epoch", "--y", "test_accuracy", "--by", "optimizer", "--band", band,
        "-o", "a/curves.svg",
    )  # fmt: skip
    words = {"stderr": "one standard error of the mean to either side", "range": "from the smallest to the largest run"}
    said = f"Mean over runs, by optimizer; the band is {words[band]}."
    assert (ended.code, ended.out, ended.err) == (0, f"a/curves.svg: {said}\n", "")
    assert caption(drawn[0]) == said
    assert legend(drawn[0]) == ["sam (2 runs)", "sgd (2 runs)"]
    for line, limits, name in zip(lines(drawn[0]), bands(drawn[0]), ("sam", "sgd"), strict=True):
        metrics = [run["metrics"] for run in of_optimizer(runs, name)]
        for i, (x, y) in enumerate(line):
            values = [rows[i]["test_accuracy"] for rows in metrics]
            assert (x, y) == (i + 1, pytest.approx(statistics.mean(values)))
            error = statistics.stdev(values) / 2**0.5
            expected = (y - error, y + error) if band == "stderr" else (min(values), max(values))
            assert limits[x] == pytest.approx(expected)
    assert drawn[0].axes[0].get_xlabel() == "epoch"
    assert drawn[0].axes[0].get_ylabel() == "test accuracy"


def test_a_point_for_each_run(fsbench, runs, drawn) -> None:
    fsbench("sharpness", "-m", "run=glob(runs/*)", "measures=[fisher_trace]", "samples=50")
    (missing, *rest) = runs
    Path(missing, "sharpness.json").unlink()
    ended = fsbench("plot", "--x", "fisher_trace", "--y", "generalization_gap", "--by", "optimizer", "-o", "s.png")
    assert (ended.code, ended.out) == (0, "s.png: A point for each of 3 runs, by optimizer.\n")
    assert ended.err == "note: 1 of 4 runs are left out, which lack fisher_trace or generalization_gap\n"
    expected = {
        (json.loads(Path(run, "sharpness.json").read_text())["measures"]["fisher_trace"]["value"],
         runs[run]["results"]["generalization_gap"])
        for run in rest
    }  # fmt: skip
    sam, sgd = lines(drawn[0])
    assert {*sam, *sgd} == expected
    assert (len(sam), len(sgd)) == (1, 2)
    assert legend(drawn[0]) == ["sam (1 run)", "sgd (2 runs)"]


def test_means_over_a_configuration_key(fsbench, quick, drawn) -> None:
    fsbench("train", "-m", *quick, "optimizer=sam", "seed=0,1", "optimizer.rho=0.001,0.01,0.1")
    ended = fsbench("plot", "--x", "optimizer.rho", "--y", "test_loss", "-o", "rho.pdf")
    assert (ended.code, ended.err) == (0, "")
    found: dict[float, list[float]] = {}
    for path in Path("runs").iterdir():
        summary = json.loads((path / "summary.json").read_text())
        found.setdefault(summary["config"]["optimizer"]["rho"], []).append(summary["results"]["test_loss"])
    assert lines(drawn[0])[0] == [(rho, pytest.approx(statistics.mean(found[rho]))) for rho in (0.001, 0.01, 0.1)]
    assert drawn[0].axes[0].get_xscale() == "log"
    assert drawn[0].axes[0].get_yscale() == "linear"
    assert legend(drawn[0]) == []


def test_each_ending_has_its_format_and_the_same_runs_the_same_bytes(fsbench, runs) -> None:
    for name, start in (("c.png", PNG), ("c.pdf", PDF), ("c.svg", b"<?xml")):
        written = []
        for _ in range(2):
            assert fsbench("plot", "--x", "epoch", "--y", "test_loss", "--by", "optimizer", "-o", name).code == 0
            written.append(Path(name).read_bytes())
        assert written[0].startswith(start)
        assert written[0] == written[1]


def test_what_is_averaged_is_said(fsbench, runs, drawn) -> None:
    ended = fsbench("plot", "--x", "epoch", "--y", "test_loss", "-o", "c.svg")
    assert ended.err == "note: a line averages runs that differ in optimizer (sam, sgd); add it to --by\n"
    assert fsbench("plot", "--x", "seed", "--y", "test_loss", "--by", "optimizer", "-o", "c.svg").err == ""
    assert fsbench("plot", "--x", "test_accuracy", "--y", "test_loss", "-o", "c.svg").err == ""


def test_selected_and_left_out(fsbench, runs, drawn) -> None:
    Path(next(iter(runs)), "summary.json").unlink()
    ended = fsbench(
        "plot", "--x", "epoch", "--y", "test_loss", "--by", "optimizer,seed", "--where", "trainer.epochs=3.0",
        "--where", "optimizer=sam", "-o", "c.svg",
    )  # fmt: skip
    assert ended.err == "note: runs left out because they are not finished: 1 interrupted\n"
    assert legend(drawn[0]) == ["sam, 1 (1 run)"]
    assert lines(drawn[0])[0] == [(row["epoch"], row["test_loss"]) for row in list(runs.values())[1]["metrics"]]


def test_unreadable_epochs_are_left_out_and_said(fsbench, runs, drawn) -> None:
    bad, absent, *_ = runs
    Path(bad, "metrics.jsonl").write_text("{")
    Path(absent, "metrics.jsonl").unlink()
    ended = fsbench("plot", "--x", "epoch", "--y", "test_loss", "--by", "optimizer", "-o", "c.svg")
    assert ended.code == 0
    assert ended.err == (
        f"note: unreadable: {bad}/metrics.jsonl (not JSON)\n"
        "note: 2 of 4 runs are left out, which lack epoch or test_loss\n"
    )
    assert legend(drawn[0]) == ["sgd (2 runs)"]


EPOCHS = "epoch, lr, train_loss, train_accuracy, skipped_steps, "
XY = ("--x", "epoch", "--y", "test_loss")
BAD = {
    "ending": ((*XY, "-o", "c.jpg"), "-o=c.jpg: must end in one of .svg, .png, .pdf"),
    "y": (("--x", "epoch", "--y", "test_acuracy"), f"--y=test_acuracy: no such column (did you mean 'test_accuracy'?); "
          f"there are {EPOCHS}"),
    "x": (("--x", "epohc", "--y", "test_loss"), "--x=epohc: no such column (did you mean 'epoch'?); there are epoch, "),
    "of-a-run": (("--x", "epoch", "--y", "parameters"), f"--y=parameters: no such column; there are {EPOCHS}"),
    "of-an-epoch": (("--x", "test_loss", "--y", "lr"), "--y=lr: no such column"),
    "unmeasured": (("--x", "hessian_trace", "--y", "test_loss"), "--x=hessian_trace: no run there was measured, "
                   "`fsbench sharpness -m 'run=glob(runs/*)' measures=[trace]` does it; there are "),
    "name": (("--x", "fisher_trace", "--y", "trace"), "--y=trace: no run there was measured, `fsbench sharpness -m "),
    "text": (("--x", "optimizer", "--y", "test_loss"), "--x=optimizer --y=test_loss: both must be numbers; others go "),
    "by": ((*XY, "--by", "optimiser"), "--by=optimiser: no such column (did you mean 'optimizer'?); there are "),
    "where": ((*XY, "--where", "sed=1"), "--where=sed=1: no such column (did you mean 'seed'?); there are dataset, "),
    "no-value": ((*XY, "--where", "seed"), "--where=seed: must read KEY=VALUE"),
    "none": ((*XY, "--where", "seed=7"), "--where=seed=7: none of 4 finished runs is like that"),
    "absent": ((*XY, "nowhere"), "runs=nowhere: no such directory"),
    "empty": ((*XY, "empty"), "runs=empty: no finished run there"),
    "no-y": (("--x", "epoch"), "fsbench plot: the following arguments are required: --y; see fsbench plot --help"),
    "nothing": (("--x", "test_loss", "--y", "validation_loss"), "--y=validation_loss: no run has both test_loss "),
}  # fmt: skip


def test_bad_input_is_one_line_and_leaves_nothing(fsbench, runs, tmp_path) -> None:
    for run in runs:
        entry = {"value": 1.0, "settings": {}}
        content = {"weights": "x", "measures": {"fisher_trace": entry}}
        Path(run, "sharpness.json").write_text(json.dumps(content))
        summary = json.loads(Path(run, "summary.json").read_text())
        summary["results"]["validation_loss"] = None
        Path(run, "summary.json").write_text(json.dumps(summary))
    (tmp_path / "empty").mkdir()
    for name, (arguments, said) in BAD.items():
        ended = fsbench("plot", *arguments, *(() if "-o" in arguments else ("-o", "c.svg")))
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), name
        assert ended.err.startswith(f"fsbench: {said}"), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "runs"]


def test_help(fsbench) -> None:
    assert "  plot       curves of finished runs, or one point a run, as a picture\n" in fsbench("--help").out
    with pytest.raises(SystemExit, match="0"):
        fsbench("plot", "--help")
