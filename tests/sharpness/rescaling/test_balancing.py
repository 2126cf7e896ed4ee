"""The convex problem of eq. 17 for one matrix."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fsbench.sharpness.rescaling.balancing import balance
from sharpness.rescaling.balancing_reference import reference_minimum


def drawn(m: int, n: int, spread: float = 1.0, density: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two matrices with logarithms of standard deviation `spread`, and zeros."""
    generator = torch.Generator().manual_seed(seed)

    def one() -> Tensor:
        values = (spread * torch.randn(m, n, generator=generator, dtype=torch.float64)).exp()
        return values * (torch.rand(m, n, generator=generator) < density)

    return one(), one()


def at(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> float:
    s = x[:, None] + y
    return float((a * s.exp() + b * (-s).exp()).sum())


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (6, 4), (5, 30)], ids=str)
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_equals_a_general_optimiser(shape, spread):
    a, b = drawn(*shape, spread)
    found = balance(a, b)
    assert found.value == pytest.approx(reference_minimum(a, b), rel=1e-10)
    assert found.gap <= 1e-12 * found.value
    assert found.dropped == 0
    assert at(a, b, found.rows, found.columns) == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("density", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("seed", range(12))
def test_zeros_anywhere(density, seed):
    """Also where the infimum is approached in the limit only."""
    shape = [(2, 2), (3, 3), (2, 5), (4, 4), (6, 3), (5, 5)][seed % 6]
    a, b = drawn(*shape, 1.0, density, seed)
    assert balance(a, b).value == pytest.approx(reference_minimum(a, b), rel=1e-7, abs=1e-7)


def test_two_by_two_by_a_grid():
    a, b = drawn(2, 2, seed=5)
    # x_1 = 0 without loss; refined around the best point.
    centre, width = np.zeros(3), 4.0
    for _ in range(12):
        best = min(
            itertools.product(*(np.linspace(c - width, c + width, 9) for c in centre)),
            key=lambda z: at(a, b, torch.tensor([0.0, z[0]]).double(), torch.tensor(z[1:]).double()),
        )
        centre, width = np.array(best), width / 3
    grid = at(a, b, torch.tensor([0.0, centre[0]]).double(), torch.tensor(centre[1:]))
    found = balance(a, b).value
    assert found == pytest.approx(grid, rel=1e-6)
    assert found <= grid * (1 + 1e-12)


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def ones(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.float64)


KNOWN = {
    # No entry has both: nothing holds any term.
    "upper against strictly lower": (ones(5).triu(), ones(5).tril(-1), 0.0),
    # Only the diagonal has both; all else goes to zero in the limit.
    "triangular": (ones(6).tril(), ones(6).triu(), 12.0),
    "triangular with weights": (ones(6).tril() * 4, ones(6).triu() * 9, 2 * 6 * 6.0),
    # One cycle through all rows and columns: twice n times the geometric mean of its terms.
    "cycle": (4 * eye(7), eye(7).roll(1, 0), 2 * 7 * 2.0),
    "cycle with a weak link": (
        torch.diag(torch.tensor([1e-200, 1, 1, 1]).double()), eye(4).roll(1, 0), 8 * 1e-25
    ),
    "diagonal": (torch.diag(torch.tensor([1.0, 4, 9])).double(), 4 * eye(3), 2 * 2 * (1 + 2 + 3)),
    "two blocks": (torch.block_diag(ones(2), ones(3)), torch.block_diag(ones(2), 4 * ones(3)), 2 * (4 + 2 * 9)),
    "curvature zero": (0 * ones(3), ones(3), 0.0),
    "weights zero": (ones(3), 0 * ones(3), 0.0),
    # The last row goes as its curvature is zero, the last column as its weights are.
    "row and column": (torch.tensor([[1.0, 1], [0, 0]]), torch.tensor([[4.0, 0], [5, 0]]), 4.0),
    # Once the first row is gone (no curvature), the first column has no weights left, then the second row none ...
    "staircase": (
        torch.tensor([[0.0, 0, 0], [7, 0, 0], [0, 5, 1]]), torch.tensor([[3.0, 0, 0], [0, 2, 0], [0, 0, 4]]), 4.0
    ),
    "full rank one": (
        torch.outer(torch.tensor([1.0, 1e30]).double(), torch.tensor([1e-30, 1, 1e30]).double()),
        1 / torch.outer(torch.tensor([1.0, 1e30]).double(), torch.tensor([1e-30, 1, 1e30]).double()),
        12.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("a", "b", "value"), KNOWN.values(), ids=KNOWN)
def test_closed_forms(a, b, value):
    for one, other in ((a, b), (a.T, b.T), (b, a)):
        assert balance(one, other).value == pytest.approx(value, rel=1e-6 if one.dtype == torch.float32 else 1e-9)


def test_what_vanishes_in_the_limit_has_no_variance():
    found = balance(torch.tensor([[1.0, 1], [0, 0]]), torch.tensor([[4.0, 0], [5, 0]]))
    assert found.rows.isnan().tolist() == [False, True]
    assert found.columns.isnan().tolist() == [False, True]
    assert found.dropped == 2  # a[0, 1] and b[1, 0]


@pytest.mark.parametrize(
    ("name", "dropped"), [("triangular", 30), ("two blocks", 0), ("staircase", 4), ("upper against strictly lower", 25)]
)
def test_how_many_entries_vanish(name, dropped):
    a, b, _ = KNOWN[name]
    assert balance(a, b).dropped == dropped


def test_parts_are_told_apart_by_the_direction_of_their_links():
    """Two blocks, and arcs from one to the other only, however many and large."""
    a, b = torch.block_diag(ones(3), ones(2)), torch.block_diag(ones(3), ones(2))
    apart = balance(a, b)
    a[:3, 3:], b[3:, :3] = 50.0, 70.0
    found = balance(a, b)
    assert found.dropped == 12
    assert found.value == pytest.approx(apart.value, rel=1e-12)
    b[0, 4] = 1e-3
    assert balance(a, b).dropped == 0
    assert balance(a, b).value > found.value + 0.1


def test_the_limit_is_approached():
    """A triangular pattern: the value at ever wider variances tends to the infimum, and is above it."""
    a, b = ones(4).tril(), ones(4).triu()
    infimum = balance(a, b).value
    wide = [at(a, b, -t * torch.arange(4.0).double(), t * torch.arange(4.0).double()) - infimum for t in (1, 5, 20)]
    assert wide[0] > wide[1] > wide[2] > 0
    assert wide[2] < 1e-7


@pytest.mark.parametrize("exponent", [-30.0, 30.0])
def test_rows_and_columns_may_have_any_scale(exponent):
    a, b = drawn(8, 5)
    generator = torch.Generator().manual_seed(1)
    factor = 10 ** (exponent * (torch.rand(8, 1, generator=generator) - torch.rand(1, 5, generator=generator)).double())
    found, scaled = balance(a, b), balance(a * factor, b / factor)
    assert scaled.value == pytest.approx(found.value, rel=1e-10)


@pytest.mark.parametrize("spread", [10.0, 35.0])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_magnitudes_over_sixty_decades(spread, density):
    """No reference reaches there: the gap is proven, and the pattern of any scale makes the same steps."""
    a, b = drawn(30, 40, spread, density)
    found = balance(a, b)
    assert found.gap <= 1e-12 * found.value
    assert found.steps < 60
    assert balance(a.T, b.T).value == pytest.approx(found.value, rel=1e-11)
    low, high = 2 * float((a * b).sqrt().sum()), 2 * math.sqrt(float(a.sum()) * float(b.sum()))
    assert low <= found.value <= high


@pytest.mark.parametrize("weak", [1e-3, 1e-8, 1e-16, 1e-30, 1e-300])
@pytest.mark.parametrize("pattern", ["blocks", "triangles"])
def test_nearly_decoupled(pattern, weak):
    """Alternation alone would take as many sweeps as the coupling is weak."""
    n = 24
    if pattern == "blocks":
        a, b = (torch.block_diag(*(drawn(8, 8, seed=s + k)[0] for s in range(3))) for k in (0, 10))
    else:
        a, b = ones(n).tril(), ones(n).triu()
    infimum = balance(a, b).value
    found = balance(a + weak * ones(n), b + weak * drawn(n, n)[0])
    assert found.gap <= 1e-12 * found.value
    assert found.value >= infimum
    assert found.steps < (100 if weak > 1e-100 else 400)
    if pattern == "blocks" and weak <= 1e-16:
        assert found.value == pytest.approx(infimum, rel=1e-6)


@pytest.mark.parametrize("shape", [(300, 500), (500, 300)], ids=str)
@pytest.mark.parametrize("density", [1.0, 0.02])
def test_well_coupled_matrices_need_no_more_than_alternation(shape, density):
    found = balance(*drawn(*shape, 1.0, density))
    assert found.sweeps <= 25
    assert found.steps <= 1


def test_the_gap_bounds_the_distance_to_the_minimum():
    """With a loose tolerance too."""
    for seed in range(20):
        a, b = drawn(6, 7, 4.0, 0.5, seed)
        exact = balance(a, b, tolerance=1e-14).value
        for tolerance in (1e-1, 1e-3, 1e-6):
            loose = balance(a, b, tolerance=tolerance)
            assert -1e-13 * exact <= loose.value - exact <= loose.gap + 1e-13 * exact


def test_single_precision_and_its_input_stay_as_they_are():
    a, b = (t.float() for t in drawn(4, 3))
    copies = a.clone(), b.clone()
    assert balance(a, b).value == balance(a.double(), b.double()).value
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])


def test_double_input_stays_as_it_is():
    a, b = drawn(4, 3)
    copies = a.clone(), b.clone()
    balance(a, b)
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "message"),
    [
        (torch.ones(2, 2), torch.ones(2, 3), 1e-12, r"shapes \(2, 2\) and \(2, 3\)"),
        (torch.ones(2), torch.ones(2), 1e-12, r"shapes \(2,\) and \(2,\)"),
        (-torch.ones(1, 1), torch.ones(1, 1), 1e-12, "curvature has negative entries"),
        (torch.ones(1, 1), -torch.ones(1, 1), 1e-12, "squares has negative entries"),
        (torch.full((1, 1), math.inf), torch.ones(1, 1), 1e-12, "curvature has entries that are not finite"),
        (torch.ones(1, 1), torch.full((1, 1), math.nan), 1e-12, "squares has entries that are not finite"),
        (torch.ones(1, 1), torch.ones(1, 1), 0.0, "tolerance=0.0: must be at least 1e-15"),
    ],
    ids=["shapes", "vectors", "negative curvature", "negative squares", "infinite", "nan", "tolerance"],
)
def test_nonsense_is_an_error(a, b, tolerance, message):
    with pytest.raises(ValueError, match=message):
        balance(a, b, tolerance=tolerance)
