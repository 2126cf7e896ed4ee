"""What a risk is, and what it refuses to be."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from fsbench.sharpness import Refused, Risk
from fsbench.sharpness.loss_facts import is_cross_entropy
from sharpness.networks import NETWORKS, batches, loss_at, risk_of, whole

CE = nn.functional.cross_entropy


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory", [1, 2**30], ids=["one at a time", "whole batches"])
def test_loss_and_gradient_are_means_over_examples(name, memory) -> None:
    risk = Risk(NETWORKS[name](), CE, batches(), memory=memory)
    loss, w = loss_at(risk)
    expected = torch.func.grad(loss)(w)
    value, gradient = risk.gradient()
    assert value == pytest.approx(float(loss(w)), rel=1e-12)
    assert risk.value() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(torch.cat([g.flatten() for g in gradient]), expected, rtol=1e-10, atol=1e-14)


def test_groups_cross_the_batches() -> None:
    x, y = whole(batches())
    groups = list(risk_of("fcnn").groups(6))
    assert [len(labels) for _, labels in groups] == [6, 6, 6, 3]
    assert torch.equal(torch.cat([g for g, _ in groups]), x)
    assert torch.equal(torch.cat([labels for _, labels in groups]), y)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(72, 4)

    def forward(self, x):
        return self.linear(x.flatten(1)) + torch.randn(4)


class Centred(Noisy):
    """What it says of one example depends on its batch, in eval mode too."""

    def forward(self, x):
        out = self.linear(x.flatten(1))
        return out - out.mean(0)


def dropout_on() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Dropout(0.5)).train()


def frozen() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 4)).requires_grad_(False)


def weighted(o, y):
    return CE(o, y, weight=torch.tensor([1.0, 5.0, 1.0, 1.0], dtype=o.dtype))


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 4))


class ByTheBatch(Noisy):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(1)

    def forward(self, x):
        return self.linear(self.norm(x.flatten(1).T[:, None]).squeeze(1).T)


def broken() -> nn.Module:
    model = plain()
    nn.init.constant_(model[1].bias, float("nan"))
    return model


class Tupled(Noisy):
    def forward(self, x):
        return self.linear(x.flatten(1)), x


def bare_batchnorm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.BatchNorm1d(4, track_running_stats=False))


def sparse() -> nn.Module:
    return nn.Sequential(nn.Embedding(12, 24, sparse=True), nn.Flatten(), nn.Linear(72, 4))


REFUSED = {
    "NaN": (broken, CE, batches(), "output is not finite"),
    "tuple": (Tupled, CE, batches(), "output is a tuple, not a tensor"),
    "dictionaries": (plain, CE, [{"x": 1}], "pairs of tensors"),
    "triples": (plain, CE, [(*batches()[0], None)], "pairs of tensors"),
    "single examples": (plain, CE, [(batches()[0][0][0], batches()[0][1][0])], "pairs of tensors"),
    "batch statistics": (lambda: NETWORKS["resnet"]().train(), CE, batches(), "1 .BatchNorm2d. is in train mode"),
    "no running statistics": (lambda: bare_batchnorm().eval(), CE, batches(), "2 .BatchNorm1d. keeps no running stat"),
    "sparse": (sparse, CE, [(torch.arange(12).view(4, 3), torch.arange(4))], "0 .Embedding. has sparse gradients"),
    "dropout": (dropout_on, CE, batches(), "2 .Dropout. is in train mode; call model.eval"),
    "noise": (Noisy, CE, batches(), "two evaluations of the network differ"),
    "depends on its batch": (Centred, CE, batches(), "depends on the others in its batch"),
    "sum": (plain, lambda o, y: CE(o, y, reduction="sum"), batches(), "not the mean"),
    "no reduction": (plain, lambda o, y: CE(o, y, reduction="none"), batches(), "not the mean"),
    "class weights": (plain, weighted, batches(), "not the mean"),
    "statistics in eval mode": (lambda: ByTheBatch().eval(), CE, batches(), "take an example by itself: Expected more"),
    "frozen": (frozen, CE, batches(), "no trained weights"),
    "generator": (plain, CE, (pair for pair in batches()), "only once"),
    "empty": (plain, CE, [], "no examples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case) -> None:
    build, loss, data, message = REFUSED[case]
    with pytest.raises(Refused, match=message):
        Risk(build().double(), loss, data)


def test_refused_is_a_value_error() -> None:
    assert issubclass(Refused, ValueError)


def test_train_mode_that_makes_no_difference_is_fine() -> None:
    assert Risk(plain().double().train(), CE, batches()).examples == 21


def test_dropout_of_nothing_is_fine() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Dropout(0.0)).double().train()
    assert Risk(model, CE, batches(), memory=1).value() > 0


@pytest.mark.parametrize(
    ("loss", "known"),
    [
        (CE, True),
        (nn.CrossEntropyLoss(label_smoothing=0.1), True),
        (functools.partial(CE, label_smoothing=0.1), True),
        (functools.partial(CE, reduction="sum"), False),
        (nn.CrossEntropyLoss(reduction="sum"), False),
        (nn.CrossEntropyLoss(weight=torch.ones(4)), False),
        (nn.functional.nll_loss, False),
    ],
    ids=["function", "module", "smoothed", "sum", "summed module", "weighted", "other"],
)
def test_what_counts_as_plain_cross_entropy(loss, known) -> None:
    assert is_cross_entropy(loss) == known


def test_switched_to_train_mode_afterwards() -> None:
    risk = risk_of("resnet")
    risk.model.train()
    with pytest.raises(Refused, match="train mode"):
        risk.value()


def test_a_piece_that_is_too_large_is_halved() -> None:
    risk = risk_of("fcnn")
    sizes = []

    def of(x, y):
        if len(y) > 3:
            raise torch.OutOfMemoryError("too large")
        sizes.append(len(y))
        return [x.sum()]

    (total,) = risk.sum(of)
    assert float(total) == pytest.approx(float(whole(batches())[0].sum()))
    assert sum(sizes) == 21


def test_one_example_that_does_not_fit_is_an_error() -> None:
    def of(x, y):
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError):
        risk_of("fcnn").sum(of)


def test_the_number_of_examples_may_be_handed_in(monkeypatch) -> None:
    """The first pass over the data has a bar with a total then; what is counted is what counts."""
    totals = []

    class Bar:
        def __init__(self, *, total, **_) -> None:
            totals.append(total)

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            pass

        def update(self, n: int) -> None:
            pass

    monkeypatch.setattr("fsbench.sharpness.risk.tqdm", Bar)
    network = NETWORKS["fcnn"]()
    for examples, expected in ((None, [None, 21]), (21, [21, 21])):
        totals.clear()
        risk = Risk(network, nn.CrossEntropyLoss(), batches((8, 8, 5)), progress=True, examples=examples)
        risk.value()
        risk.value()
        assert totals == expected
    with pytest.raises(ValueError, match="examples=0: must be at least 1"):
        Risk(network, nn.CrossEntropyLoss(), batches(), examples=0)


class Embedded(nn.Module):
    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4, sparse=sparse)

    def forward(self, x):
        return self.table((x.flatten(1).sum(1) > 0).long())


class Sharded(nn.Parameter):
    """As `DTensor` looks from outside."""

    device_mesh = "2 devices"


def sharded() -> nn.Module:
    model = plain().double()
    model[1].weight = Sharded(model[1].weight.detach())
    return model


WEIGHTS = {
    "complex": (lambda: plain().to(torch.complex64), "1.weight is of torch.complex64; .*: write them as pairs of real"),
    "half": (lambda: plain().half(), r"1.weight is of torch.float16; .*: call model.float\(\) first"),
    "bfloat16": (lambda: plain().bfloat16(), "1.weight is of torch.bfloat16"),
    "sparse gradients": (lambda: Embedded(sparse=True).double(), r"table .Embedding. has sparse gradients"),
    "sharded": (sharded, "1.weight is sharded"),
}


@pytest.mark.parametrize(("build", "message"), WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_weights_that_no_measure_takes(build, message) -> None:
    with pytest.raises(Refused, match=message):
        Risk(build(), CE, batches())


def test_dense_gradients_of_an_embedding_are_fine() -> None:
    assert Risk(Embedded().double(), CE, batches()).value() > 0
