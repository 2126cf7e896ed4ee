"""Every geometry is its definition: the fast way, in memory that is handed in, and stacked."""

from __future__ import annotations

import pytest
import torch

from fsbench.geometries import FORMS, GEOMETRIES, SCALES, Geometry
from fsbench.population.base_optimizers import by_member

NAMES = ["0.weight", "0.bias", "1.weight", "1.bias"]
SHAPES = [(3, 2, 2, 2), (3,), (5,), (5,)]
# D written out, as the papers have it.
DEFINITIONS = {
    "adaptive": (SCALES["weights"], lambda w, g, name, eta: (abs(w) + eta) ** 2 if "weight" in name else w**0),
    "adaptive-all": (SCALES["all"], lambda w, g, name, eta: (abs(w) + eta) ** 2),
    "inverse-fisher": (FORMS["multiplicative"], lambda w, g, name, eta: 1 / (1 + eta * g**2)),
    "inverse-fisher-additive": (FORMS["additive"], lambda w, g, name, eta: 1 / (g**2 + eta)),
}


def drawn(seed: int, *lead: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*lead, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def test_all_geometries_are_here() -> None:
    tried = [geometry for geometry, _ in DEFINITIONS.values()]
    known = [*GEOMETRIES.values(), *SCALES.values(), *FORMS.values()]
    assert all(geometry in tried for geometry in known if geometry.axis is not None)


@pytest.mark.parametrize("memory", [True, False], ids=["in-memory", "new"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "definition"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_fast_equals_definition(name, fast, memory) -> None:
    geometry, definition = DEFINITIONS[name]
    if not fast:
        geometry = Geometry(geometry.name, geometry.axis, geometry.defaults)
    w, g, etas = drawn(0), drawn(1), [0.3, 2.0, 0.01, 5.0]
    kept = [t.clone() for t in (*w, *g)]
    out = [torch.full_like(t, torch.nan) for t in w] if memory else None
    found = geometry.inverse_metric(w, g, NAMES, etas, out)
    assert out is None or all(d is o for d, o in zip(found, out, strict=True))
    assert all(torch.equal(t, k) for t, k in zip((*w, *g), kept, strict=True))
    for d, values in zip(found, zip(w, g, NAMES, etas, strict=True), strict=True):
        torch.testing.assert_close(d, definition(*values), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_fast_serves_stacks(name) -> None:
    geometry, definition = DEFINITIONS[name]
    w, g, eta = drawn(0, 3), drawn(1, 3), torch.tensor([0.3, 2.0, 0.01], dtype=torch.float64)
    found = geometry.fast(w, g, NAMES, [by_member(eta, t) for t in w], None)
    for d, stack, gradients, label in zip(found, w, g, NAMES, strict=True):
        for i in range(3):
            torch.testing.assert_close(d[i], definition(stack[i], gradients[i], label, eta[i]), rtol=1e-14, atol=0)
