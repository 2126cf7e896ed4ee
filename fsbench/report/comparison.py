"""Whether the order of methods is the paper's, and how sure the measured order is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fsbench.report.axes import axis_words
from fsbench.report.cells import Cell, find
from fsbench.report.confidence import Difference, difference
from fsbench.report.grid import Grid
from fsbench.report.layout import combinations
from fsbench.report.numbers import difference_text, p_text

NOT_DECIDED, AGREES, DISAGREES, MISSING = "not decided", "agrees", "disagrees", "missing"

HOW_TO_READ = (
    "A difference is that of the means. Where two methods have the same seeds, the test is a paired t-test over seeds "
    "(one seed is one initialisation and one order of the data), else Welch's t-test; p is two-sided and not corrected "
    "for the number of comparisons. Not decided: p > 0.05, or too few runs for a test. The best method is compared "
    "with the second best where it is the paper's, else with the paper's best."
)


@dataclass(frozen=True)
class Comparison:
    """Two methods of one row.

    Args:
        where: values of the row axes.
        what: `fsam - sgd`, or `best: fsam (paper: sam)`.
        published: the paper's difference; NaN where it has none.
        measured: ours.
        verdict: whether ours has the paper's sign, if it is decided; without a paper's, which is better.
        same_sign: whether ours has the paper's sign; None where it has none.
    """

    where: Mapping[str, str]
    what: str
    published: float
    measured: Difference
    verdict: str
    same_sign: bool | None


def compare(
    cells: Sequence[Cell],
    value: str,
    rows: Mapping[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    baseline: str,
    higher_is_better: bool,
) -> list[Comparison]:
    """For each row: the best method, then every method against `baseline`."""
    cells = [cell for cell in cells if cell.value == value]
    made = []
    for names in combinations(cells, rows):
        where = dict(zip(rows, names, strict=True))
        found = {column: find(cells, value, {**where, columns[0]: column}) for column in columns[1]}
        row = {column: cell for column, cell in found.items() if cell is not None}
        best = _best(where, row, higher_is_better)
        made += [best] if best is not None else []
        if baseline in row:
            made += [
                _pair(where, f"{column} - {baseline}", cell, row[baseline], higher_is_better)
                for column, cell in row.items()
                if column != baseline
            ]
    return made


def order_grid(comparisons: Sequence[Comparison], rows: Sequence[str], decimals: int | None) -> Grid:
    """The comparisons as a table."""
    has_paper = any(not math.isnan(one.published) for one in comparisons)
    lines = []
    for one in comparisons:
        test = one.measured.test or "none"
        paper = [difference_text(one.published, decimals)] if has_paper else []
        sign = [{True: "yes", False: "no", None: "-"}[one.same_sign]] if has_paper else []
        lines.append(
            [
                *(one.where[axis] for axis in rows),
                one.what,
                one.verdict,
                test,
                *paper,
                difference_text(one.measured.value, decimals),
                *sign,
                p_text(one.measured.p),
                one.measured.n,
            ]
        )
    head = [*map(axis_words, rows), "comparison", "order", "test", *(["paper"] if has_paper else [])]
    return Grid([*head, "measured", *(["same sign"] if has_paper else []), "p", "n"], lines, left=len(rows) + 3)


def summary(comparisons: Sequence[Comparison]) -> str:
    """One sentence that counts the comparisons with the baseline that the paper has too."""
    judged = [one for one in comparisons if one.same_sign is not None and not one.what.startswith("best")]
    if not judged:
        return ""
    counts = [(word, sum(one.verdict == word for one in judged)) for word in (AGREES, DISAGREES, NOT_DECIDED)]
    missing = sum(one.verdict == MISSING for one in comparisons)
    counts += [(MISSING, missing)] if missing else []
    signs = sum(bool(one.same_sign) for one in judged)
    return (
        f"Of {len(judged)} comparisons that the paper has too, {signs} have the paper's sign. "
        f"With p ≤ 0.05: {', '.join(f'{word}: {count}' for word, count in counts)}."
    )


def _pair(where: Mapping[str, str], what: str, one: Cell, other: Cell, higher_is_better: bool) -> Comparison:
    measured = difference(one.by_seed, other.by_seed)
    published = one.published - other.published
    # A tie in the paper's digits is no order that could be met.
    same = (
        None
        if math.isnan(published + measured.value) or abs(published) < 1e-9
        else (published > 0) == (measured.value > 0)
    )
    if not one.n or not other.n:
        verdict = MISSING
    elif not measured.decided:
        verdict = NOT_DECIDED
    elif same is not None:
        verdict = AGREES if same else DISAGREES
    else:
        verdict = "better" if (measured.value > 0) == higher_is_better else "worse"
    return Comparison(where, what, published, measured, verdict, same)


def _best(where: Mapping[str, str], row: Mapping[str, Cell], higher_is_better: bool) -> Comparison | None:
    sign = 1 if higher_is_better else -1
    ranked = sorted((c for c in row if math.isfinite(row[c].mean)), key=lambda c: -sign * row[c].mean)
    if len(ranked) < 2:
        return None
    paper = {column: sign * cell.published for column, cell in row.items() if not math.isnan(cell.published)}
    # Of methods that were not run, nothing can be said.
    rivals = {column: value for column, value in paper.items() if row[column].n}
    first = ranked[0]
    if not rivals or len(rivals) < 2:
        pair = _pair(where, "", row[first], row[ranked[1]], higher_is_better)
        verdict = NOT_DECIDED if not pair.measured.decided else "better"
        return Comparison(where, f"best: {first}, then {ranked[1]}", math.nan, pair.measured, verdict, None)
    bests = [column for column, value in rivals.items() if abs(value - max(rivals.values())) < 1e-9]
    agrees = first in bests
    other = ranked[1] if agrees else bests[0]
    pair = _pair(where, "", row[first], row[other], higher_is_better)
    verdict = NOT_DECIDED if not pair.measured.decided else AGREES if agrees else DISAGREES
    # The paper's best may be one that was not run.
    whose = "paper" if max(rivals.values()) == max(paper.values()) else "paper, of these"
    what = f"best: {first}, then {other}" if agrees else f"best: {first} ({whose}: {' = '.join(bests)})"
    return Comparison(where, what, pair.published, pair.measured, verdict, agrees)
