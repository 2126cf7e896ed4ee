"""Per-example gradients of every kind of layer, and of those that must not be taken for one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsbench.sharpness import Risk, fisher_log_determinant, hessian_diagonal, hessian_trace
from sharpness.networks import batches, by_tensor, dense_hessian

CE = nn.functional.cross_entropy


def flat(*layers: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 4, bias=False))


class Reshaped(nn.Module):
    """A layer given the rows of each image as a batch of their own, as windows of an attention are."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.head = nn.Linear(12, 3), nn.Linear(18, 4)

    def forward(self, x):
        return self.head(torch.relu(self.row(x.reshape(-1, 12))).reshape(len(x), -1))


class Standardised(nn.Conv2d):
    """A subclass that does not multiply with its weight as it is."""

    def forward(self, x):
        return nn.functional.conv2d(x, 2 * self.weight, self.bias, padding=1)


class InPlace(nn.Module):
    """What torchvision's networks do to the outputs of their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.head = nn.Linear(72, 4)

    def forward(self, x):
        out = self.conv(x)
        out.relu_()
        out = self.bn(out)
        out += x
        return self.head(out.relu_().flatten(1))


LAYERS = {
    "stride, dilation": lambda: flat(nn.Conv2d(2, 3, 2, stride=2, dilation=2), nn.ReLU(), features=12),
    "padding same": lambda: flat(nn.Conv2d(2, 2, 3, padding="same", dilation=2), nn.ReLU(), features=72),
    "padding reflect": lambda: flat(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU(), features=72),
    "padding circular": lambda: flat(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), features=72),
    "groups": lambda: flat(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), features=64),
    "one pixel": lambda: flat(nn.Conv2d(2, 5, 6), nn.ReLU(), features=5),
    "wide": lambda: flat(nn.Conv2d(2, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3), features=80),
    "deep kernel": lambda: flat(nn.Conv2d(2, 8, 4), nn.ReLU(), features=72),
    "conv1d": lambda: flat(nn.Flatten(2), nn.Conv1d(2, 3, 5, stride=3), nn.ReLU(), features=33),
    "conv3d": lambda: flat(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 2, 2), nn.ReLU(), features=50),
    "transposed": lambda: flat(nn.ConvTranspose2d(2, 2, 2), nn.ReLU(), features=98),
    "batchnorm1d": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.BatchNorm1d(4)).eval(),
    "prelu": lambda: flat(nn.Conv2d(2, 2, 3), nn.PReLU(), features=32),
    "leaky, average": lambda: flat(nn.Conv2d(2, 2, 3), nn.LeakyReLU(0.2), nn.AvgPool2d(2), features=8),
    "reshaped": Reshaped,
    "subclass": lambda: flat(Standardised(2, 2, 3), nn.ReLU(), features=72),
    "in place": InPlace,
    "kernel 4 x 3": lambda: flat(nn.Conv2d(2, 3, (4, 3), stride=(1, 2), padding=(0, 1)), nn.ReLU(), features=27),
    "group norm": lambda: flat(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), features=64),
    "batch norm with a large eps": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 4), nn.BatchNorm1d(4, eps=0.3)
    ).eval(),
    "parametrized": lambda: flat(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)), features=32),
}


def build(name: str) -> Risk:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = LAYERS[name]().double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return Risk(model, CE, batches((8, 5)))


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("parametrized", "group norm")])
def test_equals_the_dense_hessian(name) -> None:
    risk = build(name)
    expected = dense_hessian(risk).diagonal()
    assert hessian_trace(risk).value == pytest.approx(float(expected.sum()), rel=1e-9)
    for tensor, values in by_tensor(risk, expected).items():
        torch.testing.assert_close(hessian_diagonal(risk).values[tensor], values, rtol=1e-9, atol=1e-13, msg=tensor)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("memory", [2**30, 40_000], ids=["one group", "several groups"])
def test_gram_equals_that_of_single_gradients(name, memory) -> None:
    risk = build(name)
    risk.memory = memory
    rows = []
    for x, y in risk.batches:
        for i in range(len(y)):
            loss = CE(risk.model(x[i : i + 1]), y[i : i + 1])
            found = torch.autograd.grad(loss, risk.weights, materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in found]))
    jacobian = torch.stack(rows)
    expected = float(torch.linalg.slogdet(jacobian @ jacobian.T)[1])
    assert fisher_log_determinant(risk, subset_size=13, subsets=1).value == pytest.approx(expected, rel=1e-9)


LOOSE = {
    "reshaped": ["row.weight", "row.bias"],
    "subclass": ["0.weight", "0.bias"],
    "transposed": ["0.weight", "0.bias"],
    "parametrized": ["0.parametrizations.weight.original0", "0.parametrizations.weight.original1"],
    "prelu": ["1.weight"],
    "in place": [],
    "groups": [],
    "stride, dilation": [],
    "padding same": [],
    "padding reflect": [],
    "conv1d": [],
    "conv3d": [],
    "kernel 4 x 3": [],
    "group norm": [],
    "batch norm with a large eps": [],
}


@pytest.mark.parametrize("name", LOOSE)
def test_only_what_a_layer_explains_is_factored(name) -> None:
    assert build(name).weight_uses.loose == LOOSE[name]
