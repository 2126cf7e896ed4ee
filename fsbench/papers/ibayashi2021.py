"""Ibayashi, Hamaguchi, Imaizumi: Minimum sharpness: Scale-invariant parameter-robustness of neural networks. 2021."""

from __future__ import annotations

from dataclasses import replace

from fsbench.papers.artefact import Artefact, Computed, Scale, Scatter

# "Labels are partially shuffled with ratios {0.0, 0.1, ..., 1.0}"
RATIOS = ("0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0")
FEWER_RATIOS = ("0.0", "0.2", "0.4", "0.6", "0.8", "1.0")
TRIALS = 10
NOTES = (
    "The labels of that share of images are drawn anew from all classes; the paper's word, shuffled, may also mean "
    "dataset.permute_labels=true",
    "The paper's normalized sharpness was not minimised (values in its archive exceed an upper bound of the minimum); "
    "ours is, with the loss of Tsuzuku et al. (eq. 20)",
    "The learning rate falls as 1/(1 + 0.0001 step), as in the authors' code; the paper does not say so",
)


def sharpness_against_gap(name: str, title: str, small: Scale, tiny: Scale) -> Artefact:
    """Both measures of every run against its generalization gap; some shares of random labels below full scale."""
    return Artefact(
        name=f"ibayashi2021/{name}",
        title=f"Minimum and normalized sharpness against the generalization gap, {title} on MNIST with random labels",
        source=f"Ibayashi et al. 2021, figure {name[-1]}",
        shows=Scatter(
            x="generalization_gap",
            x_label="Generalization gap, train - test accuracy (%)",
            measures=(("minimum_sharpness", "Minimum sharpness"), ("normalized_sharpness", "Normalized sharpness")),
            panels=(),
            colour="dataset.random_labels",
        ),
        experiment=f"ibayashi2021/{name}",
        axes={"dataset.random_labels": RATIOS},
        seeds=TRIALS,
        measures=("minimum", "normalized"),
        measure=("samples=null",),
        scales={
            "small": replace(small, axes={"dataset.random_labels": FEWER_RATIOS}, seeds=3, measure=("samples=1000",)),
            "tiny": replace(tiny, axes={"dataset.random_labels": ("0.0", "0.5", "1.0")}, seeds=2),
        },
        notes=NOTES,
    )


# Appendix F: n images of MNIST; FCNN of 20 and 20 hidden units, CNN of two 5x5 convolutions of 20 channels, 10 seeds.
FIGURE_1 = Computed(
    name="ibayashi2021/fig1",
    title="Time and value of Tr H, naive and exact, FCNN and CNN on MNIST",
    source="Ibayashi et al. 2021, figure 1 and appendix F",
    function="fsbench.reproduce.computed.trace_time:compute",
    options={
        "paper": {"seeds": 10, "sizes": (10, 100, 1000), "naive": None},
        "small": {"seeds": 10, "sizes": (10, 100, 1000), "naive": 200},
        "tiny": {"seeds": 2, "sizes": (10, 100), "naive": 20},
    },
)

# Appendix D: FCNN ("three FC layers with 128 or 512 hidden dimensions": here hidden layers of 512, 128 and 512), SGD
# with momentum 0.9, weight decay 1e-5, batch 1024, learning rate 0.1, 3000 epochs; last epoch.
FIGURE_2 = sharpness_against_gap(
    "fig2",
    "FCNN",
    # At 0.1 some of the runs on few images diverge, and others don't fit.
    small=Scale(
        overrides=(
            *("dataset.subset=2000", "trainer.batch_size=256", "optimizer.lr=0.05"),
            *("trainer.epochs=250", "trainer.eval_every=50"),
        )
    ),
    tiny=Scale(
        overrides=("dataset=digits", "trainer.batch_size=128", "trainer.epochs=10", "trainer.eval_every=10"),
        measure=("samples=100",),
    ),
)

# Appendix G: errors of the two published approximations of diag H, settings of appendix F.
FIGURE_3 = Computed(
    name="ibayashi2021/fig3",
    title="Error of the two published approximations of diag H",
    source="Ibayashi et al. 2021, figure 3 and appendix G",
    function="fsbench.reproduce.computed.diagonal_error:compute",
    options={
        # The paper does not say how many probes its curves reach.
        "paper": {"seeds": 10, "sizes": (10, 100, 1000), "probes": 256},
        "small": {"seeds": 10, "sizes": (10, 100, 1000), "probes": 16},
        "tiny": {"seeds": 2, "sizes": (10, 100), "probes": 16},
    },
)

# Appendix D: LeNet with convolutions of 6, 16, 120 channels and a hidden layer of 84; learning rate 0.01, 1000 epochs.
FIGURE_4 = sharpness_against_gap(
    "fig4",
    "LeNet",
    small=Scale(
        overrides=("dataset.subset=2000", "trainer.batch_size=128", "trainer.epochs=300", "trainer.eval_every=50")
    ),
    tiny=Scale(
        overrides=("dataset=digits", "dataset.image_size=28", "trainer.batch_size=128", "trainer.epochs=3"),
        measure=("samples=50",),
    ),
)

ARTEFACTS = (FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_4)
