"""Parameter counts against the papers, and output shapes."""

from __future__ import annotations

import pytest
import torch
from model_cases import CIFAR, CONF, DIGITS, IMAGENET, MNIST, meta_model, options
from torch import nn

from fsbench.models import build_model, parameter_count

CNN = 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 192 + 192 * 192) + 2 * (64 + 128 + 192) + 193 * 10

# name, shape, classes, millions as published (two to four digits), exactly
COUNTS = [
    ("resnet20", CIFAR, 10, "0.27", 269_722),
    ("resnet32", CIFAR, 10, "0.46", 464_154),
    ("resnet56", CIFAR, 10, "0.85", 853_018),
    ("resnet34", CIFAR, 10, "21.3", 21_282_122),
    ("resnet34", IMAGENET, 1000, "21.8", 21_797_672),
    ("wrn28_2", CIFAR, 10, "1.5", 1_467_610),
    ("wrn28_2_b33", CIFAR, 10, "1.5", 1_467_610),
    ("wrn28_10", CIFAR, 10, "36.5", 36_479_194),
    ("wrn28_10", CIFAR, 100, "36.5", 36_536_884),
    ("wrn16_4", CIFAR, 10, "2.7", 2_748_890),
    ("wrn18_1.5", IMAGENET, 1000, "25.9", 25_875_816),
    ("densenet121", IMAGENET, 1000, "8.0", 7_978_856),
    ("densenet121", CIFAR, 10, "7.0", 6_964_106),
    ("densenet_bc_k12", CIFAR, 10, "0.8", 769_162),
    ("vgg19_bn", CIFAR, 10, "20.0", 20_040_522),
    ("vgg19_bn", IMAGENET, 1000, "143.7", 143_678_248),
    ("resnext29_32x4d", CIFAR, 10, "4.8", 4_775_754),
    # Han et al. print 26.0 M, which counts no BatchNorm (tested below); 26,210,842 is what others' builds have
    ("pyramidnet272", CIFAR, 10, "26.2", 26_210_842),
    ("cnn", CIFAR, 10, "0.82", CNN),
    ("mlp", MNIST, 10, "0.93", 785 * 512 + 2 * 513 * 512 + 513 * 10),
    ("fcnn", MNIST, 10, "0.54", 785 * 512 + 513 * 128 + 129 * 512 + 513 * 10),
    ("fcnn_small", MNIST, 10, "0.016", 785 * 20 + 21 * 20 + 21 * 10),
    ("lenet", MNIST, 10, "0.062", 61_706),
    ("lenet_ibayashi", MNIST, 10, "0.062", 61_706),
    ("small_cnn", MNIST, 10, "0.014", 26 * 20 + 501 * 20 + 321 * 10),
    ("deit_base", IMAGENET, 1000, "86.6", 86_567_656),
    ("vit_base_patch16", IMAGENET, 1000, "86.6", 86_567_656),
]


@pytest.mark.parametrize(
    ("name", "shape", "classes", "millions", "exactly"), COUNTS, ids=[f"{c[0]}-{c[1][2]}px-{c[2]}" for c in COUNTS]
)
def test_parameter_counts_are_the_published_ones(name, shape, classes, millions, exactly):
    count = parameter_count(meta_model(name, shape, classes))
    assert count == exactly
    digits = len(millions.partition(".")[2])
    assert f"{count / 1e6:.{digits}f}" == millions


def test_the_published_count_of_pyramidnet_is_that_without_batchnorm():
    model = meta_model("pyramidnet272", CIFAR, 10)
    norms = sum(parameter_count(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert f"{(parameter_count(model) - norms) / 1e6:.1f}" == "26.0"


def test_every_config_file_has_a_published_count():
    assert {path.stem for path in CONF.glob("*.yaml")} == {case[0] for case in COUNTS} | {"timm"}


def test_frozen_parameters_are_not_counted_and_shared_ones_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    assert parameter_count(nn.Sequential(first, second)) == 9


ANY_SIZE = ["resnet20", "resnet34", "wrn16_4", "wrn18_1.5", "densenet_bc_k12", "resnext29_32x4d", "cnn", "fcnn_small"]
SHAPES = [
    *[(name, shape) for name in ANY_SIZE for shape in (DIGITS, MNIST, CIFAR)],
    *[(name, shape) for name in ("lenet", "lenet_ibayashi", "small_cnn") for shape in (MNIST, CIFAR)],
    *[(name, CIFAR) for name in ("densenet121", "vgg19_bn")],
]


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=[f"{name}-{shape[0]}x{shape[2]}" for name, shape in SHAPES])
def test_logits_of_real_images_in_train_mode(name, shape):
    torch.manual_seed(0)
    model = build_model(options(name), shape, 7)
    assert model.training
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    # every parameter takes part
    logits.square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


LARGE = ["resnet34", "densenet121", "vgg19_bn", "wrn18_1.5", "deit_base", "vit_base_patch16", "cnn"]


@pytest.mark.parametrize("shape", [IMAGENET, (3, 128, 128), (4, 64, 96)], ids=["224", "128", "not square"])
@pytest.mark.parametrize("name", LARGE)
def test_large_images_and_other_channels_are_taken(name, shape):
    # build_model has checked the output's shape
    model = meta_model(name, shape, 13)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == shape[0]


@pytest.mark.parametrize("name", ["resnet20", "lenet", "vgg19_bn", "densenet_bc_k12", "wrn18_1.5"])
def test_the_seed_decides_the_weights(name):
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build_model(options(name), CIFAR, 10).state_dict()

    first, same, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
