"""BatchNorm folded into the layer before it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.rescaling.fold_batchnorm import fold_batchnorm
from sharpness.networks import NETWORKS, batches


def example() -> Tensor:
    return batches((6,))[0][0]


def with_statistics(model: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.uniform_(module.bias, -0.3, 0.3)
        return model.double().eval()


def plain(bias: bool = True, affine: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, bias=bias),
        nn.BatchNorm2d(4, affine=affine),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 3, 2, bias=bias),
        nn.BatchNorm2d(3, affine=affine),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(75, 5, bias=bias),
        nn.BatchNorm1d(5, affine=affine),
        nn.ReLU(),
        nn.Linear(5, 4),
    )


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "not affine"])
def test_computes_the_same_without_batchnorm(bias, affine):
    model = with_statistics(plain(bias, affine))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded, layers = fold_batchnorm(model, example())
    assert layers == ("0", "3", "7")
    x = batches((9,))[0][0] * 3
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-13)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    assert folded.get_parameter("0.weight").shape == model[0].weight.shape
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_residual_networks_fold_too():
    model = NETWORKS["resnet"]()
    folded, layers = fold_batchnorm(model, example())
    assert layers == ("0", "3.conv1", "3.conv2", "4.conv1", "4.conv2")
    torch.testing.assert_close(folded(example()), model(example()), rtol=1e-12, atol=1e-13)


def test_a_network_without_batchnorm_is_itself():
    model = NETWORKS["lenet"]()
    assert fold_batchnorm(model, example()) == (model, ())


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (("0.weight",), (True, False)),
        (("0.bias",), (False, True)),
        (("1.weight",), (True, False)),
        (("1.bias",), (False, True)),
        ((), (False, False)),
    ],
    ids=["weight", "bias", "gamma", "beta", "none"],
)
def test_what_is_trained_stays_trained(trained, expected):
    model = with_statistics(plain())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    folded, _ = fold_batchnorm(model, example())
    assert (folded[0].weight.requires_grad, folded[0].bias.requires_grad) == expected


class Forward(nn.Module):
    """A convolution, a BatchNorm and a linear layer, connected in some way."""

    def __init__(self, how) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(72, 4)
        self.other = nn.Conv2d(2, 2, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.how(self, x).flatten(1))


class Activated(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def twice(m: Forward, x: Tensor) -> Tensor:
    return m.norm(m.conv(m.norm(m.conv(x))))


def also_used(m: Forward, x: Tensor) -> Tensor:
    hidden = m.conv(x)
    return m.norm(hidden) + hidden


REFUSED = {
    "after the activation": (lambda m, x: m.norm(m.conv(x).relu()), "norm .BatchNorm2d. can't be folded"),
    "after an activation in place": (lambda m, x: m.norm(functional.relu_(m.conv(x))), "norm .BatchNorm2d. can't be"),
    "before any layer": (lambda m, x: m.conv(m.norm(x)), "norm .BatchNorm2d. can't be folded"),
    "of a sum": (lambda m, x: m.norm(m.conv(x) + m.other(x)), "norm .BatchNorm2d. can't be folded"),
    "used twice": (twice, "norm .BatchNorm2d. can't be folded"),
    "layer used twice": (lambda m, x: m.norm(m.conv(m.conv(x))), "norm .BatchNorm2d. can't be folded"),
    "output used elsewhere": (also_used, "not the same with BatchNorm folded into conv"),
    "not reached": (lambda m, x: m.conv(x), "norm .BatchNorm2d. can't be folded"),
}


@pytest.mark.parametrize(("how", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_folded_is_refused_by_name(how, message):
    model = with_statistics(Forward(how))
    with pytest.raises(Refused, match=message):
        fold_batchnorm(model, example())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_batchnorm_that_does_more_is_refused():
    model = Forward(lambda m, x: m.norm(m.conv(x)))
    model.norm = Activated(2)
    with pytest.raises(Refused, match=r"norm \(Activated\) is no plain BatchNorm"):
        fold_batchnorm(with_statistics(model), example())
