"""Texts of tables and figures: numbers with digits that mean something, axes in words, markup escaped."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fsbench.config.component import components

if TYPE_CHECKING:
    import pandas as pd

# --- numbers ---


def unit_scale(label: str) -> float:
    """The factor from a measured value to the unit of its label: shares in [0, 1] are shown in percent."""
    return 100.0 if "%" in label else 1.0


def parsed_number(value: str) -> float | None:
    """The number that a text is, if it is one."""
    try:
        return float(value)
    except ValueError:
        return None


def all_numbers(values: Iterable[str]) -> bool:
    return all(parsed_number(value) is not None for value in values)


def same_value(one: str, other: str) -> bool:
    """Whether both are one value of an axis: 0.2 and 0.20 are the same number."""
    return one == other or (parsed_number(one) is not None and parsed_number(one) == parsed_number(other))


def significant(value: float, digits: int = 4) -> str:
    """`value` with that many significant digits; a power of ten only where it would be long without."""
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "-")
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - _exponent(value))}f}"


def block_decimals(label: str, means: Iterable[float]) -> int | None:
    """Decimals that all numbers of one table have: two for percent, else those that give each mean four digits.

    None where the means are so far apart that one count of decimals does not suit them all.
    """
    if "%" in label:
        return 2
    sizes = [_exponent(mean) for mean in means if math.isfinite(mean) and mean]
    if not sizes or max(sizes) - min(sizes) > 2 or min(sizes) < -4 or max(sizes) > 5:
        return None
    return max(0, 3 - min(sizes))


def mean_text(mean: float, std: float, decimals: int | None) -> str:
    """`97.22 ± 0.13`; the mean stands alone where there is no deviation, and `-` where there is no mean.

    Args:
        decimals: of both; None: four significant digits of the mean, two of the deviation.
    """
    if not math.isfinite(mean):
        return significant(mean)
    if not math.isfinite(std):
        return significant(mean) if decimals is None else f"{mean:.{decimals}f}"
    if decimals is None:
        largest = max(abs(mean), std)
        if largest and not 1e-4 <= largest < 1e6:
            return f"{mean:.3e} ± {std:.1e}"
        needed = [digits - 1 - _exponent(value) for value, digits in ((mean, 4), (std, 2)) if value]
        decimals = min(6, max([0, *needed]))
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def difference_text(difference: float, decimals: int | None) -> str:
    """The difference with its sign, `+0.31`; `-` where there is none."""
    if math.isnan(difference):
        return "-"
    fixed = decimals is not None and math.isfinite(difference)
    text = f"{difference:+.{decimals}f}" if fixed else significant(difference, 3)
    # -0.00 would claim a sign that the digits do not show.
    if text.strip("+-0.") == "":
        return text.lstrip("+-")
    return text if text[0] in "+-" else f"+{text}"


def p_text(p: float) -> str:
    """`0.032`, `< 0.001`, or `-` where no test was possible."""
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def share_text(share: float) -> str:
    """`0.75`, or `-` where there is none."""
    return "-" if math.isnan(share) else f"{share:.2f}"


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


# --- words ---

# What the last part of a key leaves unsaid.
_AXES = {
    "dataset.noise": "label noise",
    "dataset.random_labels": "share of random labels",
    "dataset.confusion": "confusion set (images)",
    "dataset": "data set",
    "trainer.batch_size": "batch size",
    "optimizer.rho": "ρ",
    "optimizer.eta": "η",
    "optimizer.lr": "learning rate",
    "alpha": "α",
}
# Networks and data sets that conf/ names; components have titles of their own.
_CHOICES = {
    "imagenet128": "ImageNet, 128 × 128",
    "mlp": "MLP", "fcnn": "FCNN", "cnn": "CNN", "lenet": "LeNet", "resnet20": "ResNet-20", "resnet32": "ResNet-32",
    "resnet34": "ResNet-34", "resnet56": "ResNet-56", "resnext29_32x4d": "ResNeXt-29", "densenet121": "DenseNet-121",
    "densenet_bc_k12": "DenseNet-BC", "vgg19_bn": "VGG-19-BN", "wrn16_4": "WRN-16-4", "wrn18_1.5": "WRN-18-1.5",
    "wrn28_2": "WRN-28-2", "wrn28_2_b33": "WRN-28-2, B(3,3)", "wrn28_10": "WRN-28-10",
    "pyramidnet272": "PyramidNet-272", "vit_base_patch16": "ViT-B/16", "deit_base": "DeiT-B",
}  # fmt: skip


def axis_words(axis: str) -> str:
    """The name that a reader has for a key of the command line: `label noise` for `dataset.noise`."""
    return _AXES.get(axis, axis.rpartition(".")[2].replace("_", " "))


def axis_title(axis: str) -> str:
    """The same as the name of an axis of a figure, which begins with a capital letter where it is a word."""
    words = axis_words(axis)
    return words[0].upper() + words[1:] if len(words) > 1 else words


def value_words(value: str) -> str:
    """The name that a figure has for a value: `FSAM` for `fsam`; values without one stay as they are."""
    component = components("optimizer").get(value) or components("dataset").get(value)
    return _CHOICES.get(value) or (component and component.title) or value


def sentences(texts: Iterable[str]) -> str:
    """The texts as one, each with its full stop, none of them twice."""
    ended = (text if text.endswith((".", "!", "?", ":")) else f"{text}." for text in map(str.strip, texts) if text)
    return " ".join(dict.fromkeys(ended))


# --- markup ---

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "ς": "varsigma",
    "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma",
    "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_SYMBOLS = {
    "±": "pm", "×": "times", "·": "cdot", "≤": "leq", "≥": "geq", "≈": "approx", "≠": "neq", "∞": "infty", "√": "surd",
    "→": "to", "∈": "in", "∇": "nabla", "∂": "partial", "∝": "propto", "‖": "|",
}  # fmt: skip
# Of ASCII, everything that LaTeX's text mode gives a meaning or another glyph.
_LATEX = {
    **{character: f"\\{character}" for character in "{}$&#%_"},
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    # At the start of a line these two would be read as arguments of the line break before.
    "[": "{[}", "*": "{*}",
    "‘": "`", "’": "'", "“": "``", "”": "''", "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\dots{}",
    "−": "$-$", "²": "$^2$", "³": "$^3$", "\N{NO-BREAK SPACE}": "~", "\n": " ",
    **{character: f"$\\{name}$" for character, name in (_SYMBOLS | _GREEK).items()},
}  # fmt: skip
_HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"

# A number's sign and power of ten, so that -979.3 and 1.2e-05 are set as numbers.
_POWER = re.compile(r"(?<![\w.])([+-]?\d+(?:\.\d+)?)e([+-]?\d+)(?![\w.])")
_SIGN = re.compile(r"(?<![\w.)\]])-(?=\d)")


def latex_text(text: str) -> str:
    """`text` for LaTeX's text mode: markup escaped, signs and powers of numbers set as mathematics."""
    text = _POWER.sub(lambda found: f"{found[1]} × 10\0{int(found[2])}\0", text)
    text = _SIGN.sub("−", text)
    escaped = "".join(map(_latex_character, text)).replace("--", "-{}-")
    escaped = re.sub(rf"\$(\\[a-zA-Z]+)\${_HAT}", r"$\\hat{\1}$", escaped).replace(_HAT, "")
    return re.sub("\0(.*?)\0", lambda found: f"$^{{{found[1].replace('$', '')}}}$", escaped)


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    # LaTeX knows ASCII and Latin letters with accents by itself; of others, what is nearest in ASCII.
    if character < "\u0250" or character == _HAT:
        return character
    near = [_LATEX.get(one, one) for one in unicodedata.normalize("NFKD", character)]
    return "".join(text for text in near if text.isascii()) or "?"


def markdown_text(text: str) -> str:
    """`text` for a cell of a Markdown table, or a line: none of it is read as markup, a link or a line break."""
    text = re.sub(r"([|*\\`]|\](?=[(\[:])|:(?=//)|(?<=www)\.)", r"\\\1", text).replace("\n", " ")
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text)


def csv_text(frame: pd.DataFrame, digits: str | None = None) -> str:
    """The frame as CSV, with the same bytes on every system.

    Texts that a spreadsheet would take for formulas are marked as texts; numbers stay as they are.

    Args:
        digits: format of the numbers; None: all their digits.
    """
    safe = frame.map(_csv_cell).rename(columns=_csv_cell)
    return safe.to_csv(index=False, float_format=digits, lineterminator="\n")


def json_records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """The lines of a frame as JSON can hold them: null for NaN."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _csv_cell(value: Any) -> Any:
    formula = isinstance(value, str) and len(value) > 1 and value[0] in "=+-@\t\r" and parsed_number(value) is None
    return f"'{value}" if formula else value
