from __future__ import annotations

import math

import pandas as pd

from fsbench.report.table import Bold, Grid, markdown, tabular, write_frame

GRID = Grid(
    ["label_noise", "", "γ̂ (%)"],
    [["[0.2]", "measured", Bold("-97.2 ± 0.1 (3)")], ["", "a|b & c", "1.2e-05"]],
    left=2,
    groups=1,
)


def test_markdown_of_a_grid() -> None:
    assert markdown(GRID) == (
        "| label_noise |          |               γ̂ (%) |\n"
        "| ----------- | -------- | ------------------: |\n"
        "| [0.2]       | measured | **-97.2 ± 0.1 (3)** |\n"
        "|             | a\\|b & c |             1.2e-05 |\n"
    )


def test_tabular_of_a_grid() -> None:
    assert tabular(GRID).splitlines() == [
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"label\_noise &  & $\hat{\gamma}$ (\%) \\",
        r"\midrule",
        r"{[}0.2] & measured & \textbf{\boldmath $-$97.2 $\pm$ 0.1 (3)} \\",
        r" & a\textbar{}b \& c & 1.2 $\times$ 10$^{-5}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


FRAME = pd.DataFrame(
    {"method": ["exact", "naive_x"], "n": [10, 1000], "seconds": [0.0181234, 11.11], "paper": [math.nan, 12.0]}
)


def test_a_plain_table(tmp_path) -> None:
    paths = write_frame(FRAME, tmp_path / "out", "fig1", ["Seconds for Tr[H]", "3 of 10 seeds."])
    assert [path.name for path in paths] == ["fig1.csv", "fig1.md", "fig1.tex"]
    assert paths[0].read_text() == "method,n,seconds,paper\nexact,10,0.0181234,\nnaive_x,1000,11.11,12.0\n"
    assert paths[1].read_text() == (
        "# fig1\n\nSeconds for Tr[H]. 3 of 10 seeds.\n\n"
        "| method  |    n | seconds | paper |\n"
        "| ------- | ---: | ------: | ----: |\n"
        "| exact   |   10 | 0.01812 |     - |\n"
        "| naive_x | 1000 |   11.11 | 12.00 |\n"
    )
    tex = paths[2].read_text()
    assert r"\caption{Seconds for Tr{[}H]. 3 of 10 seeds.}" in tex
    assert r"naive\_x & 1000 & 11.11 & 12.00 \\" in tex
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fig1.csv", "fig1.md", "fig1.tex"]
