"""Facts of each architecture, from its paper."""

from __future__ import annotations

import pytest
import torch
import torchvision
from model_cases import CIFAR, CONF, IMAGENET, MNIST, meta_model, options
from torch import nn
from torch.nn import functional

from fsbench.models import build_model


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """In order, without the 1x1 projections of shortcuts."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and "shortcut" not in name and "downsample" not in name
    ]


# layers with weights: the convolutions and the classifier
DEPTHS = [
    ("resnet20", 20, 16, 64),
    ("resnet32", 32, 16, 64),
    ("resnet56", 56, 16, 64),
    ("resnet34", 34, 64, 512),
    ("wrn18_1.5", 18, 64, 768),
    ("pyramidnet272", 272, 16, 864),
    ("densenet121", 121, 64, 32),
    ("densenet_bc_k12", 100, 24, 12),
    ("resnext29_32x4d", 29, 64, 1024),
    ("vgg19_bn", 17, 64, 512),  # 16 convolutions and the one linear layer
    ("cnn", 7, 64, 192),
]


@pytest.mark.parametrize(("name", "depth", "first", "last"), DEPTHS, ids=[case[0] for case in DEPTHS])
def test_depth_and_widths(name, depth, first, last):
    model = meta_model(name, CIFAR, 10)
    stack = convolutions(model)
    assert len(stack) + 1 == depth
    assert (stack[0].out_channels, stack[-1].out_channels) == (first, last)


@pytest.mark.parametrize(("name", "depth", "width"), [("wrn28_2", 28, 2), ("wrn28_10", 28, 10), ("wrn16_4", 16, 4)])
def test_depth_and_widths_of_wide_resnets(name, depth, width):
    model = meta_model(name, CIFAR, 10)
    # their depth 6n + 4 counts all convolutions, the three projections among them, and not the classifier
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == depth
    stack = convolutions(model)
    assert len(stack) == depth - 3
    blocks = (depth - 4) // 3
    widths = [16 * width] * blocks + [32 * width] * blocks + [64 * width] * blocks
    assert [conv.out_channels for conv in stack] == [16, *widths]
    assert {conv.kernel_size for conv in stack} == {(3, 3)}


WRITTEN_HERE = [
    "resnet20", "wrn16_4", "pyramidnet272", "cnn", "mlp", "fcnn", "fcnn_small", "lenet", "lenet_ibayashi", "small_cnn",
]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_networks_are_plain_modules(name):
    model = meta_model(name, CIFAR, 10)
    assert all(not module.inplace for module in model.modules() if isinstance(module, nn.ReLU))
    assert {key.rpartition(".")[2] for key, _ in model.named_parameters()} <= {"weight", "bias"}
    assert isinstance(model, nn.Sequential)
    assert isinstance(model[-1], nn.Linear)


@pytest.mark.parametrize(
    ("name", "ours", "published"),
    [
        ("resnet34", IMAGENET, torchvision.models.resnet34),
        ("densenet121", CIFAR, torchvision.models.densenet121),
        ("vgg19_bn", IMAGENET, torchvision.models.vgg19_bn),
    ],
)
def test_weights_of_torchvision_fit(name, ours, published):
    with torch.device("meta"):
        theirs = published(num_classes=11, init_weights=False) if name == "vgg19_bn" else published(num_classes=11)
    mine = meta_model(name, ours, 11).state_dict()
    assert {key: value.shape for key, value in mine.items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize(("pixels", "small"), [(28, True), (64, True), (65, False), (224, False)])
def test_resnet34_has_the_small_stem_up_to_64_pixels(pixels, small):
    model = meta_model("resnet34", (1, pixels, pixels), 10)
    assert (model.conv1.kernel_size, model.conv1.stride) == (((3, 3), (1, 1)) if small else ((7, 7), (2, 2)))
    assert isinstance(model.maxpool, nn.Identity if small else nn.MaxPool2d)


@pytest.mark.parametrize(("pixels", "small"), [(32, True), (64, True), (65, False)])
def test_vgg_has_one_linear_classifier_up_to_64_pixels(pixels, small):
    model = meta_model("vgg19_bn", (3, pixels, pixels), 10)
    linear = [module.in_features for module in model.modules() if isinstance(module, nn.Linear)]
    assert linear == ([512] if small else [512 * 7 * 7, 4096, 4096])


def test_resnet_block_is_the_formula_with_option_a():
    torch.manual_seed(0)
    block = build_model(options("resnet20"), CIFAR, 10).double().eval().stage2[0]
    assert [key for key, _ in block.shortcut.named_parameters()] == []
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
    out = functional.conv2d(x, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5
    out = functional.conv2d(out.relu(), block.conv2.weight, padding=1) / (1 + 1e-5) ** 0.5
    shortcut = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 16, 5, 5, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(block(x), (out + shortcut).relu())


def test_wide_block_is_pre_activation_and_projects_the_activated_input():
    torch.manual_seed(0)
    group = build_model(options("wrn16_4"), CIFAR, 10).double().eval().group2
    x = torch.randn(2, 64, 6, 6, dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5

    def branch(block: nn.Module, active: torch.Tensor, stride: int) -> torch.Tensor:
        out = functional.conv2d(active, block.conv1.weight, stride=stride, padding=1)
        return functional.conv2d((scale * out).relu(), block.conv2.weight, padding=1)

    active = (scale * x).relu()
    first = branch(group[0], active, 2) + functional.conv2d(active, group[0].shortcut.weight, stride=2)
    torch.testing.assert_close(group[0](x), first)
    torch.testing.assert_close(group[1](first), first + branch(group[1], (scale * first).relu(), 1))


def test_wide_dropout_lies_between_the_convolutions():
    torch.manual_seed(0)
    block = build_model(options("wrn16_4", dropout=0.5), CIFAR, 10).group1[1]
    seen = []
    block.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block.conv2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block(torch.randn(2, 64, 4, 4))
    assert seen[0] is seen[1]
    assert (seen[0] == 0).float().mean() > 0.6  # half of it by ReLU, half of the rest dropped


def test_pyramid_widths_grow_linearly():
    model = meta_model("pyramidnet272", CIFAR, 10)
    blocks = [*model.stage1, *model.stage2, *model.stage3]
    widths = [block.conv1.out_channels for block in blocks]
    assert len(widths) == 90
    assert max(abs(width - (16 + 200 * k / 90)) for k, width in enumerate(widths, start=1)) <= 0.5
    assert [block.conv3.out_channels for block in blocks] == [4 * width for width in widths]
    assert [k for k, block in enumerate(blocks) if block.conv2.stride == (2, 2)] == [30, 60]
    assert [key for key, _ in model.named_parameters() if "shortcut" in key] == []


def test_pyramid_bottleneck_is_the_formula():
    torch.manual_seed(0)
    block = build_model(options("pyramidnet272", depth=20, alpha=10), CIFAR, 10).double().eval().stage2[0]
    channels = block.conv1.in_channels
    x = torch.randn(2, channels, 8, 8, dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5
    out = scale * functional.conv2d(scale * x, block.conv1.weight)
    out = scale * functional.conv2d(out.relu(), block.conv2.weight, stride=2, padding=1)
    out = scale * functional.conv2d(out.relu(), block.conv3.weight)
    shortcut = functional.avg_pool2d(x, 2)
    padding = torch.zeros(2, out.shape[1] - channels, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), out + torch.cat([shortcut, padding], dim=1))


def test_resnext_has_32_groups_of_4_8_16_channels():
    model = meta_model("resnext29_32x4d", CIFAR, 10)
    middle = [block.conv2 for stage in (model.stage1, model.stage2, model.stage3) for block in stage]
    assert [(conv.groups, conv.out_channels) for conv in middle] == [(32, 128)] * 3 + [(32, 256)] * 3 + [(32, 512)] * 3
    assert [conv.stride[0] for conv in middle] == [1, 1, 1, 2, 1, 1, 2, 1, 1]


def test_densenet_bc_has_a_small_stem_and_halving_transitions():
    features = meta_model("densenet_bc_k12", CIFAR, 10).features
    assert next(iter(features)).stride == (1, 1)
    assert [type(module).__name__ for module in features] == [
        "Conv2d", "_DenseBlock", "_Transition", "_DenseBlock", "_Transition", "_DenseBlock", "BatchNorm2d",
    ]  # fmt: skip
    convs = [features.transition1.conv, features.transition2.conv]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [(216, 108), (300, 150)]


SEQUENCES = [
    ("cnn", CIFAR, "C64 R C64 R M2 C128 R C128 R M2 C192 R C192 R A F L10"),
    ("mlp", MNIST, "F L512 R L512 R L512 R L10"),
    ("fcnn", MNIST, "F L512 R L128 R L512 R L10"),
    ("fcnn_small", MNIST, "F L20 R L20 R L10"),
    ("lenet", MNIST, "C6 R M2 C16 R M2 F L120 R L84 R L10"),
    ("lenet_ibayashi", MNIST, "C6 R M2 C16 R M2 C120 R F L84 R L10"),
    ("small_cnn", MNIST, "C20 R M2 C20 R M2 F L10"),
]


def letter(module: nn.Module) -> str:
    match module:
        case nn.Conv2d():
            return f"C{module.out_channels}"
        case nn.Linear():
            return f"L{module.out_features}"
        case nn.MaxPool2d():
            return f"M{module.kernel_size}"
    return {nn.ReLU: "R", nn.Flatten: "F", nn.AdaptiveAvgPool2d: "A"}[type(module)]


@pytest.mark.parametrize(("name", "shape", "layers"), SEQUENCES, ids=[case[0] for case in SEQUENCES])
def test_order_of_layers(name, shape, layers):
    model = meta_model(name, shape, 10)
    assert " ".join(letter(module) for module in model) == layers
    kernel = 3 if name == "cnn" else 5
    assert {module.kernel_size for module in convolutions(model)} <= {(kernel, kernel)}


@pytest.mark.parametrize(("pixels", "padding"), [(12, 2), (28, 2), (31, 2), (32, 0), (64, 0)])
def test_lenet_pads_images_below_its_32_pixels(pixels, padding):
    assert meta_model("lenet", (1, pixels, pixels), 10).conv1.padding == (padding, padding)


@pytest.mark.parametrize("name", ["mlp", "lenet", "lenet_ibayashi", "small_cnn"])
def test_biases_can_be_left_out(name):
    assert [key for key, _ in meta_model(name, MNIST, 10, bias=False).named_parameters() if "bias" in key] == []


@pytest.mark.parametrize("name", ["resnet20", "wrn16_4", "cnn", "resnext29_32x4d", "resnet34", "wrn18_1.5"])
def test_he_initialisation(name):
    torch.manual_seed(0)
    model = build_model(options(name), CIFAR, 10)
    for conv in convolutions(model):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        # 4 standard errors of a standard deviation estimated from n values: sqrt(1 / 2n)
        tolerance = 4 * (2 / fan_out) ** 0.5 * (1 / (2 * conv.weight.numel())) ** 0.5
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, abs=tolerance)
        assert conv.bias is None or not conv.bias.any()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


@pytest.mark.parametrize("name", ["deit_base", "vit_base_patch16"])
def test_position_embeddings_follow_the_size_of_the_images(name):
    assert meta_model(name, (1, 32, 48), 10).pos_embed.shape == (1, 1 + 2 * 3, 768)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_files_start_with_one_line_that_describes_the_model(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 20
    assert "checkpoint: null" in lines
    # a config file names everything; nothing is left to defaults
    assert set(options(path.stem).model_dump()) == {line.partition(":")[0] for line in lines if line[0] != "#"}
