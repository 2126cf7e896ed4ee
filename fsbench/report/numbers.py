"""Numbers as a reader expects them: digits that mean something, one count of decimals for a mean and its deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable


def is_percent(label: str) -> bool:
    """Whether a label's unit is percent, so that shares in [0, 1] are shown times 100."""
    return "%" in label


def unit_scale(label: str) -> float:
    """What a measured value is multiplied with to be in the unit of its label."""
    return 100.0 if is_percent(label) else 1.0


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
    if is_percent(label):
        return 2
    sizes = [_exponent(mean) for mean in means if math.isfinite(mean) and mean]
    if not sizes or max(sizes) - min(sizes) > 2 or min(sizes) < -4 or max(sizes) > 5:
        return None
    return max(0, 3 - min(sizes))


def mean_text(mean: float, std: float | None, decimals: int | None) -> str:
    """`97.22 ± 0.13`; the mean stands alone where there is no deviation, and `-` where there is no mean.

    Args:
        decimals: of both; None: four significant digits of the mean, two of the deviation.
    """
    if std is None or not math.isfinite(std) or not math.isfinite(mean):
        fixed = decimals is not None and math.isfinite(mean)
        return f"{mean:.{decimals}f}" if fixed else significant(mean)
    if decimals is None:
        largest = max(abs(mean), std)
        if largest and not 1e-4 <= largest < 1e6:
            return f"{mean:.3e} ± {std:.1e}"
        decimals = max(_decimals(mean, 4), _decimals(std, 2))
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def difference_text(difference: float, decimals: int | None) -> str:
    """The difference with its sign, `+0.31`; `-` where there is none."""
    if math.isnan(difference):
        return "-"
    fixed = decimals is not None and math.isfinite(difference)
    text = f"{difference:.{decimals}f}" if fixed else significant(difference, 3)
    bare = text.lstrip("-")
    # -0.00 would claim a sign that the digits do not show.
    if bare != "inf" and not any(digit in "123456789" for digit in bare.partition("e")[0]):
        return bare
    return text if text.startswith("-") else f"+{text}"


def p_text(p: float) -> str:
    """`0.032`, `< 0.001`, or `-` where no test was possible."""
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _decimals(value: float, digits: int) -> int:
    return 0 if value == 0 else min(6, max(0, digits - 1 - _exponent(value)))


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))
