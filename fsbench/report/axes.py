"""The axes of an artefact as a reader meets them: their values in order, their names in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# What the last part of a key leaves unsaid.
_WORDS = {
    "dataset.noise": "label noise",
    "dataset.random_labels": "share of random labels",
    "dataset.confusion": "confusion set (images)",
    "dataset": "data set",
    "trainer.batch_size": "batch size",
    "optimizer.rho": "ρ",
    "optimizer.eta": "η",
    "optimizer.lr": "learning rate",
    "alpha": "α",
}
_NAMES = {
    "sgd": "SGD",
    "sam": "SAM",
    "asam": "ASAM",
    "fsam": "FSAM",
    "fisher_trace": "Fisher trace",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "imagenet": "ImageNet",
    "imagenet128": "ImageNet, 128 × 128",
    "stanford_cars": "Stanford Cars",
    "flowers102": "Flowers-102",
    "mlp": "MLP",
    "fcnn": "FCNN",
    "cnn": "CNN",
    "lenet": "LeNet",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "resnet34": "ResNet-34",
    "resnet56": "ResNet-56",
    "resnext29_32x4d": "ResNeXt-29",
    "densenet121": "DenseNet-121",
    "densenet_bc_k12": "DenseNet-BC",
    "vgg19_bn": "VGG-19-BN",
    "wrn16_4": "WRN-16-4",
    "wrn18_1.5": "WRN-18-1.5",
    "wrn28_2": "WRN-28-2",
    "wrn28_2_b33": "WRN-28-2, B(3,3)",
    "wrn28_10": "WRN-28-10",
    "pyramidnet272": "PyramidNet-272",
    "vit_base_patch16": "ViT-B/16",
    "deit_base": "DeiT-B",
}


def axis_words(axis: str) -> str:
    """What a reader calls a key of the command line: `label noise` for `dataset.noise`."""
    return _WORDS.get(axis, axis.rpartition(".")[2].replace("_", " "))


def axis_title(axis: str) -> str:
    """The same as the name of an axis of a figure, which begins with a capital letter where it is a word."""
    words = axis_words(axis)
    return words[0].upper() + words[1:] if len(words) > 1 else words


def value_words(value: str) -> str:
    """What a figure calls a value: `FSAM` for `fsam`; values that have no such name stay as they are."""
    return _NAMES.get(value, value)


def number(value: str) -> float | None:
    """The number that an axis value is, if it is one."""
    try:
        return float(value)
    except ValueError:
        return None


def ordered(found: Iterable[str], declared: Sequence[str]) -> list[str]:
    """Values as the artefact declares them; where some were not declared, in the order in which they were found."""
    values = list(dict.fromkeys(found))
    if set(values) <= set(declared):
        return [value for value in declared if value in values]
    return values


def matches(some: Mapping[str, str], where: Mapping[str, str]) -> bool:
    """Whether all axis values of `some` are those of `where`; 0.2 and 0.20 are the same number."""
    return all(axis in where and _same(value, where[axis]) for axis, value in some.items())


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    a, b = number(one), number(other)
    return a is not None and a == b
