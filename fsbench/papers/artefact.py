"""A table or figure of a paper as data: what is run, what is read off, and what was published.

Results go by the names that tables have for them (`test_accuracy`, `minimum_sharpness`), and by those of
`fsbench.reproduce.write.derived` (`test_error`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Values = tuple[str, ...]

SCALES = ("paper", "small", "tiny")


@dataclass(frozen=True)
class Scale:
    """The cuts of an artefact against the published one.

    Args:
        axes: values that take the place of an axis's own (other models, fewer ratios, another data set).
        overrides: put behind every cell's command line.
        also: and behind these the overrides of the cells that have certain axis values
            (({"optimizer": "sgd"}, ("trainer.epochs=20",)),).
        seeds: how many, 0, 1, ...; None: as published.
        measure: keys of `fsbench sharpness` that differ (`samples=1000`).
        candidates, held_out: of the artefact's choice; None: as published.
    """

    axes: Mapping[str, Values] = field(default_factory=dict)
    overrides: Values = ()
    also: tuple[tuple[Mapping[str, str], Values], ...] = ()
    seeds: int | None = None
    measure: Values = ()
    candidates: Values | None = None
    held_out: int | None = None


@dataclass(frozen=True)
class Choice:
    """A value that each cell chooses for itself, by the final accuracy on training images set aside.

    Each candidate is one run (seed 0) without those images; the cell's own runs have the value of the best, and all
    images. Where the command line names a value, nothing is chosen.

    Args:
        key: of the command line.
        values: the candidates.
        held_out: how many images are set aside.
        where: axis values of the cells that it is chosen for, as items of a mapping.
    """

    key: str
    values: Values
    held_out: int
    where: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Extra:
    """A line beside the published ones: the cells with `where`, run again with `overrides`, called `label` on `axis`.

    Of two extras with one label, the later one makes the cells that both would make.
    """

    axis: str
    label: str
    where: Mapping[str, str]
    overrides: Values
    why: str


@dataclass(frozen=True)
class Published:
    """Numbers of the paper: a file of `fsbench/papers/numbers`, its rows keyed like the cells.

    Args:
        file: CSV with the columns `mean` and, where it was published, `std`.
        columns: column of the file for each axis.
        names: what the file calls a value of an axis where that differs from the command line's.
        where: rows that are meant (`metric`: "top1_accuracy_percent").
        factor: what a measured value is multiplied with to be in the file's unit (100 for percent).
        unit: that unit as it is written behind a number.
        value: the result that they are of; None: the first that the form shows. In a scatter they are Pearson's
            correlations of this result with the horizontal axis.
    """

    file: str
    columns: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    factor: float = 1.0
    unit: str = ""
    value: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows and columns of means ± standard deviations over seeds, the published ones beside them.

    Args:
        value, label: the result that is shown, and what it is called, with its unit; `(%)` for a share in [0, 1].
        rows, columns: axes.
        baseline: value of the column axis that the others are compared with, seed by seed.
        higher_is_better: of `value`.
        more: further results and their labels, a block of columns each.
        pairs: further values of the column axis that are compared, the one less the other.
    """

    value: str
    rows: Values
    columns: str
    baseline: str
    higher_is_better: bool
    label: str
    more: tuple[tuple[str, str], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Lines:
    """Panels of means with a band of one standard deviation, over one axis.

    Args:
        x: an axis, or `alpha` of the adversarial perturbation.
        panels: result of each panel and the label of its vertical axis, with unit; `(%)` for a share in [0, 1].
        lines: axis that is drawn as lines; None: one line.
    """

    x: str
    x_label: str
    panels: tuple[tuple[str, str], ...]
    lines: str | None = None
    log_x: bool = False


@dataclass(frozen=True)
class Scatter:
    """One point per run: panels of a measure against another result, with Pearson's correlation.

    Args:
        x: result on the horizontal axis.
        measures: result of each column of panels and its label.
        panels: axes whose combinations (those that there are) are rows of panels; none: one row.
        colour: axis that colours the points.
    """

    x: str
    x_label: str
    measures: tuple[tuple[str, str], ...]
    panels: Values
    colour: str


@dataclass(frozen=True)
class Artefact:
    """A table or figure that is made of training runs.

    A cell is one combination of axis values and a seed: `fsbench train experiment=<experiment> <axis>=<value> ...
    seed=<seed>`, and then `fsbench sharpness run=<that> measures=[...]`.

    Args:
        name: `paper/what`, as on the command line.
        title: what it shows, as a caption begins.
        source: where it stands in the paper.
        shows: its form.
        experiment: the preset in conf/experiment.
        axes: keys of the command line and their published values, in the order of the paper.
        without: combinations that the paper does not have.
        extras: lines that we add.
        seeds: how many.
        measures: what is measured of every run, by its name in `fsbench list measures`.
        measure: keys of `fsbench sharpness` for it.
        choice: a value that is chosen, not printed.
        published: the paper's numbers, if it prints any.
        scales: how it is cut at `small` and `tiny`; `paper` cuts nothing.
        notes: what a reader must know, a sentence each.
    """

    name: str
    title: str
    source: str
    shows: Table | Lines | Scatter
    experiment: str
    axes: Mapping[str, Values]
    seeds: int
    scales: Mapping[str, Scale]
    without: tuple[Mapping[str, str], ...] = ()
    extras: tuple[Extra, ...] = ()
    measures: Values = ()
    measure: Values = ()
    choice: Choice | None = None
    published: tuple[Published, ...] = ()
    notes: Values = ()


@dataclass(frozen=True)
class Computed:
    """A table or figure that needs no training run: timings, the toy problem, exact values.

    Args:
        function: `module:function` below fsbench; called with the scale, the options of the command and the directory
            to write into.
        options: keyword arguments of the function, by scale.
    """

    name: str
    title: str
    source: str
    function: str
    options: Mapping[str, Mapping[str, Any]]
