"""Adding a paper is adding one file, with what it prints beside it, and an experiment of its own where it has one."""

from __future__ import annotations

from pathlib import Path

import yaml

from fsbench import plugins
from fsbench.papers import collect

ONE = """
from fsbench.papers.artefact import Artefact, Published, Scale, Table

ARTEFACTS = (
    Artefact(
        name="new2100/table1",
        title="Two radii",
        source="New 2100, table 1",
        shows=Table("test_error", (), "optimizer.rho", "0.05", False, "Test error (%)"),
        experiment="kim2022/fig5",
        axes={"optimizer.rho": ("0.05", "0.5")},
        seeds=2,
        published=(Published("radii.csv", {"optimizer.rho": "radius"}, {"0.05": "short", "0.5": "long"}, factor=100),),
        scales={
            "tiny": Scale(
                overrides=("dataset=digits", "model=mlp", "model.widths=[8]", "trainer.epochs=2"),
            ),
        },
    ),
)
"""


def test_one_file_is_enough(fsbench, tmp_path, papers) -> None:
    mine = tmp_path / "mine"
    (mine / "numbers").mkdir(parents=True)
    (mine / "new2100.py").write_text(ONE)
    (mine / "numbers/radii.csv").write_text("radius,mean,std\nshort,42.5,1.5\nlong,24.0,\n")
    line = ("reproduce", "--papers", str(mine), "--papers", str(papers), "new2100/table1", "scale=tiny", "device=cpu")
    assert "4 to train" in fsbench(*line, "plan=true").out
    ended = fsbench(*line)
    assert ended.code == 0, ended.err
    files = {path.name for path in Path("results/new2100/table1").iterdir()}
    assert {"table1.csv", "table1.md", "table1.tex", "table1.png", "table1.svg", "provenance.json"} <= files
    markdown = Path("results/new2100/table1/table1.md").read_text()
    assert "42.50 ± 1.50" in markdown
    assert "24.00" in markdown
    assert "New 2100, table 1" in markdown
    # The papers that come with fsbench are still there, and the others too.
    assert "kim2022/table1" in fsbench("list", "artefacts").out


def test_a_plugin_can_declare_it(fsbench, tmp_path, monkeypatch) -> None:
    """The same paper, declared in a file that --plugin names, with its numbers beside it."""
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setattr(plugins, "_read", {})
    monkeypatch.setattr(collect, "_papers", dict(collect._papers))
    body = ONE.replace("ARTEFACTS = (", "import fsbench\n\n\n@fsbench.paper('new2100')\ndef new2100():\n    return (")
    (tmp_path / "mine.py").write_text(body)
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers/radii.csv").write_text("radius,mean,std\nshort,42.5,1.5\nlong,24.0,\n")
    line = ("reproduce", "--plugin", "mine.py", "new2100/table1", "scale=tiny", "device=cpu")
    assert fsbench(*line).code == 0
    assert "42.50 ± 1.50" in Path("results/new2100/table1/table1.md").read_text()


OWN = """
from fsbench.papers.artefact import Artefact, Scale, Table

ARTEFACTS = (
    Artefact(
        name="own2101/table1",
        title="With and without a perturbation",
        source="Own 2101, table 1",
        shows=Table("test_accuracy", (), "optimizer", "sgd", True, "Test accuracy (%)"),
        experiment="own2101",
        axes={"optimizer": ("sgd", "sam")},
        seeds=1,
        scales={"tiny": Scale(overrides=("trainer.epochs=2",))},
    ),
)
"""
EXPERIMENT = """\
# @package _global_
defaults:
  - override /dataset: digits
  - override /model: mlp
  - override /setup: mine
  - _self_

model:
  widths: [12]
trainer:
  epochs: 3
  progress: false
"""
# What the paper tuned for one method, where a setup has it.
RECIPE = "# @package _global_\noptimizer:\n  rho: 0.3\n"
SETUP = "# @package _global_\ndefaults:\n  - override /schedule: constant\n"


def test_an_own_experiment_comes_from_an_own_directory(fsbench, tmp_path, papers) -> None:
    """Two cells, planned, trained and drawn again; nothing of it lies in the package."""
    mine = tmp_path / "mine"
    files = {"papers/own2101.py": OWN, "conf/experiment/own2101.yaml": EXPERIMENT, "conf/setup/mine.yaml": SETUP,
             "conf/recipe/optimizer/mine/sam.yaml": RECIPE}  # fmt: skip
    for name, text in files.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(text)
    paper = ("reproduce", "--papers", str(mine / "papers"), "own2101/table1", "scale=tiny", "device=cpu")
    alone = fsbench(*paper, "plan=true")
    assert (alone.code, alone.out) == (2, "")
    assert alone.err.startswith("fsbench: experiment=own2101: no such experiment; ")
    line = (*paper, "--config-dir", str(mine / "conf"))
    planned = fsbench(*line, "plan=true").out
    assert "2 runs, 2 to train (48 steps), 0 to measure: about " in planned
    assert "Trained for 2 epochs instead of 3." in planned
    ended = fsbench(*line)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("own2101/table1: 2 of 2 runs; results/own2101/table1: table1.csv ")
    configs = {
        run.name.split("-")[2]: yaml.safe_load((run / "config.yaml").read_text()) for run in Path("runs").iterdir()
    }
    assert configs.keys() == {"sgd", "sam"}
    assert configs["sam"]["optimizer"]["rho"] == 0.3
    assert {(c["model"]["widths"][0], c["trainer"]["epochs"], c["schedule"]["name"]) for c in configs.values()} == {
        (12, 2, "constant")
    }
    markdown = Path("results/own2101/table1/table1.md").read_text()
    drawn = fsbench(*line, "render=true", "results_dir=again")
    assert (drawn.code, drawn.err) == (0, "")
    again = Path("again/own2101/table1/table1.md").read_text()
    assert "Own 2101, table 1" in markdown
    assert [row for row in again.splitlines() if row.startswith("|")] == [
        row for row in markdown.splitlines() if row.startswith("|")
    ]


def test_a_directory_of_groups_that_is_not_there(fsbench) -> None:
    ended = fsbench("reproduce", "--config-dir", "nowhere", "list")
    assert (ended.code, ended.err) == (2, "fsbench: --config-dir=nowhere: no such directory\n")
