"""The look of figures: those of a paper, in the width of one column or of the page, read in greyscale too.

Draw with the objects of matplotlib, inside `style()`; nothing of matplotlib's global state is left changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsbench.report.text import all_numbers
from fsbench.runs.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

COLUMN = 3.3
PAGE = 6.9  # inches

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which white swallows; in an
# order in which neighbours differ in lightness too.
PALETTE = ("#000000", "#D55E00", "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#CC79A7")
# One more than colours, so that the second round differs from the first.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)),
)  # fmt: skip
SEQUENTIAL = "viridis"
# By the kind of a picture, what else would say when it was made: files differ only where the picture does.
UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
# What is drawn around a mean over runs.
BANDS = {"stderr": "one standard error of the mean to either side", "range": "from the smallest to the largest run"}
PAPER_GREY = "#707070"

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    # The first one comes with matplotlib, so that every machine draws the same; the others are for readers of the SVG.
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "mathtext.fontset": "dejavusans",
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize", "legend.fontsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
    "axes.titlelocation": "left", "axes.titlepad": 4, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "axes.unicode_minus": True, "axes.axisbelow": True, "axes.formatter.limits": (-4, 5),
    **{
        f"{axis}tick.{tick}.{key}": value
        for axis in "xy"
        for tick, key, value in (
            ("major", "width", 0.6), ("minor", "width", 0.4), ("major", "size", 2.5), ("minor", "size", 1.5)
        )
    },
    "lines.linewidth": 1.1, "lines.markersize": 4, "lines.markeredgewidth": 0.8,
    "legend.frameon": False, "legend.columnspacing": 1.4,
    "figure.constrained_layout.h_pad": 0.04, "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.hspace": 0.05, "figure.constrained_layout.wspace": 0.06,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    "savefig.dpi": 200, "svg.fonttype": "none", "svg.hashsalt": "fsbench", "path.simplify": True,
}  # fmt: skip


@dataclass(frozen=True)
class LineStyle:
    """The look of one line, and of one kind of point: it differs from the others in colour, marker and dashes."""

    colour: str
    marker: str
    dashes: Any

    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot` for measured values."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dashes}

    def points(self) -> dict[str, Any]:
        """The same for measured values that no line joins."""
        return self.line() | {"linestyle": "none"}

    def hollow(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot` for published values: hollow markers that no line joins."""
        return self.points() | {"markerfacecolor": "white", "markersize": 5.5, "zorder": 1.9}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's defaults, then ours, inside the `with`; outside, whatever the caller had."""
    import matplotlib

    with matplotlib.rc_context():
        # Not what a matplotlibrc of this machine says: the same input draws the same figure everywhere.
        matplotlib.rcParams.update({k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")})
        matplotlib.rcParams.update(_STYLE)
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches with constrained layout, without pyplot; add to it inside `style()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style():
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
    return drawn


def styles(values: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each value: ordered colours where all values are numbers, else those of the palette."""
    import matplotlib
    from matplotlib.colors import to_hex

    if len(values) > 1 and all_numbers(values):
        ordered, colormap = sorted(values, key=float), matplotlib.colormaps[SEQUENTIAL]
        # The upper end of viridis is a yellow that does not read on white.
        colours = {value: to_hex(colormap(0.85 * i / (len(ordered) - 1))).upper() for i, value in enumerate(ordered)}
    else:
        colours = {value: PALETTE[i % len(PALETTE)] for i, value in enumerate(values)}
    return {
        value: LineStyle(colours[value], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, value in enumerate(values)
    }


def legend_above(drawn: Figure, handles: Sequence[Artist], columns: int | None = None) -> None:
    """A legend over all panels, outside of them.

    Args:
        columns: None: as many as fit the figure's width.
    """
    if not handles:
        return
    # A marker alone needs less room than a piece of line.
    lines = any(getattr(handle, "get_linestyle", lambda: "-")() not in ("None", "none") for handle in handles)
    room = {"handlelength": 2.4} if lines else {"handlelength": 1.0, "handletextpad": 0.4}
    for count in [columns] if columns else range(len(handles), 0, -1):
        legend = drawn.legend(handles=list(handles), loc="outside upper center", ncols=count, **room)
        if columns or count == 1 or legend.get_window_extent().width <= drawn.bbox.width:
            return
        legend.remove()


def save(drawn: Figure, path: Path) -> list[Path]:
    """Write `<path>.png` (200 dpi) and `<path>.svg` (text as text); the same figure gives the same bytes.

    Args:
        path: without a suffix; a name such as `fig1` keeps what looks like one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        # Laid out once, so that both files are the same picture.
        drawn.draw_without_rendering()
        drawn.set_layout_engine("none")
    written = []
    for suffix in ("png", "svg"):
        target = path.with_name(f"{path.name}.{suffix}")
        with style(), atomic_path(target) as part:
            drawn.savefig(part, format=suffix, metadata=UNDATED[suffix])
        written.append(target)
    return written
