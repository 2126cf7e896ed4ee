"""Cross-entropy of logits divided by their standard deviation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fsbench.sharpness.derivatives.surrogate_loss import normalized_softmax_cross_entropy


def drawn(n: int = 5, k: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, k, generator=generator, dtype=torch.float64), torch.randint(k, (n,), generator=generator)


def hessian(of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.func.jacrev(torch.func.jacrev(of))


def by_the_book(logits: Tensor, labels: Tensor) -> float:
    """Eq. 20 to 22, a class at a time."""
    total = 0.0
    for f, y in zip(logits.tolist(), labels.tolist(), strict=True):
        mean = sum(f) / len(f)
        std = math.sqrt(sum((v - mean) ** 2 for v in f) / len(f))
        total -= math.log(math.exp(f[y] / std) / sum(math.exp(v / std) for v in f))
    return total / len(logits)


def test_is_that_of_the_paper():
    logits, labels = drawn()
    assert float(normalized_softmax_cross_entropy(logits, labels)) == pytest.approx(by_the_book(logits, labels), 1e-14)


@pytest.mark.parametrize("shift", [0.0, -7.0, 1e4])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 3.0, 1e9])
def test_forgets_scale_and_shift(scale, shift):
    logits, labels = drawn()
    expected = normalized_softmax_cross_entropy(logits, labels)
    # A shift costs the digits it takes from the logits.
    other = normalized_softmax_cross_entropy(scale * (logits + shift), labels)
    assert float(other) == pytest.approx(float(expected), rel=1e-14 * max(10.0, 10 * abs(shift)))


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e20, 1e37])
def test_very_small_and_large_logits_stay_in_range(size):
    logits, labels = drawn()
    found = normalized_softmax_cross_entropy((logits * size).float(), labels)
    assert float(found) == pytest.approx(by_the_book(logits, labels), rel=1e-4)


def test_derivatives_are_those_of_the_formula():
    logits, labels = drawn()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda o: normalized_softmax_cross_entropy(o, labels), logits)
    assert torch.autograd.gradgradcheck(lambda o: normalized_softmax_cross_entropy(o, labels), logits)


def test_its_hessian_is_that_of_a_plain_expression():
    logits, labels = drawn()

    def plain(o: Tensor) -> Tensor:
        std = o.std(1, keepdim=True, correction=0)
        return -(o / std).log_softmax(1)[torch.arange(len(labels)), labels].mean()

    found = hessian(lambda o: normalized_softmax_cross_entropy(o, labels))(logits)
    torch.testing.assert_close(found, hessian(plain)(logits), rtol=1e-9, atol=1e-12)


def test_works_example_by_example_under_vmap():
    logits, labels = drawn()

    def one(o: Tensor, y: Tensor) -> Tensor:
        return normalized_softmax_cross_entropy(o[None], y[None])

    hessians = torch.func.vmap(hessian(one))(logits, labels)
    for i in range(len(labels)):
        torch.testing.assert_close(hessians[i], hessian(one)(logits[i], labels[i]))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_works_in_forward_mode():
    logits, labels = drawn()

    def loss(o: Tensor) -> Tensor:
        return normalized_softmax_cross_entropy(o, labels)

    torch.testing.assert_close(torch.func.hessian(loss)(logits), hessian(loss)(logits))


def test_its_curvature_scales_with_the_inverse_square_of_the_logits():
    logits, labels = drawn()
    at = hessian(lambda o: normalized_softmax_cross_entropy(o, labels))
    torch.testing.assert_close(at(10 * logits) * 100, at(logits))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_equal_logits_count_as_the_uniform_prediction(value, dtype):
    logits = torch.full((1, 7), max(value, -6e4), dtype=dtype)
    labels = torch.tensor([2])

    def loss(o: Tensor) -> Tensor:
        return normalized_softmax_cross_entropy(o, labels)

    assert float(loss(logits)) == pytest.approx(math.log(7), rel=1e-6)
    assert torch.equal(torch.func.grad(loss)(logits), torch.zeros_like(logits))
    assert torch.equal(hessian(loss)(logits).flatten(), torch.zeros(49, dtype=dtype))


def test_equal_logits_of_one_example_leave_the_others_alone():
    logits, labels = drawn()
    logits[1] = 2.5
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(normalized_softmax_cross_entropy(logits, labels) * 5, logits)
    others = [0, 2, 3, 4]
    alone = logits.detach()[others].requires_grad_()
    (expected,) = torch.autograd.grad(normalized_softmax_cross_entropy(alone, labels[others]) * 4, alone)
    torch.testing.assert_close(gradient[others], expected)
    assert not gradient[1].any()


def test_takes_probabilities_for_labels():
    logits, labels = drawn()
    one_hot = torch.nn.functional.one_hot(labels, 4).double()
    torch.testing.assert_close(
        normalized_softmax_cross_entropy(logits, one_hot), normalized_softmax_cross_entropy(logits, labels)
    )


def test_logits_without_classes_are_an_error():
    with pytest.raises(ValueError, match=r"logits of shape \(3,\): must be \(n, K\)"):
        normalized_softmax_cross_entropy(torch.zeros(3), torch.zeros(3))
