from __future__ import annotations

import shutil
import subprocess

import pandas as pd
import pytest

from fsbench.report.escape import csv_frame, latex_text, markdown_text
from fsbench.report.grid import Entry, Grid, latex_table, markdown, tabular

LATEX = {
    "markup": (r"a_b 50% & #1 {x} $y^2~", r"a\_b 50\% \& \#1 \{x\} \$y\textasciicircum{}2\textasciitilde{}"),
    "backslash": ("\\", r"\textbackslash{}"),
    "plus-minus and minus": ("-1.5 ± 0.2", r"$-$1.5 $\pm$ 0.2"),
    "a hyphen is none": ("ResNet-20, seeds 0-2", "ResNet-20, seeds 0-2"),
    "power of ten": ("1.2e-05", r"1.2 $\times$ 10$^{-5}$"),
    "a name is no power": ("cifar1e5x", "cifar1e5x"),
    "greek": ("ρ = 0.1, Σ", r"$\rho$ = 0.1, $\Sigma$"),
    "with a hat": ("γ̂", r"$\hat{\gamma}$"),
    "variant": ("ϵ", r"$\epsilon$"),
    "no dash is made": ("--seeds", "-{}-seeds"),
    "no argument of a line break": ("[0.1]*", "{[}0.1]{*}"),
    "nothing near": ("✓", "?"),
    "subscript": ("H₂", "H2"),
}


@pytest.mark.parametrize(("text", "escaped"), LATEX.values(), ids=LATEX)
def test_latex_text(text, escaped) -> None:
    assert latex_text(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("2*3*4", r"2\*3\*4"),
        ("p < 0.05", "p < 0.05"),
        ("<b>", "&lt;b>"),
        ("a\nb", "a b"),
        ("[0.2] (3)", "[0.2] (3)"),
        ("[a](b)", r"[a\](b)"),
        ("![a][b]", r"![a\][b]"),
        ("https://a.b", r"https\://a.b"),
        ("www.a.b", r"www\.a.b"),
    ],
)
def test_markdown_text(text, escaped) -> None:
    assert markdown_text(text) == escaped


def test_csv_has_no_formulas() -> None:
    frame = pd.DataFrame({"=a": ["=1+1", "-", "-1.5", "+x", "@y", "\tz", "plain"], "b": [-1.0] * 7, "c": [-2] * 7})
    lines = csv_frame(frame).to_csv(index=False).splitlines()
    assert lines[0] == "'=a,b,c"
    assert [line.rpartition(",-1.0,-2")[0] for line in lines[1:]] == [
        "'=1+1", "-", "-1.5", "'+x", "'@y", "'\tz", "plain"
    ]  # fmt: skip


GRID = Grid(
    ["label_noise", "", "γ̂ (%)"],
    [["[0.2]", "measured", Entry("-97.2 ± 0.1 (3)", bold=True)], ["", "a|b & c", "1.2e-05"]],
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


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_everything_escaped_compiles(tmp_path) -> None:
    cells = ["".join(map(chr, range(32, 127))), *(text for text, _ in LATEX.values()), "∇ ‖ ≤ é ü — … “a” −1"]
    grid = Grid(["a", "b"], [[cell, Entry(cell, bold=True)] for cell in cells], left=1)
    table = latex_table([("a_b %", grid), ("", GRID)], "".join(cells), "tab:a:b_c")
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + table + "\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout
