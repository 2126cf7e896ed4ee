"""Kim, Li, Hu, Hospedales: Fisher SAM: Information Geometry and Sharpness Aware Minimisation. ICML 2022.

The paper's gamma is `optimizer.rho` here. It gives means ± deviations, but not of how many runs: three here.
"""

from __future__ import annotations

from collections.abc import Mapping

from fsbench.papers.artefact import Artefact, Computed, Extra, Lines, Published, Scale, Table, Values

METHODS = ("sgd", "sam", "asam", "fsam")
RUNS = 3
NOT_SAID = "The paper does not say over how many runs it averages: three here"
CELL = {"dataset": "dataset", "model": "model", "optimizer": "optimizer"}
# Momentum, weight decay, schedule and batch size of each section are the setup's: conf/setup, conf/recipe.
ON_DIGITS = ("dataset=digits", "augment=none", "trainer.batch_size=64")


def trained(epochs: int, *overrides: str) -> dict:
    """Fewer epochs, SGD twice as many as the two-pass methods, as in section 5.1."""
    return {
        "overrides": (f"trainer.epochs={epochs}", *overrides),
        "also": (({"optimizer": "sgd"}, (f"trainer.epochs={2 * epochs}",)),),
    }


def accuracy(*more: tuple[str, str], rows: Values = ("dataset", "model"), label: str = "Test accuracy (%)") -> Table:
    """Accuracies of the methods, compared with SGD's, and FSAM's with SAM's."""
    pairs = (("fsam", "sam"),)
    return Table("test_accuracy", rows, "optimizer", "sgd", True, label, more, pairs)


def printed(file: str, metric: str = "test_accuracy_percent", value: str | None = None, **more: Mapping) -> Published:
    """Accuracies in percent."""
    options = {"columns": CELL, **more}
    return Published(file, where={"metric": metric}, factor=100.0, unit="%", value=value, **options)


def toy(figure: int, title: str) -> Computed:
    """Exact, and done in seconds at every scale."""
    return Computed(
        name=f"kim2022/fig{figure}",
        title=f"Toy problem: {title}",
        source=f"Kim et al. 2022, figure {figure}",
        function=f"fsbench.reproduce.computed.gaussian_toy:figure{figure}",
        options={"paper": {}, "small": {}, "tiny": {}},
    )


FIGURE_1 = toy(1, "contours of the loss and its two minima")
FIGURE_2 = toy(2, "SAM ends in the sharp minimum, FSAM in the flat one")
FIGURE_3 = toy(3, "ASAM ends in the sharp minimum, FSAM in the flat one")

NAMES = {
    "densenet121": "DenseNet-121",
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "vgg19_bn": "VGG-19-BN",
    "resnext29_32x4d": "ResNeXt-29-32x4d",
    "wrn28_2": "WRN-28-2",
    "wrn28_10": "WRN-28-10",
    "pyramidnet272": "PyramidNet-272",
}

# Section 5.1. SGD with momentum 0.9, weight decay 0.0005, initial learning rate 0.1, cosine, 200 epochs (SGD 400),
# batch 128; PyramidNet: batch 256, learning rate 0.05, 900 epochs (SGD 1800). AutoAugment, Cutout, label smoothing 0.1.
# (gamma, eta):       CIFAR-10        CIFAR-100       PyramidNet
#   SAM               0.05            0.1             0.05
#   ASAM              (0.5, 0.01)     (1.0, 0.1)      1.0; eta is not given: as for the other networks
#   FSAM              (0.1, 1)        (0.1, 1)        (0.5, 0.1) on CIFAR-100; not given for CIFAR-10: (0.1, 1)
TABLE_1 = Artefact(
    name="kim2022/table1",
    title="Test accuracy on CIFAR-10 and CIFAR-100",
    source="Kim et al. 2022, table 1",
    shows=accuracy(),
    experiment="kim2022/table1",
    axes={"dataset": ("cifar10", "cifar100"), "model": tuple(NAMES), "optimizer": METHODS},
    # FSAM is nearly SAM at the same radius unless eta g^2 is of order 1, and on CIFAR-10 the radii differ. On CIFAR-100
    # they are the same but for PyramidNet: there the line is SAM's own run.
    extras=(
        Extra(
            axis="optimizer",
            label="SAM at FSAM's rho",
            where={"optimizer": "sam"},
            overrides=("optimizer.rho=0.1",),
            why="FSAM's radius is 0.1 where SAM's is 0.05 (CIFAR-10): the line tells the radius from the method",
        ),
        Extra(
            axis="optimizer",
            label="SAM at FSAM's rho",
            where={"dataset": "cifar100", "model": "pyramidnet272", "optimizer": "sam"},
            overrides=("optimizer.rho=0.5",),
            why="FSAM's radius is 0.5 for PyramidNet on CIFAR-100",
        ),
    ),
    seeds=RUNS,
    published=(printed("kim2022_table1.csv", names=NAMES),),
    scales={
        "small": Scale(axes={"dataset": ("cifar10",), "model": ("resnet20",)}, **trained(15)),
        "tiny": Scale(axes={"dataset": ("digits",), "model": ("resnet20",)}, seeds=2, **trained(2, *ON_DIGITS[1:])),
    },
    notes=(
        NOT_SAID,
        "Flips and crops of 4 pixels beside AutoAugment and Cutout, and Cutout's 16 pixels, are assumed: the paper is "
        "silent on them",
        "SAM at FSAM's rho is not in the paper",
    ),
)

BEFORE = {"before extra training": "none (before extra training)"}
# What stands for a pretrained ViT on the embedded digits.
TINY_VIT = (
    "model.name=test_vit",
    "model.pretrained=false",
    "dataset.image_size=32",
    "augment=none",
    "trainer.batch_size=64",
)

# Section 5.2. SGD, batch 256, weight decay 0.0001, initial learning rate 1e-5, cosine, three epochs.
# SAM 0.05, ASAM (1.0, 0.01), FSAM (0.5, 0.1). Momentum is not given: 0.9 as in section 5.1.
TABLE_2 = Artefact(
    name="kim2022/table2",
    title="Three more epochs of a pretrained DeiT-B on ImageNet",
    source="Kim et al. 2022, table 2",
    shows=accuracy(("test_top5_accuracy", "Top-5 accuracy (%)"), label="Top-1 accuracy (%)"),
    experiment="kim2022/table2",
    axes={"dataset": ("imagenet",), "model": ("deit_base",), "optimizer": METHODS},
    extras=(
        Extra(
            axis="optimizer",
            label="before extra training",
            where={"optimizer": "sgd"},
            overrides=("optimizer.lr=0", "trainer.epochs=1", "trainer.max_steps=1"),
            why="a step of length zero evaluates the pretrained network, for which the caption of table 2 has numbers",
        ),
    ),
    seeds=RUNS,
    published=(
        printed("kim2022_table2.csv", "top1_accuracy_percent", "test_accuracy", names=BEFORE),
        printed("kim2022_table2.csv", "top5_accuracy_percent", "test_top5_accuracy", names=BEFORE),
    ),
    scales={
        "small": Scale(
            overrides=("dataset.subset=25600", "trainer.precision=bf16", "trainer.eval_every=3", "trainer.workers=8"),
            seeds=1,
        ),
        "tiny": Scale(
            axes={"dataset": ("digits",), "model": ("timm",)},
            overrides=TINY_VIT,
            seeds=2,
        ),
    },
    notes=(
        NOT_SAID,
        "The pretrained weights are timm's deit_base_patch16_224, those of the repository that the paper names",
        "Momentum 0.9, random resized crops and flips are assumed: section 5.2 names neither",
    ),
)

# Section 5.3. SGD, 200 epochs, batch 256, weight decay 0.05, initial learning rate 0.0005, cosine.
# SAM 0.05, ASAM (0.1, 0.01), FSAM (0.1, 1). Momentum and augmentation are not given.
TABLE_3 = Artefact(
    name="kim2022/table3",
    title="Test accuracy of a pretrained ViT-B/16 after fine-tuning",
    source="Kim et al. 2022, table 3",
    shows=accuracy(),
    experiment="kim2022/table3",
    # "CIFAR" in the table is CIFAR-100 in the text.
    axes={
        "dataset": ("cifar100", "stanford_cars", "flowers102"),
        "model": ("vit_base_patch16",),
        "optimizer": METHODS,
    },
    seeds=RUNS,
    published=(printed("kim2022_table3.csv"),),
    scales={
        "small": Scale(
            axes={"dataset": ("flowers102",)},
            overrides=("trainer.epochs=40", "trainer.eval_every=40", "trainer.precision=bf16", "trainer.workers=8"),
            seeds=2,
        ),
        "tiny": Scale(
            axes={"dataset": ("digits",), "model": ("timm",)},
            overrides=(*TINY_VIT, "trainer.epochs=2"),
            seeds=2,
        ),
    },
    notes=(
        NOT_SAID,
        "The paper does not say which checkpoint of ViT-B/16 it starts from: here timm's vit_base_patch16_224",
        "Momentum 0.9 and the augmentation (flips for CIFAR-100, random resized crops and flips for Cars and Flowers) "
        "are assumed: section 5.3 names neither",
    ),
)

# Section 5.4. ResNet-34 trained by SGD, SAM (0.05) and FSAM (0.1, 1), otherwise as section 5.1; w + alpha g / ||g||,
# alpha from 0.1 to 5.
FIGURE_4 = Artefact(
    name="kim2022/fig4",
    title="Test accuracy under adversarial perturbation of the parameters, ResNet-34 on CIFAR-10",
    source="Kim et al. 2022, figure 4",
    shows=Lines(
        x="alpha",
        x_label="Length α of the perturbation",
        panels=(("adversarial_accuracy", "Test accuracy (%)"),),
        lines="optimizer",
    ),
    experiment="kim2022/fig4",
    axes={"optimizer": ("sgd", "sam", "fsam")},
    seeds=RUNS,
    measures=("adversarial",),
    measure=("alphas=[0.1,0.2,0.5,1.0,1.5,2.0,2.5,3.0,3.5,4.0,4.5,5.0]",),
    scales={
        "small": Scale(seeds=2, **trained(15)),
        "tiny": Scale(seeds=2, measure=("alphas=[0.1,0.5,1.0,5.0]",), **trained(2, "model=resnet20", *ON_DIGITS)),
    },
    notes=(
        NOT_SAID,
        "The gradient is of the mean cross-entropy over the whole training set, in eval mode: the paper does not say",
        "Between 0.1 and 5 the values of α are ours",
    ),
)

# Section 5.5 and the caption: ResNet-32, SAM 0.1, ASAM (0.5, 0.01), FSAM (0.1, 0.001); otherwise as section 5.1.
TABLE_4 = Artefact(
    name="kim2022/table4",
    title="Test accuracy after training with symmetric label noise, ResNet-32 on CIFAR-10",
    source="Kim et al. 2022, table 4",
    shows=accuracy(rows=("dataset", "model", "dataset.noise")),
    experiment="kim2022/table4",
    axes={
        "dataset": ("cifar10",),
        "model": ("resnet32",),
        "dataset.noise": ("0.2", "0.4", "0.6", "0.8"),
        "optimizer": METHODS,
    },
    seeds=RUNS,
    published=(printed("kim2022_table4.csv", columns={**CELL, "dataset.noise": "noise_rate"}),),
    scales={
        "small": Scale(axes={"dataset.noise": ("0.2", "0.6")}, seeds=2, **trained(10)),
        "tiny": Scale(
            axes={"dataset": ("digits",), "model": ("resnet20",), "dataset.noise": ("0.2", "0.8")},
            seeds=2,
            **trained(1, *ON_DIGITS[1:]),
        ),
    },
    notes=(
        NOT_SAID,
        "SAM has FSAM's radius here, so that its column is what SAM at FSAM's rho is in table 1; with η = 0.001 their "
        "updates are practically the same",
        "Exactly the given share of labels moves, each to another class (to any class with "
        "dataset.noise_includes_self=true); all that section 5.5 does not name is that of section 5.1",
    ),
)

# Section 5.6: (gamma, eta) in {0.01, 0.05, 0.1, 0.5, 1.0} x {1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10}.
FIGURE_5 = Artefact(
    name="kim2022/fig5",
    title="Sensitivity of FSAM to ρ (the paper's γ) and η, WRN-28-10 on CIFAR-100",
    source="Kim et al. 2022, figure 5",
    shows=Lines(
        x="optimizer.eta",
        x_label="Anti-regulariser η",
        panels=(("test_accuracy", "Test accuracy (%)"),),
        lines="optimizer.rho",
        log_x=True,
    ),
    experiment="kim2022/fig5",
    axes={
        "optimizer.rho": ("0.01", "0.05", "0.1", "0.5", "1.0"),
        "optimizer.eta": ("0.0001", "0.001", "0.01", "0.1", "1.0", "10"),
    },
    # One run a cell: the text mentions no average here.
    seeds=1,
    scales={
        "small": Scale(
            axes={"optimizer.rho": ("0.01", "0.1", "1.0"), "optimizer.eta": ("0.0001", "0.01", "1.0")},
            overrides=("model=wrn28_2", "trainer.epochs=10"),
        ),
        "tiny": Scale(
            axes={"optimizer.rho": ("0.01", "1.0"), "optimizer.eta": ("0.0001", "1.0")},
            overrides=("model=wrn28_2", "model.depth=10", "trainer.epochs=2", *ON_DIGITS),
            seeds=2,
        ),
    },
    notes=(
        "No augmentation at all: footnote 5 blames its lack for the distance to table 1",
        "Drawn over η with a line for each ρ; how the paper draws it can't be told from its text",
    ),
)

# Section 5.7: 0.2322 s (SAM) and 0.2334 s (FSAM) per batch of 128, WRN-28-10 on CIFAR-10, one RTX 2080 Ti.
SECTION_5_7 = Computed(
    name="kim2022/sec5.7",
    title="Time of a training step with SAM and with FSAM",
    source="Kim et al. 2022, section 5.7",
    function="fsbench.reproduce.computed.step_time:fsam_against_sam",
    options={
        "paper": {"model": ["model=wrn28_10"], "batch": 128, "rounds": 50},
        "small": {"model": ["model=wrn28_2"], "batch": 128, "rounds": 20},
        "tiny": {"model": ["model=resnet20"], "batch": 16, "rounds": 5},
    },
)

ARTEFACTS = (FIGURE_1, FIGURE_2, FIGURE_3, TABLE_1, TABLE_2, TABLE_3, FIGURE_4, TABLE_4, FIGURE_5, SECTION_5_7)
