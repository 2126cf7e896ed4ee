"""The perturbation lies on its ellipsoid and no other point of it does better."""

from __future__ import annotations

import pytest
import torch
from problems import Closure, batches, network_with_batchnorm

from fsbench.geometries import INVERSE_FISHER
from fsbench.optim import ASAM, FSAM, SAM, ellipsoid

CASES = [
    pytest.param(SAM, {"rho": 0.3}, id="sam"),
    pytest.param(ASAM, {"rho": 0.6, "eta": 0.02}, id="asam"),
    pytest.param(FSAM, {"rho": 0.4, "eta": 50.0}, id="fsam"),
]


@pytest.mark.parametrize(("method", "options"), CASES)
def test_on_the_ellipsoid_and_maximal_there(method, options) -> None:
    model = network_with_batchnorm()
    ((x, y),) = batches((8,))
    optimizer = method(model.named_parameters(), torch.optim.SGD, lr=0.1, **options)
    closure = Closure(model, x, y)
    optimizer.one_pass(closure)
    params = optimizer.trained()
    g = torch.cat([p.grad.flatten() for p in params])
    with torch.no_grad():
        inverse_metric = optimizer.inverse_metric(closure, None, len(x))
        metric = None if inverse_metric is None else inverse_metric(params, None)
    d = torch.ones_like(g) if metric is None else torch.cat([m.flatten() for m in metric])
    rho = options["rho"]
    eps, _ = ellipsoid.perturbation([p.grad for p in params], metric, [rho] * len(params))
    eps = torch.cat([e.flatten() for e in eps])
    assert float((eps**2 / d).sum().sqrt()) == pytest.approx(rho, rel=1e-12)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        other = torch.randn(g.shape, generator=generator, dtype=g.dtype) * d.sqrt()
        nearby = eps + 0.01 * other
        for candidate in (other, nearby):
            candidate = candidate * rho / (candidate**2 / d).sum().sqrt()
            assert g @ candidate <= g @ eps * (1 + 1e-12)


def test_zero_gradient_means_no_perturbation() -> None:
    eps, norm = ellipsoid.perturbation([torch.zeros(3)], None, [0.5])
    assert torch.equal(eps[0], torch.zeros(3))
    assert norm == 0


def test_fsam_with_small_eta_is_sam() -> None:
    g = [torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    sam, _ = ellipsoid.perturbation(g, None, [0.1])
    fsam, _ = ellipsoid.perturbation(g, INVERSE_FISHER.inverse_metric(g, g, ["weight"], [0.0]), [0.1])
    torch.testing.assert_close(sam, fsam)
    cosine, ratio = ellipsoid.alignment(fsam, g, [0.1])
    assert float(cosine) == pytest.approx(1)
    assert float(ratio) == pytest.approx(1)
