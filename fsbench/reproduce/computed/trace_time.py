"""Time and value of Tr H, naive and exact: Ibayashi et al. 2021, fig. 1."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fsbench.papers.collect import rows as published_rows
from fsbench.report.table import write_frame
from fsbench.reproduce.computed import Context
from fsbench.reproduce.computed.mnist_networks import NETWORKS, risk_of
from fsbench.sharpness import Risk, hessian_diagonal, hessian_trace
from fsbench.sharpness.derivatives.hessian_operator import summed_gradient, twice_differentiable


def naive_entries(risk: Risk, entries: list[tuple[str, int]]) -> list[float]:
    """d2 L / dw dw of some weights, each by a derivative of its own of the gradient's graph."""
    sums = [0.0] * len(entries)
    for x, y in risk.pieces():
        with twice_differentiable():
            gradient = dict(zip(risk.names, summed_gradient(risk, x, y), strict=True))
            for k, (name, i) in enumerate(entries):
                (row,) = torch.autograd.grad(
                    gradient[name].flatten()[i], risk.parameters[name], retain_graph=True, materialize_grads=True
                )
                sums[k] += float(row.flatten()[i])
    return [value / risk.examples for value in sums]


def compute(scale: str, options: Mapping[str, Any], directory: Path, context: Context) -> list[Path]:
    """Seconds and traces over seeds, networks and numbers of images.

    options: `seeds`, `sizes` (numbers of images), `naive` (how many weights the naive way is timed on, drawn at
    random; the time of all of them is in proportion. None: all).
    """
    rows = []
    for network in NETWORKS:
        for n in options["sizes"]:
            for seed in range(options["seeds"]):
                context.say(f"{network}, n = {n}, seed {seed}")
                rows.append({"network": network, "n": n, "seed": seed, **_one(network, n, seed, options, context)})
    frame = pd.DataFrame(rows)
    published = {(row["model"], int(row["n"]), row["method"]): float(row["seconds"]) for row in
                 published_rows("ibayashi2021_fig1.csv")}  # fmt: skip
    lines = []
    for (network, n), group in frame.groupby(["network", "n"], sort=False):
        key = NETWORKS[network].published
        naive, exact = group["naive_seconds"].mean(), group["exact_seconds"].mean()
        lines.append(
            {
                "network": network,
                "n": n,
                "seeds": len(group),
                "naive s": naive,
                "naive s, published": published[key, n, "baseline"],
                "exact s": exact,
                "exact s, published": published[key, n, "exact"],
                "times as fast": naive / exact,
                "times as fast, published": published[key, n, "baseline"] / published[key, n, "exact"],
                "Tr H": group["trace"].mean(),
                "largest difference, relative": group["difference"].max(),
            }
        )
    caption = [
        "Tr H of untrained networks on MNIST by one derivative for each weight (naive) and by K backward passes "
        "(exact): means over seeds, other networks and images for each (Ibayashi et al. 2021, figure 1).",
        "The difference is the largest between the diagonal entries of the two, relative to the largest entry.",
        *context.cuts,
    ]
    if options["naive"] is not None:
        caption.append(
            f"The naive way was run for {options['naive']} weights drawn at random, its time scaled up to all of them."
        )
    written = write_frame(pd.DataFrame(lines), directory, "fig1", caption)
    frame.to_csv(directory / "fig1_runs.csv", index=False)
    return [*written, directory / "fig1_runs.csv", *_figure(frame, directory)]


def _one(network: str, n: int, seed: int, options: Mapping[str, Any], context: Context) -> dict[str, float]:
    risk = risk_of(network, n, seed, context, torch.float32)
    hessian_trace(risk)  # what the first call finds out of a network is not timed
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        trace = hessian_trace(risk)
        times.append(time.perf_counter() - begun)
    everything = [(name, i) for name, p in risk.parameters.items() for i in range(p.numel())]
    entries = everything
    if options["naive"] is not None and options["naive"] < len(everything):
        generator = torch.Generator().manual_seed(seed)
        entries = [everything[k] for k in torch.randperm(len(everything), generator=generator)[: options["naive"]]]
    begun = time.perf_counter()
    naive = naive_entries(risk, entries)
    seconds = (time.perf_counter() - begun) * len(everything) / len(entries)
    exact: dict[str, Tensor] = hessian_diagonal(risk).values
    found = [float(exact[name].flatten()[i]) for name, i in entries]
    largest = max(map(abs, found)) or 1.0
    difference = max(abs(a - b) for a, b in zip(naive, found, strict=True)) / largest
    return {
        "naive_seconds": seconds,
        "exact_seconds": statistics.median(times),
        "trace": trace.value,
        "naive_sum": math.fsum(naive) if len(entries) == len(everything) else math.nan,
        "difference": difference,
    }


def _figure(frame: pd.DataFrame, directory: Path) -> list[Path]:
    from fsbench.report.style import PAGE, figure, legend_above, save, style, styles

    labels = [f"{network}, {method}" for network in NETWORKS for method in ("exact", "naive")]
    looks = styles(labels)
    with style():
        drawn = figure(PAGE, 2.7)
        time_axis, trace_axis = drawn.subplots(1, 2)
        for network, group in frame.groupby("network", sort=False):
            for method in ("exact", "naive"):
                label = f"{network}, {method}"
                seconds = group.groupby("n")[f"{method}_seconds"].mean()
                time_axis.plot(seconds.index, seconds, label=label, **looks[label].line())
            look = looks[f"{network}, exact"]
            trace_axis.plot(group["n"], group["trace"], linestyle="none", color=look.colour, marker=look.marker)
            whole = group.dropna(subset="naive_sum")
            trace_axis.plot(whole["n"], whole["naive_sum"], **looks[f"{network}, naive"].hollow())
        time_axis.set(xscale="log", yscale="log", xlabel="number of images n", ylabel="time (s)")
        trace_axis.set(xscale="log", ylim=(0, None), xlabel="number of images n", ylabel="Tr H (nats)")
        legend_above(drawn, time_axis.get_lines(), 4)
    return save(drawn, directory / "fig1")
