from __future__ import annotations

import math

import pandas as pd

from fsbench.report.frames import write_frame

FRAME = pd.DataFrame(
    {"method": ["exact", "naive_x"], "n": [10, 1000], "seconds": [0.0181234, 11.11], "paper": [math.nan, 12.0]}
)


def test_a_plain_table(tmp_path) -> None:
    picture = tmp_path / "out" / "fig1.png"
    paths = write_frame(
        FRAME,
        tmp_path / "out",
        "fig1",
        ["Seconds for Tr[H]", "3 of 10 seeds."],
        headers={"seconds": "seconds (s)"},
        formats={"seconds": ".2f"},
        figures=[picture, picture.with_suffix(".svg")],
    )
    assert [path.name for path in paths] == ["fig1.csv", "fig1.md", "fig1.tex"]
    assert paths[0].read_text() == "method,n,seconds,paper\nexact,10,0.0181234,\nnaive_x,1000,11.11,12.0\n"
    assert paths[1].read_text() == (
        "# fig1\n\nSeconds for Tr[H]. 3 of 10 seeds.\n\n![fig1](fig1.png)\n\n"
        "| method  |    n | seconds (s) | paper |\n"
        "| ------- | ---: | ----------: | ----: |\n"
        "| exact   |   10 |        0.02 |     - |\n"
        "| naive_x | 1000 |       11.11 | 12.00 |\n"
    )
    tex = paths[2].read_text()
    assert r"\caption{Seconds for Tr{[}H]. 3 of 10 seeds.}" in tex
    assert r"naive\_x & 1000 & 11.11 & 12.00 \\" in tex
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fig1.csv", "fig1.md", "fig1.tex"]


def test_one_text_is_a_caption_too(tmp_path) -> None:
    paths = write_frame(FRAME, tmp_path, "t", "A caption", title="Heading")
    assert paths[1].read_text().startswith("# Heading\n\nA caption.\n\n|")
