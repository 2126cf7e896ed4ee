"""The surrogate loss's Hessian by its logits in closed form: equal to autograd's, exact for sure networks, no K^3."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian

from fsbench.sharpness import Risk, hessian_diagonal, normalized_sharpness, normalized_softmax_cross_entropy
from fsbench.sharpness.derivatives.logit_hessian import factor_count
from fsbench.sharpness.derivatives.surrogate_loss import surrogate_factors


def composed(logits: Tensor, labels: Tensor) -> Tensor:
    v, weights = surrogate_factors(logits, labels)
    return torch.einsum("sn,snk,snl->nkl", weights, v, v)


def by_autograd(logits: Tensor, labels: Tensor) -> Tensor:
    def of(o: Tensor, y: Tensor) -> Tensor:
        return hessian(lambda one: normalized_softmax_cross_entropy(one[None], y[None]), o)

    return torch.stack([of(o, y) for o, y in zip(logits, labels, strict=True)])


def by_the_book(o: Tensor, y: int) -> np.ndarray:
    """In long doubles: J'(diag p - pp')J + sum_k r_k (d2 z_k / do do), with r as the sum of the other p's."""
    o = o.numpy().astype(np.longdouble)
    c = o - o.mean()
    std = np.sqrt((c * c).mean())
    u = c / np.sqrt((c * c).sum())
    p = np.exp(c / std - (c / std).max())
    p /= p.sum()
    r = p.copy()
    r[y] = -np.delete(p, y).sum()
    eye, size = np.eye(len(o), dtype=np.longdouble), len(o)
    middle = eye - 1 / np.longdouble(size)
    projection = middle - np.outer(u, u)
    bent = np.outer(r, u) + np.outer(u, r) + (r @ u) * (eye - 3 * np.outer(u, u))
    first = projection @ (np.diag(p) - np.outer(p, p)) @ projection
    return (first - middle @ bent @ middle / np.sqrt(np.longdouble(size))) / std**2


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("classes", [3, 10, 40])
def test_it_is_the_hessian(classes, scale) -> None:
    draw = torch.Generator().manual_seed(classes)
    logits = 3 + scale * torch.randn(30, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(classes, (30,), generator=draw)
    v, weights = surrogate_factors(logits, labels)
    assert v.shape == (factor_count(normalized_softmax_cross_entropy, classes), 30, classes)
    assert {*weights.unique().tolist()} == {-1.0, 1.0}
    expected = by_autograd(logits, labels)
    difference = (composed(logits, labels) - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    # 3 + 1e-6 has lost six digits.
    assert difference.max() < (1e-9 if scale == 1e-6 else 1e-12)


@pytest.mark.parametrize("label", [0, 1], ids=["right", "wrong"])
@pytest.mark.parametrize("classes", [10, 100, 400], ids=["p=0.75", "p=0.996", "p=1-8e-7"])
def test_sure_networks_keep_their_digits(classes, label) -> None:
    """All logits are nearly equal but for the first; the trace has 1e-9 of what 1 - p would lose."""
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0, 0] = 1e4
    expected = by_the_book(logits[0], label)
    found = composed(logits, torch.tensor([label]))[0].numpy()
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()
    # Rounding each vector to float32, as a network's gradients are, costs no more than float32's digits.
    v, weights = surrogate_factors(logits, torch.tensor([label]))
    rounded = torch.einsum("sn,snk->k", weights, v.float().double().square()).numpy()
    assert np.abs(rounded - expected.diagonal()).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "logits",
    [[0.0, 0.0, 0.0], [7.5, 7.5, 7.5], [1e30, 1e30, 1e30]],
    ids=str,
)
def test_equal_logits_have_no_curvature(logits) -> None:
    v, _ = surrogate_factors(torch.tensor([logits], dtype=torch.float64), torch.tensor([1]))
    assert v.abs().max() == 0


def test_two_classes_are_flat() -> None:
    """The normalised logits are 1 and -1 wherever the two differ."""
    logits = torch.tensor([[2.0, 3.0], [-1.0, 5.0]], dtype=torch.float64)
    assert composed(logits, torch.tensor([0, 1])).abs().max() < 1e-15


def test_nothing_of_third_order_in_the_classes(monkeypatch) -> None:
    """Neither eigenvectors nor a row of the Hessian a class."""
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 7)).double().eval()
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 5, generator=draw, dtype=torch.float64), torch.randint(7, (9,), generator=draw)
    # A loss that is not known is taken apart as ever.
    plain = Risk(model, lambda o, labels: normalized_softmax_cross_entropy(o, labels), [(x, y)])
    expected = hessian_diagonal(plain)
    monkeypatch.setattr("torch.linalg.eigh", lambda *_: pytest.fail("eigenvectors"))
    risk = Risk(model, torch.nn.functional.cross_entropy, [(x, y)])
    found = hessian_diagonal(Risk(model, normalized_softmax_cross_entropy, [(x, y)]))
    for name, value in expected.values.items():
        torch.testing.assert_close(found.values[name], value, rtol=1e-10, atol=1e-13)
    assert normalized_sharpness(risk).value == pytest.approx(
        normalized_sharpness(risk, diagonal=expected).value, rel=1e-9
    )
