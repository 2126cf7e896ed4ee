"""Tsuzuku, Sato, Sugiyama: Normalized Flat Minima: Exploring Scale Invariant Definition of Flat Minima for Neural
Networks using PAC-Bayesian Analysis. 2019, the arXiv version.
"""

from __future__ import annotations

from fsbench.papers.artefact import Artefact, Computed, Published, Scale, Scatter

# Section 6.1 and appendix E: Adam at its defaults (learning rate 0.001), batch 128, no augmentation, no regularisation;
# 50 epochs on MNIST, on CIFAR-10 100 for LeNet and 200 for WRN-16-4. The share of random labels is drawn from
# {0, 0.1, ..., 1} for each of 100 runs a panel.
RATIOS = ("0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0")
FEWER_RATIOS = ("0.0", "0.2", "0.4", "0.6", "0.8", "1.0")
RUNS_A_RATIO = 9
SHARES = "Each share of random labels has as many runs: the paper draws the share for each of 100 runs a panel"
NOT_RESCALED = "Sharpness as it is; the paper rescales each panel to [0, 1], which leaves the correlation as it is"
MLP = "The MLP has three hidden layers of 512 units: the paper does not give their widths"

TRACE = ("hessian_trace", "Tr H")
NORMALIZED = ("normalized_sharpness", "Normalized sharpness")


def against_the_accuracy_gap(*measures: tuple[str, str]) -> Scatter:
    """Measures of every run against train minus test accuracy."""
    return Scatter(
        x="generalization_gap",
        x_label="Accuracy gap, train - test (%)",
        measures=measures,
        panels=("dataset", "model"),
        colour="dataset.random_labels",
    )


def four_panels(figure: int, title: str, measure: str, shown: tuple[str, str]) -> Artefact:
    """A measure of MLP and LeNet on MNIST, LeNet and WRN-16-4 on CIFAR-10: "the same trained models" in all figures."""
    return Artefact(
        name=f"tsuzuku2019/fig{figure}",
        title=f"{title} against the accuracy gap, networks trained on partly random labels",
        source=f"Tsuzuku et al. 2019, figure {figure}",
        shows=against_the_accuracy_gap(shown),
        experiment="tsuzuku2019/fig3",
        axes={
            "dataset": ("mnist", "cifar10"),
            "model": ("mlp", "lenet", "wrn16_4"),
            "dataset.random_labels": RATIOS,
        },
        without=({"dataset": "mnist", "model": "wrn16_4"}, {"dataset": "cifar10", "model": "mlp"}),
        seeds=RUNS_A_RATIO,
        measures=(measure,),
        measure=("samples=null",),
        scales={"small": SMALL, "tiny": TINY},
        notes=(SHARES, NOT_RESCALED, MLP),
    )


SMALL = Scale(
    axes={"dataset": ("mnist",), "model": ("mlp", "lenet"), "dataset.random_labels": FEWER_RATIOS},
    # So many epochs fit 2,000 random labels.
    overrides=("dataset.subset=2000", "trainer.epochs=150", "trainer.eval_every=50"),
    seeds=3,
    measure=("samples=1000",),
)
TINY = Scale(
    axes={"dataset": ("digits",), "model": ("mlp", "lenet"), "dataset.random_labels": ("0.0", "1.0")},
    overrides=("dataset.image_size=28", "trainer.epochs=3"),
    seeds=2,
    measure=("samples=50",),
)

FIGURE_1 = Artefact(
    name="tsuzuku2019/fig1",
    title="Trace of the Hessian and normalized sharpness against the accuracy gap, WRN-16-4 on CIFAR-10",
    source="Tsuzuku et al. 2019, figure 1",
    shows=against_the_accuracy_gap(TRACE, NORMALIZED),
    experiment="tsuzuku2019/fig1",
    axes={"dataset": ("cifar10",), "model": ("wrn16_4",), "dataset.random_labels": RATIOS},
    seeds=RUNS_A_RATIO,
    measures=("trace", "normalized"),
    measure=("samples=null",),
    # The correlations of the caption, times 100.
    published=tuple(
        Published(
            file="tsuzuku2019_fig1.csv",
            columns={"dataset": "dataset", "model": "model"},
            where={"metric": "correlation_times_100", "measure": value},
            factor=100.0,
            value=value,
        )
        for value in ("hessian_trace", "normalized_sharpness")
    ),
    scales={
        "small": Scale(
            axes={"dataset.random_labels": FEWER_RATIOS},
            overrides=("dataset.subset=10000", "trainer.epochs=50", "trainer.eval_every=10"),
            seeds=3,
            measure=("samples=1000",),
        ),
        "tiny": Scale(
            axes={"dataset": ("digits",), "dataset.random_labels": ("0.0", "1.0")},
            overrides=("model.depth=10", "model.width=1", "trainer.epochs=3"),
            seeds=2,
            measure=("samples=50",),
        ),
    },
    notes=(SHARES, NOT_RESCALED),
)

# Figure 3: normalized sharpness (17) of the surrogate loss (20).
FIGURE_3 = four_panels(3, "Normalized sharpness", "normalized", NORMALIZED)
# Figure 4: trace of the Hessian (5) of plain cross-entropy.
FIGURE_4 = four_panels(4, "Trace of the Hessian", "trace", TRACE)

APPENDIX_A = Computed(
    name="tsuzuku2019/appA",
    title="Matrix norms of the running example before and after rescaling",
    source="Tsuzuku et al. 2019, appendix A.1",
    function="fsbench.reproduce.computed.rescaling_example:compute",
    options={"paper": {}, "small": {}, "tiny": {}},
)

ARTEFACTS = (FIGURE_1, FIGURE_3, FIGURE_4, APPENDIX_A)
