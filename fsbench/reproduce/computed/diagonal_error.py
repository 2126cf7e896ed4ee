"""Errors of the two published approximations of diag H: Ibayashi et al. 2021, fig. 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fsbench.report.table import write_frame
from fsbench.reproduce.computed import Context
from fsbench.reproduce.computed.mnist_networks import NETWORKS, risk_of
from fsbench.sharpness import difference_diagonals, hessian_diagonal
from fsbench.sharpness.diagonal import Form

FORMS: dict[Form, str] = {"2019": "arXiv version, 2019", "2020": "ICML version, 2020"}


def errors(network: str, n: int, seed: int, probes: int, context: Context) -> list[dict[str, Any]]:
    """||diag H - estimate||_2 after 1, 2, 4, ... probes, and ||diag H||_2, in float64."""
    risk = risk_of(network, n, seed, context, torch.float64)
    exact = torch.cat([value.flatten() for value in hessian_diagonal(risk).values.values()])
    found = []
    for form in FORMS:
        for done, diagonal in difference_diagonals(risk, probes=probes, seed=seed, form=form):
            estimate = torch.cat([value.flatten() for value in diagonal.values.values()])
            found.append(
                {
                    "network": network, "n": n, "seed": seed, "form": form, "probes": done,
                    "error": float((estimate - exact).norm()), "norm": float(exact.norm()),
                }
            )  # fmt: skip
    return found


def compute(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """Errors against probes. options: `seeds`, `sizes` (numbers of images), `probes` (at most)."""
    rows = []
    for network in NETWORKS:
        for n in options["sizes"]:
            for seed in range(options["seeds"]):
                context.say(f"{network}, n = {n}, seed {seed}")
                rows += errors(network, n, seed, options["probes"], context)
    frame = pd.DataFrame(rows)
    keys = ["network", "n", "form", "probes"]
    groups = frame.groupby(keys, sort=False)
    table = groups["error"].agg(["mean", "std"]).join(groups["norm"].mean()).reset_index()
    caption = [
        "Error ||diag H - estimate||_2 of the two published approximations of the diagonal of the Hessian against the "
        "number of probes, untrained networks on MNIST; the norm of the diagonal itself for comparison "
        "(Ibayashi et al. 2021, figure 3).",
        "Both move each weight by a step r of 0.01 times the root mean square of its tensor (2019) or its own "
        "magnitude (2020); the paper names no r, and the error depends on it.",
        *context.cuts,
    ]
    return [*write_frame(table, directory, "fig3", caption), *_figure(frame, directory)]


def _figure(frame: pd.DataFrame, directory: Path) -> list[Path]:
    from fsbench.report.style import PAGE, figure, legend_above, save, style, styles

    with style():
        drawn = figure(PAGE, 2.8)
        axes = drawn.subplots(1, len(FORMS), sharey=True)
        looks = styles([f"{network}, n = {n}" for network in NETWORKS for n in sorted(frame["n"].unique())])
        for axis, (form, label) in zip(axes, FORMS.items(), strict=True):
            for (network, n), group in frame[frame["form"] == form].groupby(["network", "n"], sort=False):
                means = group.groupby("probes")["error"].mean()
                name = f"{network}, n = {n}"
                axis.plot(means.index, means, markersize=3, label=name, **looks[name].line())
            axis.set(xscale="log", yscale="log", xlabel=f"probes ({label})")
        axes[0].set_ylabel(r"$\|\mathrm{diag}\,H - \mathrm{estimate}\|_2$")
        legend_above(drawn, axes[0].get_lines(), 3)
    return save(drawn, directory / "fig3")
