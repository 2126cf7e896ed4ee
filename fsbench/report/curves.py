"""Finished runs as a picture: curves over epochs, means over a key, or a point for each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsbench.report.runs_table import by_size
from fsbench.report.style import BANDS, COLUMN, figure, legend_above, style, styles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def draw_runs(points: pd.DataFrame, axes_of: tuple[str, str], by: str, band: str | None) -> tuple[Figure, str]:
    """A figure of runs, and what it shows in a sentence.

    Args:
        points: run, line, step, x and y of each.
        axes_of: names of the columns along the axes.
        by: what lines differ in.
        band: of `BANDS`, around means over runs of equal line and step; None: the points themselves.
    """
    names = sorted(points["line"].unique(), key=by_size)
    count = points["run"].nunique()
    split = f", by {by}" if by else ""
    points_of = f"A point for each of {count} runs{split}."
    caption = points_of if band is None else f"Mean over runs{split}; the band is {BANDS[band]}."
    with style():
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        drawn = figure(1.5 * COLUMN, 3.2)
        axes = drawn.add_subplot()
        handles = []
        for name, look in styles(names).items():
            line = points[points["line"] == name]
            drawing = look.line()
            if not band:
                drawing |= {"linestyle": "none", "markersize": 5, "markeredgecolor": "white"}
            if band:
                steps = line.groupby("step")
                mean, y = steps[["x", "y"]].mean(), steps["y"]
                error = y.sem().fillna(0.0)  # a single run has none
                low, high = (mean["y"] - error, mean["y"] + error) if band == "stderr" else (y.min(), y.max())
                axes.fill_between(mean["x"], low, high, color=look.colour, alpha=0.18, linewidth=0)
                axes.plot(mean["x"], mean["y"], **drawing, markevery=-(-len(mean) // 12))
            else:
                axes.plot(line["x"], line["y"], **drawing)
            runs = line["run"].nunique()
            handles.append(Line2D([], [], **drawing, label=f"{name} ({runs} run{'s' * (runs > 1)})"))
        for column, label, axis, set_scale in (
            ("x", axes_of[0], axes.xaxis, axes.set_xscale),
            ("y", axes_of[1], axes.yaxis, axes.set_yscale),
        ):
            axis.set_label_text(label.replace("_", " "))
            if label != "epoch" and 0 < points[column].min() <= points[column].max() / 100:
                set_scale("log")
                if column == "y":
                    axes.set_ylim(bottom=points["y"].min() / 1.3)  # a band may reach zero
            elif (points[column] % 1 == 0).all():
                axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        if by:
            legend_above(drawn, handles)
    return drawn, caption
