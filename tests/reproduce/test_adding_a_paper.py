"""Adding a paper is adding one file, with what it prints beside it: it is listed, planned, trained and drawn."""

from __future__ import annotations

from pathlib import Path

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
