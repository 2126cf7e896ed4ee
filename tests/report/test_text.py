from __future__ import annotations

import math
import shutil
import subprocess

import pandas as pd
import pytest

from fsbench.report.table import Bold, Grid, latex_table
from fsbench.report.text import (
    block_decimals,
    csv_text,
    difference_text,
    latex_text,
    markdown_text,
    mean_text,
    p_text,
    significant,
)

MEANS = {
    "percent": (97.217, 0.131, 2, "97.22 ± 0.13"),
    "one run": (97.217, math.nan, 2, "97.22"),
    "no run": (math.nan, math.nan, 2, "-"),
    "two digits of the deviation": (-979.31, 2.234, None, "-979.3 ± 2.2"),
    "small deviation": (0.27601, 0.00012, None, "0.27601 ± 0.00012"),
    "large": (12345.6, 78.9, None, "12346 ± 79"),
    "power of ten": (1.2341e-7, 1.2e-8, None, "1.234e-07 ± 1.2e-08"),
    "singular": (-math.inf, math.nan, None, "-inf"),
    "zero": (0.0, 0.0, None, "0 ± 0"),
}


@pytest.mark.parametrize(("mean", "std", "decimals", "text"), MEANS.values(), ids=MEANS)
def test_mean_and_deviation(mean, std, decimals, text) -> None:
    assert mean_text(mean, std, decimals) == text


BLOCKS = {
    "percent": ("test accuracy (%)", [97.2, 0.1], 2),
    "alike": ("ln det", [-979.3, -1138.1], 1),
    "far apart": ("trace", [0.1, 500.0], None),
    "gaps": ("trace", [math.nan, 4.5], 3),
    "nothing": ("trace", [math.nan], None),
}


@pytest.mark.parametrize(("label", "means", "decimals"), BLOCKS.values(), ids=BLOCKS)
def test_a_table_has_one_count_of_decimals(label, means, decimals) -> None:
    assert block_decimals(label, means) == decimals


DIFFERENCES = {
    "more": (0.314, 2, "+0.31"),
    "less": (-0.314, 2, "-0.31"),
    "no sign that the digits don't show": (-0.004, 2, "0.00"),
    "none": (math.nan, 2, "-"),
    "free": (158.83, None, "+159"),
    "infinite": (-math.inf, 2, "-inf"),
}


@pytest.mark.parametrize(("value", "decimals", "text"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_difference(value, decimals, text) -> None:
    assert difference_text(value, decimals) == text


@pytest.mark.parametrize(("p", "text"), [(0.0321, "0.032"), (0.00099, "< 0.001"), (math.nan, "-"), (1.0, "1.000")])
def test_p(p, text) -> None:
    assert p_text(p) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (11.114, "11.11"), (123456.0, "123456"), (1e-5, "1.000e-05")])
def test_significant(value, text) -> None:
    assert significant(value) == text


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
    lines = csv_text(frame).splitlines()
    assert lines[0] == "'=a,b,c"
    assert [line.rpartition(",-1.0,-2")[0] for line in lines[1:]] == [
        "'=1+1", "-", "-1.5", "'+x", "'@y", "'\tz", "plain"
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_everything_escaped_compiles(tmp_path) -> None:
    cells = ["".join(map(chr, range(32, 127))), *(text for text, _ in LATEX.values()), "∇ ‖ ≤ é ü — … “a” −1"]
    grid = Grid(["a", "b"], [[cell, Bold(cell)] for cell in cells], left=1)
    table = latex_table([("a_b %", grid), ("", grid)], "".join(cells), "tab:a:b_c")
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
