"""Figures 1 to 3 of Kim et al. 2022: the toy problem's landscape, and where SAM, ASAM and FSAM end in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from fsbench.papers.collect import rows as published_rows
from fsbench.report.style import COLUMN, PAGE, PALETTE, figure, save, style
from fsbench.report.table import write_frame
from fsbench.reproduce.computed import Context, toy_problem
from fsbench.reproduce.computed.toy_problem import Iterate, Minimum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The paper gives no start, radius or step; these show what it describes (start, rho of the left panel, of the right).
FIGURES = {
    "fig2": ("sam", (-40.0, 35.0), 1.0, 1.0),
    "fig3": ("asam", (0.0, 12.0), 0.1, 1.0),
}
STEPS = 100
MU, SIGMA = (-78.0, 48.0), (4.0, 62.0)
NAMES = {"sam": "SAM", "asam": "ASAM", "fsam": "FSAM"}
# As the table has them, and as the published numbers do.
QUANTITIES = {"mu": "minimum mu", "sigma": "minimum sigma", "loss": "loss", "Hessian trace": "hessian trace"}


def figure1(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """The contours of the loss and its two minima."""
    printed = {row["quantity"]: row["value"] for row in published_rows("misc.csv") if row["artefact"] == "kim2022_fig1"}
    literal = toy_problem.minima(literal=True)
    rows = [
        (name, quantity, float(printed[f"{name} {key}"]), value, other)
        for name, found in toy_problem.minima().items()
        for (quantity, key), value, other in zip(
            QUANTITIES.items(), _values(found), _values(literal[name]), strict=True
        )
    ]
    frame = pd.DataFrame(rows, columns=["minimum", "quantity", "published", "found", "KL taken literally"])
    caption = [
        "The two minima of the toy problem, eq. 15 (Kim et al. 2022, figure 1).",
        "The printed minima follow if the KL divergence is taken without its constant -1/2, as in all columns but the "
        "last.",
    ]
    return [*write_frame(frame, directory, "fig1", caption), *_draw([], directory / "fig1")]


def _values(found: Minimum) -> list[float]:
    return [*found.theta.tolist(), found.loss, found.trace]


def figure2(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """SAM ends in the sharp minimum where FSAM reaches the flat one."""
    return _comparison("fig2", directory, [])


def figure3(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """ASAM ends in the sharp minimum where FSAM reaches the flat one."""
    note = (
        "ASAM reaches the flat minimum from there too at rho = 0.3 and above; at rho = 1 its first perturbation makes "
        "sigma 0, where the loss is not defined."
    )
    return _comparison("fig3", directory, [note])


def _comparison(name: str, directory: Path, notes: list[str]) -> list[Path]:
    other, start, *radii = FIGURES[name]
    rhos = dict(zip((other, "fsam"), radii, strict=True))
    paths = {method: toy_problem.trajectory(method, start, rho, STEPS) for method, rho in rhos.items()}
    rows = []
    for method, rho in rhos.items():
        path = paths[method]
        last = path[-1].theta + path[-1].update
        rows.append((NAMES[method], *start, rho, len(path), *last.tolist(), toy_problem.basin(last)))
    columns = ["method", "start mu", "start sigma", "rho", "steps", "last mu", "last sigma", "basin"]
    caption = [
        f"{NAMES[other]} and FSAM on the toy problem (Kim et al. 2022, figure {name[-1]}).",
        f"The paper names no start, radius or step: here learning rate {toy_problem.LEARNING_RATE:g}, and the basin is "
        "that of plain gradient descent from the last iterate, since at constant rho the methods may end in cycles.",
        *notes,
    ]
    written = write_frame(pd.DataFrame(rows, columns=columns), directory, name, caption)
    return [*written, *_draw([(method, paths[method], rho) for method, rho in rhos.items()], directory / name)]


def _draw(panels: Sequence[tuple[str, list[Iterate], float]], path: Path) -> list[Path]:
    """The landscape, alone or in a panel for each method, its trajectory and its radius."""
    with style():
        drawn = figure(PAGE if panels else COLUMN, 2.9)
        axes: list[Axes] = list(np.atleast_1d(drawn.subplots(1, max(1, len(panels)), sharey=True)))
        for axis in axes:
            _landscape(axis)
        for axis, (method, steps, rho) in zip(axes, panels, strict=False):
            _trajectory(axis, steps, method, rho)
            axis.set_title(rf"{NAMES[method]}, $\rho$ = {rho:g}", loc="left")
        axes[0].set_ylabel(r"standard deviation $\sigma$")
        handles = dict(reversed(pair) for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True))
        drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
        return save(drawn, path)


def _landscape(axis: Axes) -> None:
    mu, sigma = np.meshgrid(np.linspace(*MU, 253), np.linspace(*SIGMA, 175))
    loss = toy_problem.loss(torch.from_numpy(np.stack([mu, sigma], axis=-1))).numpy()
    levels = np.quantile(loss, np.linspace(0.002, 0.95, 16))
    axis.contour(mu, sigma, loss, levels=np.unique(levels), cmap="Greys_r", linewidths=0.6)
    for (name, found), marker, colour in zip(toy_problem.minima().items(), "*o", PALETTE, strict=False):
        size = 10 if marker == "*" else 6
        label = f"{name} minimum"
        axis.plot(*found.theta.tolist(), marker, color=colour, markersize=size, markeredgecolor="black", label=label)
    axis.set(xlim=MU, ylim=SIGMA, xlabel=r"mean $\mu$")


def _trajectory(axis: Axes, path: list[Iterate], method: str, rho: float) -> None:
    """Iterates, and at the first ones the neighbourhood, the probe to its worst point and the update."""
    from matplotlib.patches import Ellipse

    points = torch.stack([step.theta for step in path] + [path[-1].theta + path[-1].update]).numpy()
    axis.plot(*points.T, "-", color="black", linewidth=0.8, marker=".", markersize=2.5, label="iterates")
    axis.plot(*points[0], "D", color=PALETTE[2], markeredgecolor="black", markersize=5, label="start")
    for k, step in enumerate(path[:2]):
        axes = toy_problem.inverse_metric(method, step.theta)
        half = np.full(2, rho) if axes is None else rho * axes[0].sqrt().numpy()
        place, eps, update = step.theta.numpy(), step.eps.numpy(), step.update.numpy()
        ellipse = Ellipse(tuple(place), *(2 * half), fill=False, edgecolor=PALETTE[3], linestyle="--", linewidth=0.9)
        axis.add_patch(ellipse)
        if k == 0:
            ellipse.set_label("neighbourhood")
        for vector, colour, label in ((eps, PALETTE[4], "probe"), (update, PALETTE[5], "update")):
            arrow = {"arrowstyle": "->", "color": colour, "lw": 1.0, "shrinkA": 0}
            axis.annotate("", tuple(place + vector), tuple(place), arrowprops=arrow)
            if k == 0:
                axis.plot([], [], color=colour, label=label)
