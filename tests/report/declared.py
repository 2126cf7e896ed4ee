"""Made-up artefacts and runs of every form, and the numbers that were put into them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from fsbench.papers.artefact import Artefact, Lines, Published, Scatter, Table

METHODS = ("sgd", "sam", "asam", "fsam")

TABLE = Artefact(
    name="kim2022/table4",
    title="Test accuracy of ResNet-32 on CIFAR-10 with symmetric label noise",
    source="Kim et al. 2022, table 4",
    shows=Table("test_accuracy", ("dataset.noise",), "optimizer", "sgd", True, "test accuracy (%)"),
    experiment="kim2022/table4",
    axes={"dataset.noise": ("0.2", "0.4"), "optimizer": METHODS},
    seeds=3,
    scales={},
    published=(
        Published(
            "kim2022_table4.csv",
            {"dataset.noise": "noise_rate", "optimizer": "optimizer"},
            where={"metric": "test_accuracy_percent"},
            factor=100,
            unit="%",
        ),
    ),
)

PERTURBED = Artefact(
    name="kim2022/fig4",
    title="Accuracy under adversarial perturbation of the parameters",
    source="Kim et al. 2022, fig. 4",
    shows=Lines("alpha", "perturbation strength α", (("adversarial_accuracy", "test accuracy (%)"),), "optimizer"),
    experiment="kim2022/fig4",
    axes={"optimizer": ("sgd", "sam", "fsam")},
    seeds=3,
    scales={},
)

PANELS = Artefact(
    name="jia2020/fig2",
    title="Four metrics against the size of the confusion set",
    source="Jia and Su 2020, fig. 2",
    shows=Lines(
        "dataset.confusion",
        "confusion set (images)",
        (
            ("test_error", "test error (%)"),
            ("fisher_determinant", "ln det of the Fisher information"),
            ("spectral_radius", "spectral radius of the Hessian"),
            ("frobenius", "Frobenius norm of the Hessian"),
        ),
    ),
    experiment="jia2020/fig2",
    axes={"dataset.confusion": ("0", "1000", "2000", "3000", "4000", "5000")},
    seeds=5,
    scales={},
)

KINDS = Artefact(
    name="jia2020/fig3",
    title="A metric against the augmentation",
    source="Jia and Su 2020, fig. 3",
    shows=Lines("augment", "augmentation", (("test_error", "test error (%)"),)),
    experiment="jia2020/fig3",
    axes={"augment": ("none", "flip", "crop4", "crop4_flip")},
    seeds=3,
    scales={},
)

SCATTER = Artefact(
    name="tsuzuku2019/fig3",
    title="Normalized sharpness against the accuracy gap",
    source="Tsuzuku et al. 2019, fig. 3",
    shows=Scatter(
        "generalization_gap",
        "accuracy gap (%)",
        (("trace", "trace of the Hessian"), ("normalized_sharpness", "normalized sharpness")),
        ("dataset", "model"),
        "dataset.random_labels",
    ),
    experiment="tsuzuku2019/fig3",
    axes={
        "dataset": ("mnist", "cifar10"),
        "model": ("lenet",),
        "dataset.random_labels": ("0", "0.25", "0.5", "0.75", "1"),
    },
    seeds=4,
    scales={},
)


def wave(*keys: Any) -> float:
    """A number in (-1, 1) that looks random and is the same everywhere."""
    return math.sin(sum((i + 1) * 12.9898 * (sum(map(ord, str(key))) + i) for i, key in enumerate(keys)))


def runs(
    artefact: Artefact,
    results: Callable[[Mapping[str, str], int], Mapping[str, float]],
    missing: Callable[[Mapping[str, str], int], str] = lambda where, seed: "",
    seeds: int | None = None,
) -> pd.DataFrame:
    """One line per run, with `missing`'s reason where it gives one."""
    rows = []
    for key in itertools.product(*artefact.axes.values()):
        where = dict(zip(artefact.axes, key, strict=True))
        for seed in range(artefact.seeds if seeds is None else seeds):
            reason = missing(where, seed)
            row = {**where, "seed": seed, "status": reason or "done", "run": f"/somewhere/runs/{'-'.join(key)}-s{seed}"}
            rows.append(row | ({} if reason else dict(results(where, seed))))
    return pd.DataFrame(rows)


def table_results(where: Mapping[str, str], seed: int) -> dict[str, float]:
    better = METHODS.index(where["optimizer"]) * 0.02
    return {"test_accuracy": 0.9 - 0.2 * float(where["dataset.noise"]) + better + 0.004 * wave(*where.values(), seed)}


def perturbed_results(where: Mapping[str, str], seed: int) -> dict[str, float]:
    slow = {"sgd": 1.0, "sam": 2.0, "fsam": 3.0}[where["optimizer"]]
    return {
        f"adversarial_accuracy_{alpha}": 0.1 + 0.8 * math.exp(-alpha / slow) + 0.01 * wave(where, alpha, seed)
        for alpha in (0.1, 0.5, 1, 2, 5)
    }


def panel_results(where: Mapping[str, str], seed: int) -> dict[str, float]:
    x = float(where["dataset.confusion"])
    return {
        "test_error": 0.2 + x / 3e4 + 0.01 * wave(x, seed),
        "fisher_determinant": -900 + x / 20 + 20 * wave(x, seed, 1),
        "spectral_radius": 10 ** (1 + x / 2000 + 0.1 * wave(x, seed, 2)),
        "frobenius": 1e5 * (1 + x / 1000 + 0.3 * wave(x, seed, 3)),
    }


def kind_results(where: Mapping[str, str], seed: int) -> dict[str, float]:
    return {"test_error": 0.1 + 0.02 * wave(where["augment"], seed)}


def scatter_results(where: Mapping[str, str], seed: int) -> dict[str, float]:
    gap = 0.05 + 0.8 * float(where["dataset.random_labels"]) + 0.02 * wave(where, seed)
    return {
        "generalization_gap": gap,
        "trace": 10 ** (1 + 3 * gap + 0.5 * wave(where, seed, 1)),
        "normalized_sharpness": 1 + 5 * gap + 0.3 * wave(where, seed, 2),
    }
