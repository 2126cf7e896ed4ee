"""H v by double backward, against the Hessian in full."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fsbench.sharpness.derivatives.hessian_operator import HessianOperator
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.risk import Risk
from sharpness.networks import CLASSES, NETWORKS, SMOOTH, batches, loss_at, risk_of


def state_of(model: nn.Module) -> list[object]:
    """All that a measure must leave as it was."""
    tensors = [(t.detach().numpy().tobytes(), t.requires_grad) for t in (*model.parameters(), *model.buffers())]
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return [tensors, modules, [p.grad for p in model.parameters()], torch.get_rng_state().tolist()]


def vectors(risk: Risk, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    size = sum(p.numel() for p in risk.weights)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def hessian_of(risk: Risk) -> Tensor:
    """d2 L / dw dw, (W, W), row by row with plain autograd; torch.func.hessian is wrong in LayerNorm's scale."""
    loss, w = loss_at(risk)
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(loss, w, vectorize=True)


@cache
def dense_hessian(name: str) -> Tensor:
    """That of one of the named networks."""
    return hessian_of(risk_of(name))


def differences(risk: Risk, rows: Tensor) -> Tensor:
    """H v from gradients at w + s v and w - s v."""
    loss, w = loss_at(risk)
    gradient, s = torch.func.grad(loss), 1e-6
    return torch.stack([(gradient(w + s * v) - gradient(w - s * v)) / (2 * s) for v in rows])


@pytest.mark.parametrize(
    ("name", "memory"),
    [*((name, 2**30) for name in [*NETWORKS, *SMOOTH]), ("lenet", 20_000), ("resnet", 20_000), ("gelu", 20_000)],
)
def test_products_are_those_of_the_dense_hessian(name, memory):
    risk = risk_of(name)
    risk.memory = memory
    before = state_of(risk.model)
    operator, rows = HessianOperator(risk), vectors(risk)
    reference = rows @ dense_hessian(name)
    products = operator.flat(rows)
    torch.testing.assert_close(products, reference, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(operator.flat(rows[1]), products[1], rtol=1e-12, atol=1e-14)
    blocks = [operator.cut(v) for v in rows]
    torch.testing.assert_close(
        torch.stack([operator.join(p) for p in operator.products(blocks)]), reference, rtol=1e-9, atol=1e-12
    )
    sizes = [p.numel() for p in risk.weights]
    forms = torch.stack([(a * b).sum(1) for a, b in zip(rows.split(sizes, 1), reference.split(sizes, 1), strict=True)])
    torch.testing.assert_close(operator.quadratic_forms(blocks), forms.T, rtol=1e-9, atol=1e-12)
    assert state_of(risk.model) == before


class Attention(nn.Module):
    """Fused attention has no second derivative; this asks for it all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(12, 12)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x.reshape(len(x), 6, 12)).unsqueeze(1).chunk(3, dim=-1)
        return self.last(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))


def attention() -> Risk:
    torch.manual_seed(3)
    return Risk(Attention().double().eval(), nn.functional.cross_entropy, batches())


SMOOTH_RISKS = {name: lambda name=name: risk_of(name) for name in SMOOTH} | {
    "attention": attention,
    "squared error": lambda: risk_of("lenet", lambda o, y: (o - nn.functional.one_hot(y, CLASSES)).square().mean()),
}


@pytest.mark.parametrize("build", SMOOTH_RISKS.values(), ids=SMOOTH_RISKS)
def test_products_are_differences_of_gradients(build):
    risk = build()
    rows = vectors(risk)
    found, reference = HessianOperator(risk).flat(rows), differences(risk, rows)
    assert float((found - reference).norm() / reference.norm()) < 1e-7


def test_no_second_derivative_of_a_loss_linear_in_the_weights_is_zero():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()
    risk = Risk(model, lambda output, y: (output.sum(1) * y).mean(), batches())
    rows = vectors(risk)
    assert torch.equal(HessianOperator(risk).flat(rows), torch.zeros_like(rows))
    assert not HessianOperator(risk).flat(rows[0]).requires_grad


def test_products_under_no_grad():
    risk = risk_of("fcnn_bias")
    v = vectors(risk)[0]
    with torch.no_grad():
        inside = HessianOperator(risk).flat(v)
    assert torch.equal(inside, HessianOperator(risk).flat(v))


def test_operations_without_a_second_derivative_are_refused_by_name():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 12), nn.Unflatten(1, (3, 4))).double().eval()

    def ctc(output: Tensor, y: Tensor) -> Tensor:
        lengths = torch.full((len(y),), 1)
        return nn.functional.ctc_loss(output.log_softmax(-1).transpose(0, 1), y, lengths * 3, lengths)

    data = [(x, y.clamp(min=1).unsqueeze(1)) for x, y in batches()]
    risk = Risk(model, ctc, data)
    before = state_of(model)
    with pytest.raises(Refused, match=r"no second derivative in torch: aten::_ctc_loss_backward"):
        HessianOperator(risk).flat(vectors(risk))
    assert state_of(model) == before


class Changing:
    """Batches that `change(pass number, batches)` makes anew for each pass."""

    def __init__(self, change) -> None:
        self.change, self.passes = change, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.change(self.passes, batches()))


def flipped(number, data):
    """Another image of each batch is seen in a mirror each time: its pixels' sum stays."""
    return [
        (torch.stack([image.flip(-1) if i == number % 5 else image for i, image in enumerate(x)]), y) for x, y in data
    ]


def relabelled(number, data):
    return [(x, y.roll(number)) for x, y in data]


def subset(number, data):
    return [(torch.cat([x[:i], x[i + 1 :]]), torch.cat([y[:i], y[i + 1 :]])) for x, y in data for i in [number % 5]]


@pytest.mark.parametrize("change", [flipped, relabelled, subset])
def test_other_data_in_the_second_pass_are_refused(change):
    risk = Risk(NETWORKS["lenet"](), nn.functional.cross_entropy, Changing(change))
    operator, rows = HessianOperator(risk), vectors(risk)
    operator.flat(rows)
    with pytest.raises(Refused, match="batches yield other examples each time"):
        operator.flat(rows)


def test_other_order_and_batch_sizes_are_the_same_data():
    def shuffled(number, data):
        x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(number))
        return list(zip(x[order].split(3 + number), y[order].split(3 + number), strict=True))

    risk = Risk(NETWORKS["lenet"](), nn.functional.cross_entropy, Changing(shuffled))
    operator, rows = HessianOperator(risk), vectors(risk)
    for _ in range(3):
        torch.testing.assert_close(operator.flat(rows), rows @ dense_hessian("lenet"), rtol=1e-9, atol=1e-12)


def test_vectors_of_other_shapes():
    operator = HessianOperator(risk_of("fcnn"))
    with pytest.raises(ValueError, match="must have one entry for each of the 414 weights"):
        operator.cut(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one vector"):
        operator.products([])
    with pytest.raises(ValueError, match=r"must hold tensors shaped like 1\.weight, 3\.weight, 5\.weight"):
        operator.products([[torch.zeros(3)]])
