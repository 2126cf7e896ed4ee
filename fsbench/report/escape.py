"""Text that Markdown and LaTeX would read as markup, made plain."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_SMALL = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"),
    *("nu", "xi", "pi", "rho", "varsigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
_CAPITAL = ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega")

# Of ASCII, everything that LaTeX's text mode gives a meaning or another glyph.
_LATEX = (
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",
        # At the start of a line these two would be read as arguments of the line break before.
        "[": "{[}",
        "*": "{*}",
        "‘": "`",
        "’": "'",
        "“": "``",
        "”": "''",
        "±": r"$\pm$",
        "−": "$-$",
        "×": r"$\times$",
        "·": r"$\cdot$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "≈": r"$\approx$",
        "≠": r"$\neq$",
        "∞": r"$\infty$",
        "√": r"$\surd$",
        "→": r"$\to$",
        "∈": r"$\in$",
        "∇": r"$\nabla$",
        "∂": r"$\partial$",
        "∝": r"$\propto$",
        "‖": r"$\|$",
        "–": r"\textendash{}",
        "—": r"\textemdash{}",
        "…": r"\dots{}",
        "²": "$^2$",
        "³": "$^3$",
        "\N{NO-BREAK SPACE}": "~",
        "\n": " ",
    }
    | dict(zip("αβγδεζηθικλμνξπρςστυφχψω", map("$\\{}$".format, _SMALL), strict=True))
    | dict(zip("ΓΔΘΛΞΠΣΦΨΩ", map("$\\{}$".format, _CAPITAL), strict=True))
)

# A number's sign and power of ten, so that -979.3 and 1.2e-05 are set as numbers.
_POWER = re.compile(r"(?<![\w.])([+-]?\d+(?:\.\d+)?)e([+-]?\d+)(?![\w.])")
_SIGN = re.compile(r"(?<![\w.)\]])-(?=\d)")


def latex_text(text: str) -> str:
    """`text` for LaTeX's text mode: markup escaped, signs and powers of numbers set as mathematics."""
    text = _POWER.sub(lambda found: f"{found[1]} × 10\0{int(found[2])}\0", text)
    text = _SIGN.sub("−", text)
    escaped = "".join(map(_latex_character, text)).replace("--", "-{}-")
    escaped = re.sub(r"\$(\\[a-zA-Z]+)\$\N{COMBINING CIRCUMFLEX ACCENT}", r"$\\hat{\1}$", escaped)
    escaped = escaped.replace("\N{COMBINING CIRCUMFLEX ACCENT}", "")
    return re.sub("\0(.*?)\0", lambda found: f"$^{{{found[1].replace('$', '')}}}$", escaped)


def markdown_text(text: str) -> str:
    """`text` for a cell of a Markdown table, or a line: none of it is read as markup, a link or a line break."""
    text = re.sub(r"([|*\\`]|\](?=[(\[:])|:(?=//)|(?<=www)\.)", r"\\\1", text).replace("\n", " ")
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text)


def csv_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with texts that a spreadsheet would take for formulas marked as texts; numbers stay as they are."""
    return frame.map(_csv_cell).rename(columns=_csv_cell)


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str) or len(value) < 2 or value[0] not in "=+-@\t\r":
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    # LaTeX knows ASCII and Latin letters with accents by itself; of others, what is nearest in ASCII.
    if character < "\u0250" or character in "\0\N{COMBINING CIRCUMFLEX ACCENT}":
        return character
    near = [_LATEX.get(one, one) for one in unicodedata.normalize("NFKD", character)]
    return "".join(text for text in near if text.isascii()) or "?"
