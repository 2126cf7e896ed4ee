"""Hyperparameters as the four papers print them, written out by hand: what every cell's configuration must say.

For each artefact a list of (axis values, settings); of entries that fit a cell a later one wins. Sources beside each.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]
Rules = list[tuple[dict[str, str], Settings]]

COSINE_SGD = {
    "base.name": "sgd", "base.momentum": 0.9, "base.nesterov": False, "schedule.name": "cosine",
    "schedule.final_factor": 0.0, "schedule.warmup_epochs": 0.0,
}  # fmt: skip
PLAIN = {"loss.label_smoothing": 0.0, "dataset.noise": 0.0, "dataset.random_labels": 0.0, "dataset.confusion": 0}
ALL = {"dataset.subset": None, "dataset.validation": 0, "trainer.max_steps": None, "trainer.max_norm": None,
       "trainer.micro_batch_size": None, "trainer.precision": "fp32"}  # fmt: skip
NO_AUGMENTATION = {"augment.flip": False, "augment.crop": 0, "augment.padding": "zeros", "augment.cutout": 0,
                   "augment.autoaugment": None, "augment.autoaugment_first": False}  # fmt: skip
FLIP_CROP = NO_AUGMENTATION | {"augment.flip": True, "augment.crop": 4}
# Flip, crop, the size of the hole and the order are not in the paper; as in the SAM authors' code.
AUTOAUGMENT_CUTOUT = {"augment.flip": True, "augment.crop": 4, "augment.padding": "reflect", "augment.cutout": 16,
                      "augment.autoaugment": "cifar10", "augment.autoaugment_first": True}  # fmt: skip

# kim2022, section 5.1
KIM = COSINE_SGD | PLAIN | ALL | AUTOAUGMENT_CUTOUT | {
    "optimizer.lr": 0.1, "base.weight_decay": 0.0005, "trainer.batch_size": 128, "trainer.epochs": 200,
    "loss.label_smoothing": 0.1,
}  # fmt: skip
KIM_RULES: Rules = [
    ({}, KIM),
    ({"optimizer": "sgd"}, {"trainer.epochs": 400}),
    ({"optimizer": "sam"}, {"optimizer.rho": 0.05}),
    ({"optimizer": "asam"}, {"optimizer.rho": 0.5, "optimizer.eta": 0.01}),
    ({"optimizer": "fsam"}, {"optimizer.rho": 0.1, "optimizer.eta": 1.0}),
]
FSAM_AS_PUBLISHED = {"optimizer.form": "multiplicative", "optimizer.fisher": "batch", "optimizer.natural": False,
                     "optimizer.m": None}  # fmt: skip

# jia2020, section 7.1 and appendix E; momentum and weight decay of He et al. 2016
JIA_MINIMA = PLAIN | ALL | FLIP_CROP | {
    "dataset.name": "cifar10", "model.family": "resnet_cifar", "model.depth": 20,
    "optimizer.name": "sgd", "optimizer.lr": 0.1, "base.momentum": 0.9, "base.nesterov": False,
    "base.weight_decay": 0.0001,
    "schedule.name": "plateau", "schedule.factor": 0.1, "trainer.epochs": 200, "trainer.batch_size": 128,
}  # fmt: skip
ALGORITHM_1 = {"optimizer.alpha": 0.0001, "optimizer.sub_batches": 8, "optimizer.start": "first_drop"}
JIA_NETWORKS: Rules = [
    ({}, PLAIN | ALL | FLIP_CROP | {"base.name": "sgd", "base.momentum": 0.9, "schedule.name": "multistep",
                                    "trainer.batch_size": 128}),
    ({"model": "cnn"}, {"optimizer.lr": 0.01, "base.weight_decay": 0.0001, "base.nesterov": True, "trainer.epochs": 200,
                        "schedule.milestones": [100, 150], "schedule.gamma": 0.1,
                        "model.filters": [64, 64, 128, 128, 192, 192]}),
    ({"model": "wrn28_2_b33"}, {"optimizer.lr": 0.1, "base.weight_decay": 0.0005, "base.nesterov": True,
                                "trainer.epochs": 200, "schedule.milestones": [60, 120, 160], "schedule.gamma": 0.2,
                                "model.depth": 28, "model.width": 2}),
    ({"model": "densenet_bc_k12"}, {"optimizer.lr": 0.1, "base.weight_decay": 0.0001, "base.nesterov": True,
                                    "trainer.epochs": 300, "trainer.batch_size": 64, "schedule.milestones": [150, 225],
                                    "schedule.gamma": 0.1, "model.depth": 100, "model.growth": 12}),
    # 64,000 steps with drops after 32,000 and 48,000, at 391 steps an epoch
    ({"model": "resnet20"}, {"optimizer.lr": 0.1, "base.weight_decay": 0.0001, "base.nesterov": False,
                             "trainer.epochs": 164, "schedule.milestones": [82, 123], "schedule.gamma": 0.1,
                             "model.depth": 20}),
    ({"optimizer": "fisher_trace"}, ALGORITHM_1),
]  # fmt: skip

# ibayashi2021, appendix D; pixels in (-1, 1) and the decay are the authors' code's
IBAYASHI = PLAIN | ALL | NO_AUGMENTATION | {
    "dataset.name": "mnist", "dataset.mean": [0.5], "dataset.std": [0.5], "dataset.permute_labels": False,
    "optimizer.name": "sgd", "base.momentum": 0.9, "base.nesterov": False, "base.weight_decay": 1e-5,
    "trainer.batch_size": 1024, "schedule.name": "inverse_time", "schedule.decay": 1e-4,
}  # fmt: skip

# tsuzuku2019, section 6.1 and appendix E.1
TSUZUKU = PLAIN | ALL | NO_AUGMENTATION | {
    "optimizer.name": "adam", "optimizer.lr": 0.001, "base.betas": [0.9, 0.999], "base.eps": 1e-8,
    "base.weight_decay": 0.0, "trainer.batch_size": 128, "schedule.name": "constant", "dataset.permute_labels": False,
}  # fmt: skip
TSUZUKU_RULES: Rules = [
    ({}, TSUZUKU),
    ({"dataset": "mnist", "model": "mlp"}, {"trainer.epochs": 50, "model.widths": [512, 512, 512]}),
    ({"dataset": "mnist", "model": "lenet"}, {"trainer.epochs": 50}),
    ({"dataset": "cifar10", "model": "lenet"}, {"trainer.epochs": 100}),
    ({"dataset": "cifar10", "model": "wrn16_4"}, {"trainer.epochs": 200, "model.depth": 16, "model.width": 4}),
]

PUBLISHED: dict[str, Rules] = {
    "kim2022/table1": [
        *KIM_RULES,
        ({"dataset": "cifar100", "optimizer": "sam"}, {"optimizer.rho": 0.1}),
        ({"dataset": "cifar100", "optimizer": "asam"}, {"optimizer.rho": 1.0, "optimizer.eta": 0.1}),
        ({"model": "pyramidnet272"},
         {"trainer.batch_size": 256, "optimizer.lr": 0.05, "trainer.epochs": 900, "model.depth": 272}),
        ({"model": "pyramidnet272", "optimizer": "sgd"}, {"trainer.epochs": 1800}),
        ({"model": "pyramidnet272", "optimizer": "sam"}, {"optimizer.rho": 0.05}),
        # eta is not printed for PyramidNet: as for the other networks
        ({"model": "pyramidnet272", "optimizer": "asam"}, {"optimizer.rho": 1.0}),
        ({"model": "pyramidnet272", "dataset": "cifar100", "optimizer": "fsam"},
         {"optimizer.rho": 0.5, "optimizer.eta": 0.1}),
        ({"optimizer": "fsam"}, FSAM_AS_PUBLISHED),
        # not in the paper: SAM with the radius that FSAM has in the same row
        ({"optimizer": "SAM at FSAM's rho"}, {"optimizer.name": "sam", "optimizer.rho": 0.1}),
        ({"model": "pyramidnet272", "dataset": "cifar100", "optimizer": "SAM at FSAM's rho"}, {"optimizer.rho": 0.5}),
    ],
    # section 5.2; momentum is not printed
    "kim2022/table2": [
        ({}, COSINE_SGD | PLAIN | ALL | {
            "optimizer.lr": 1e-5, "base.weight_decay": 0.0001, "trainer.batch_size": 256, "trainer.epochs": 3,
            "dataset.name": "imagenet", "dataset.image_size": 224, "model.name": "deit_base_patch16_224",
            "model.pretrained": True,
        }),
        ({"optimizer": "sam"}, {"optimizer.rho": 0.05}),
        ({"optimizer": "asam"}, {"optimizer.rho": 1.0, "optimizer.eta": 0.01}),
        ({"optimizer": "fsam"}, {"optimizer.rho": 0.5, "optimizer.eta": 0.1} | FSAM_AS_PUBLISHED),
        # the pretrained network is only evaluated
        ({"optimizer": "before extra training"}, {"optimizer.lr": 0.0, "trainer.max_steps": 1, "trainer.epochs": 1}),
    ],
    # section 5.3; momentum and augmentation are not printed
    "kim2022/table3": [
        ({}, COSINE_SGD | PLAIN | ALL | {
            "optimizer.lr": 0.0005, "base.weight_decay": 0.05, "trainer.batch_size": 256, "trainer.epochs": 200,
            "dataset.image_size": 224, "model.name": "vit_base_patch16_224", "model.pretrained": True,
        }),
        ({"optimizer": "sam"}, {"optimizer.rho": 0.05}),
        ({"optimizer": "asam"}, {"optimizer.rho": 0.1, "optimizer.eta": 0.01}),
        ({"optimizer": "fsam"}, {"optimizer.rho": 0.1, "optimizer.eta": 1.0} | FSAM_AS_PUBLISHED),
    ],
    # section 5.4
    "kim2022/fig4": [
        *KIM_RULES,
        ({}, {"dataset.name": "cifar10", "model.family": "resnet", "model.depth": 34}),
    ],
    # caption of table 4
    "kim2022/table4": [
        *KIM_RULES,
        ({}, {"dataset.name": "cifar10", "model.family": "resnet_cifar", "model.depth": 32,
              "dataset.noise_includes_self": False}),
        ({"optimizer": "sam"}, {"optimizer.rho": 0.1}),
        ({"optimizer": "asam"}, {"optimizer.rho": 0.5, "optimizer.eta": 0.01}),
        ({"optimizer": "fsam"}, {"optimizer.rho": 0.1, "optimizer.eta": 0.001} | FSAM_AS_PUBLISHED),
        *(({"dataset.noise": rate}, {"dataset.noise": float(rate)}) for rate in ("0.2", "0.4", "0.6", "0.8")),
    ],
    # section 5.6 and footnote 5
    "kim2022/fig5": [
        ({}, KIM | NO_AUGMENTATION | FSAM_AS_PUBLISHED | {
            "optimizer.name": "fsam", "dataset.name": "cifar100", "model.family": "wrn", "model.depth": 28,
            "model.width": 10,
        }),
        *(({"optimizer.rho": f"{rho}"}, {"optimizer.rho": rho}) for rho in (0.01, 0.05, 0.1, 0.5, 1.0)),
        *(({"optimizer.eta": eta}, {"optimizer.eta": float(eta)})
          for eta in ("0.0001", "0.001", "0.01", "0.1", "1.0", "10")),
    ],
    "jia2020/fig2": [
        ({}, JIA_MINIMA | {"dataset.subset": 10000}),
        *(({"dataset.confusion": f"{n}"}, {"dataset.confusion": n}) for n in (0, 1000, 2000, 3000, 4000, 5000)),
    ],
    "jia2020/fig3": [
        ({}, JIA_MINIMA),
        ({"augment": "none"}, {"augment.flip": False, "augment.crop": 0}),
        ({"augment": "flip"}, {"augment.flip": True, "augment.crop": 0}),
        ({"augment": "crop1_flip"}, {"augment.flip": True, "augment.crop": 1}),
        ({"augment": "crop4_flip"}, {"augment.flip": True, "augment.crop": 4}),
    ],
    "jia2020/fig4": [
        ({}, JIA_MINIMA),
        *(({"trainer.batch_size": f"{n}"}, {"trainer.batch_size": n}) for n in (128, 256, 512, 1024)),
    ],
    "jia2020/table1": JIA_NETWORKS,
    # appendix E; the schedule is that of Zagoruyko & Komodakis 2016, the batch size that of section 7.2.1
    "jia2020/table2": [
        ({}, PLAIN | ALL | {
            "dataset.name": "imagenet", "dataset.image_size": 128, "augment.resize": 128, "augment.size": 114,
            "augment.flip": True, "augment.color_jitter": 0.4, "model.depth": 18, "model.width": 1.5,
            "optimizer.lr": 0.1, "base.momentum": 0.9, "base.nesterov": True, "base.weight_decay": 0.0001,
            "schedule.name": "multistep", "schedule.milestones": [30, 60], "schedule.gamma": 0.1, "trainer.epochs": 90,
            "trainer.batch_size": 128,
        }),
        ({"optimizer": "fisher_trace"}, ALGORITHM_1),
    ],
    "jia2020/table3": [*JIA_NETWORKS, ({}, {"dataset.name": "cifar10"})],
    "ibayashi2021/fig2": [
        ({}, IBAYASHI | {"optimizer.lr": 0.1, "trainer.epochs": 3000, "model.widths": [512, 128, 512]}),
        *(({"dataset.random_labels": f"{k / 10}"}, {"dataset.random_labels": k / 10}) for k in range(11)),
    ],
    "ibayashi2021/fig4": [
        ({}, IBAYASHI | {"optimizer.lr": 0.01, "trainer.epochs": 1000, "model.family": "lenet_ibayashi"}),
        *(({"dataset.random_labels": f"{k / 10}"}, {"dataset.random_labels": k / 10}) for k in range(11)),
    ],
    **{
        name: [
            *TSUZUKU_RULES,
            *(({"dataset.random_labels": f"{k / 10}"}, {"dataset.random_labels": k / 10}) for k in range(11)),
        ]
        for name in ("tsuzuku2019/fig1", "tsuzuku2019/fig3", "tsuzuku2019/fig4")
    },
}  # fmt: skip

# No cell may leave these open.
REQUIRED = (
    "optimizer.lr", "base.weight_decay", "trainer.epochs", "trainer.batch_size", "schedule.name",
    "loss.label_smoothing", "dataset.subset",
)  # fmt: skip


def settings(artefact: str, values: dict[str, str]) -> Settings:
    """What the paper has for a cell."""
    found: Settings = {}
    for where, more in PUBLISHED[artefact]:
        if all(values.get(axis) == value for axis, value in where.items()):
            found |= more
    return found
