"""Jia, Su: Information-Theoretic Local Minima Characterization and Regularization. ICML 2020.

`optimizer=fisher_trace` is the regulariser: algorithm 1 with alpha 0.0001, M 8, from the first drop of the learning
rate on.
"""

from __future__ import annotations

from dataclasses import replace

from fsbench.papers.artefact import Artefact, Choice, Computed, Lines, Published, Scale, Table, Values

MODELS = 5  # "5 models" for CIFAR; 3 for ImageNet
REGULARISER = ("sgd", "fisher_trace")

# Section 7.1 and appendix D: ResNet-20 on CIFAR-10, 200 epochs, learning rate 0.1, divided by 10 whenever the training
# loss plateaus (for how long is not said: 10 epochs). N' = T = 100; metrics on the un-augmented training images.
METRICS = ("fisher_determinant", "frobenius", "spectral", "robustness")
PANELS = (
    ("test_error", "Test error (%)"),
    ("fisher_log_determinant", "Ours: γ̂ (nats)"),
    ("hessian_frobenius_norm", "Frobenius norm"),
    ("hessian_spectral_radius", "Spectral radius"),
    ("input_robustness", "Robustness"),
)
EXACT = ("samples=null", "subset_size=100", "subsets=100")
METRIC_NOTES = (
    "Momentum 0.9 and weight decay 0.0001 are those of He et al. 2016: the paper names neither for these runs",
    "The Frobenius norm is the mean fourth power of the norm of an example's gradient (appendix D), over all images "
    "instead of sampled entries",
)
ALL_IMAGES = (
    "All 50,000 training images: the paper names the subset of 10,000 for figure 2 only (dataset.subset=10000 takes it)"
)
QUICK = ("trainer.epochs=60", "dataset.subset=10000")
ON_DIGITS = ("dataset=digits", "augment=none", "trainer.batch_size=64")


def scenario(
    figure: int,
    against: str,
    shows: Lines,
    values: Values,
    tiny: tuple[Values, Values],
    small: Values = QUICK,
    measure: Values = EXACT,
    notes: Values = (ALL_IMAGES,),
) -> Artefact:
    """Four metrics and the test error of ResNet-20 on CIFAR-10 over an axis.

    Args:
        tiny: values and overrides at that scale.
        small: overrides at that one.
    """
    return Artefact(
        name=f"jia2020/fig{figure}",
        title=f"Scenario {'I' * (figure - 1)}: four metrics and the test error {against}, ResNet-20 on CIFAR-10",
        source=f"Jia & Su 2020, figure {figure}",
        shows=shows,
        experiment=f"jia2020/fig{figure}",
        axes={shows.x: values},
        seeds=MODELS,
        measures=METRICS,
        measure=measure,
        scales={
            "small": Scale(overrides=small, seeds=3, measure=("samples=1000",)),
            "tiny": Scale(
                axes={shows.x: tiny[0]},
                overrides=("trainer.epochs=2", *tiny[1]),
                seeds=2,
                measure=("samples=100", "subset_size=20", "subsets=5"),
            ),
        },
        notes=(*notes, *METRIC_NOTES),
    )


FIGURE_2 = scenario(
    2,
    "against the size of the confusion set",
    Lines(x="dataset.confusion", x_label="Confusion set (images)", panels=PANELS),
    # 10,000 training images, drawn anew for every run, as is the confusion set.
    ("0", "1000", "2000", "3000", "4000", "5000"),
    tiny=(("0", "200", "400"), ("dataset.subset=400", *ON_DIGITS)),
    small=("trainer.epochs=60",),
    # "We calculate all metrics based on the sampled 10000 training images"
    measure=("split=subset", *EXACT),
    notes=(),
)
FIGURE_3 = scenario(
    3,
    "for four augmentation schemes",
    Lines(x="augment", x_label="Augmentation", panels=PANELS),
    # In the paper: no-aug, flip-only, 1-crop-f, 4-crop-f.
    ("none", "flip", "crop1_flip", "crop4_flip"),
    tiny=(("none", "flip", "crop1_flip"), ("dataset=digits", "trainer.batch_size=64")),
)
FIGURE_4 = scenario(
    4,
    "against the batch size",
    Lines(x="trainer.batch_size", x_label="Batch size (images)", panels=PANELS, log_x=True),
    ("128", "256", "512", "1024"),
    tiny=(("32", "64", "128"), ("dataset=digits", "augment=none")),
)

# Section 7.2 and appendix E. CNN: weight decay 0.0001, Nesterov momentum 0.9, batch 128, 200 epochs, learning rate
# 0.01, divided by 10 at 100 and 150. The others as in their papers, with learning rate 0.1 and batch 128:
#   ResNet-20 (He et al. 2016)               / 10 after 32k and 48k of 64k steps, weight decay 0.0001, plain momentum
#   WRN-28-2 (Zagoruyko & Komodakis 2016)    x 0.2 at 60, 120, 160 of 200 epochs, weight decay 0.0005, Nesterov
#   DenseNet-BC-k12 (Huang et al. 2017)      / 10 at 150 and 225 of 300 epochs, batch 64, weight decay 0.0001, Nesterov
# "beta is chosen from {1, 5, 10, 20, 30, 40, 50, 75, 100} using validation set"
BETA = Choice(
    key="optimizer.beta",
    values=("1", "5", "10", "20", "30", "40", "50", "75", "100"),
    held_out=5000,
    where=(("optimizer", "fisher_trace"),),
)
RECIPES = (
    "At full length ResNet-20's 64,000 steps are 164 epochs, its drops after 32,000 and 48,000 steps epochs 82 and 123"
)


def error_table(rows: tuple[str, ...], more: tuple[tuple[str, str], ...] = (), label: str = "Test error (%)") -> Table:
    """Errors of networks without and with the regulariser."""
    return Table("test_error", rows, "optimizer", "sgd", higher_is_better=False, label=label, more=more)


def printed(file: str, metric: str, value: str | None = None, factor: float = 100.0, unit: str = "%") -> Published:
    """Numbers of a metric, by data set, network and regulariser."""
    columns = {"dataset": "dataset", "model": "model", "optimizer": "regularizer"}
    return Published(file, columns, NAMES, {"metric": metric}, factor, unit, value)


# The drops of the schedules at the same fractions of fewer epochs.
HALVES = "schedule.milestones=[0.5,0.75]"
SMALL = Scale(
    axes={"dataset": ("cifar10",), "model": ("cnn", "resnet20")},
    overrides=("trainer.epochs=30", HALVES),
    also=(({"model": "wrn28_2_b33"}, ("schedule.milestones=[0.3,0.6,0.8]",)),),
    seeds=3,
    candidates=("1", "10", "50"),
)
TINY = Scale(
    axes={"dataset": ("digits",), "model": ("wrn28_2_b33", "resnet20")},
    overrides=("trainer.epochs=2", HALVES, *ON_DIGITS[1:]),
    also=(({"model": "wrn28_2_b33"}, ("model.depth=10", "model.width=1")),),
    seeds=2,
    measure=("subset_size=20", "subsets=5"),
    candidates=("1", "10"),
    held_out=200,
)
NAMES = {"sgd": "none", "wrn28_2_b33": "wrn28_2"}

TABLE_1 = Artefact(
    name="jia2020/table1",
    title="Test error without and with the regulariser",
    source="Jia & Su 2020, table 1",
    shows=error_table(("dataset", "model")),
    experiment="jia2020/table1",
    axes={
        "dataset": ("cifar10", "cifar100"),
        "model": ("cnn", "wrn28_2_b33", "densenet_bc_k12", "resnet20"),
        "optimizer": REGULARISER,
    },
    # "The representation power of ResNet-20 is too limited for CIFAR-100"
    without=({"dataset": "cifar100", "model": "resnet20"},),
    seeds=MODELS,
    choice=BETA,
    published=(printed("jia2020_table1.csv", "test_error_percent"),),
    scales={
        "small": SMALL,
        "tiny": TINY,
    },
    notes=(RECIPES,),
)

# Images are resized to 128 x 128, cropped at random to 114 x 114, flipped and colour-jittered; evaluation on the centre
# crop. "Same hyper-parameters as in the original paper", which has drops every 30 epochs and weight decay 0.0001.
TABLE_2 = Artefact(
    name="jia2020/table2",
    title="Top-1 and top-5 error without and with the regulariser, WRN-18-1.5 on ImageNet at 128 x 128",
    source="Jia & Su 2020, table 2",
    shows=error_table(
        ("dataset", "model"),
        (
            ("train_error", "Top-1 train error (%)"),
            ("generalization_gap", "Top-1 gap (%)"),
            ("test_top5_error", "Top-5 test error (%)"),
            ("train_top5_error", "Top-5 train error (%)"),
            ("top5_generalization_gap", "Top-5 gap (%)"),
        ),
        "Top-1 test error (%)",
    ),
    experiment="jia2020/table2",
    axes={"dataset": ("imagenet128",), "model": ("wrn18_1.5",), "optimizer": REGULARISER},
    seeds=3,
    published=(
        printed("jia2020_table2.csv", "top1_test_error_percent", "test_error"),
        printed("jia2020_table2.csv", "top1_train_error_percent", "train_error"),
        printed("jia2020_table2.csv", "top1_gap", "generalization_gap"),
        printed("jia2020_table2.csv", "top5_test_error_percent", "test_top5_error"),
        printed("jia2020_table2.csv", "top5_train_error_percent", "train_top5_error"),
        printed("jia2020_table2.csv", "top5_gap", "top5_generalization_gap"),
    ),
    scales={
        "small": Scale(
            overrides=(
                "dataset.subset=50000",
                "trainer.epochs=15",
                "schedule.milestones=[5,10]",
                "trainer.eval_every=15",
                "trainer.workers=8",
            ),
            seeds=1,
        ),
        "tiny": Scale(
            axes={"dataset": ("digits",)},
            overrides=("model.width=0.25", "trainer.epochs=2", HALVES, *ON_DIGITS[1:]),
            seeds=2,
        ),
    },
    notes=(
        "β is 10 unless optimizer.beta= says otherwise: the paper says how it is chosen on CIFAR only",
        "90 epochs with drops after 30 and 60 are assumed, and batches of 128, the size that section 7.2.1 times",
        "Train errors are of un-augmented images; the paper does not say of which",
    ),
)

# Section 7.2.3: "we normalize and scale the softmax output for each individual training sample", in the authors' code
# logits to norm 25.
TABLE_3 = Artefact(
    name="jia2020/table3",
    title="The metric γ̂ of minima found without and with the regulariser",
    source="Jia & Su 2020, table 3",
    shows=Table(
        value="half_fisher_log_determinant",
        label="Sum of ln singular values (nats)",
        more=(("fisher_log_determinant", "γ̂ of eq. 6 (nats)"),),
        rows=("dataset", "model"),
        columns="optimizer",
        baseline="sgd",
        higher_is_better=False,
    ),
    experiment="jia2020/table3",
    axes={
        "dataset": ("cifar10",),
        "model": ("resnet20", "wrn28_2_b33", "densenet_bc_k12"),
        "optimizer": REGULARISER,
    },
    seeds=MODELS,
    choice=BETA,
    measures=("fisher_determinant",),
    measure=("logit_norm=25", "subset_size=100", "subsets=100"),
    # Which of the two conventions is printed can't be told: eq. 6 is twice what the authors' code returns.
    published=(
        printed("jia2020_table3.csv", "gamma_hat", "half_fisher_log_determinant", factor=1.0, unit="nats"),
        printed("jia2020_table3.csv", "gamma_hat", "fisher_log_determinant", factor=1.0, unit="nats"),
    ),
    scales={
        # The cuts of table 1, whose runs these are.
        "small": replace(SMALL, axes={"model": ("resnet20",)}),
        "tiny": TINY,
    },
    notes=(
        "Logits are scaled to norm 25 before the loss, the authors' number: section 7.2.3 names none",
        "The authors' code returns the sum of ln singular values, half of eq. 6: printed numbers stand beside both",
        "Networks are in eval mode, which the authors' code is not",
        RECIPES,
    ),
)

# Section 7.2.1: 185.7 ms without, 285.6 ms with the regulariser; WRN-18, batch 128, two RTX 2080 Ti.
SECTION_7_2_1 = Computed(
    name="jia2020/sec7.2.1",
    title="Time of a training step without and with the regulariser",
    source="Jia & Su 2020, section 7.2.1",
    function="fsbench.reproduce.computed.step_time:regulariser_against_sgd",
    # The network sees the 114 pixels of the random crop.
    options={
        "paper": {"model": ["model=wrn18_1.5"], "batch": 128, "rounds": 50, "side": 114},
        "small": {"model": ["model=wrn18_1.5"], "batch": 32, "rounds": 10, "side": 114},
        "tiny": {"model": ["model=wrn18_1.5", "model.width=0.25"], "batch": 16, "rounds": 5, "side": 32},
    },
)

ARTEFACTS = (FIGURE_2, FIGURE_3, FIGURE_4, TABLE_1, TABLE_2, TABLE_3, SECTION_7_2_1)
