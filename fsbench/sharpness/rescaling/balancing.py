"""The convex problem of normalized sharpness for one matrix: the best variances of its rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

# Sweeps of the alternation between two Newton steps, and Newton steps at most.
_SWEEPS = 20
_STEPS = 1000


@dataclass(frozen=True)
class Balanced:
    """The minimum over x and y of sum_ij curvature_ij e^(x_i + y_j) + squares_ij e^-(x_i + y_j).

    Args:
        value: the objective at `rows`, `columns`, where the infimum is attained; its limit where it is not.
        gap: an upper bound on `value` minus the infimum.
        rows, columns: x (m,) and y (n,) in float64; NaN for those that drop out (their terms vanish in the limit).
        dropped: how many positive entries of both matrices were left out because their terms vanish in the limit.
        sweeps, steps: how often both blocks of the alternation were solved, and the Newton steps.
    """

    value: float
    gap: float
    rows: Tensor
    columns: Tensor
    dropped: int
    sweeps: int = 0
    steps: int = 0


def balance(curvature: Tensor, squares: Tensor, *, tolerance: float = 1e-12) -> Balanced:
    """min over x, y of sum_ij a_ij e^(x_i + y_j) + b_ij e^-(x_i + y_j), to a relative gap of `tolerance`.

    Three steps, in float64.

    1. What vanishes in the limit is left out. Draw an arc from row i to column j where a_ij > 0, and back where
       b_ij > 0. At a minimum the terms of each row, and of each column, balance: those with a weigh as much as those
       with b, so the terms are a circulation along the arcs. By the theorem of alternatives an arc carries a positive
       one if and only if it lies on a directed cycle; all others can be driven to zero at no cost to the rest.
       What remains are the strongly connected parts, and within them the minimum is attained. Rows and columns that
       are zero in a or in b, and those that become so when others go, are the simplest case.
    2. Alternation: x_i = 1/2 ln(sum_j b_ij e^-y_j / sum_j a_ij e^y_j), likewise y: each exact given the other.
    3. Newton's method on both together, where alternation is slow and to bound the gap. With p = a e^(x+y),
       q = b e^-(x+y) and a Newton step (u, v), p (1 + u + v) and q (1 - u - v) have balanced rows and columns. If no
       |u_i + v_j| exceeds 1 they are a feasible point of the dual, sum p' (1 + ln(a/p')) + q' (1 + ln(b/q')), and its
       distance from the objective is sum p f(u+v) + q f(-u-v) with f(e) = (1+e) ln(1+e) - e <= e^2: at most
       sum (p + q) (u + v)^2, the squared Newton decrement.

    Args:
        curvature: a (m, n), none negative: the diagonal of the Hessian.
        squares: b (m, n), none negative: the squared weights.
        tolerance: of the gap, relative to the value.

    Raises:
        ValueError: shapes that differ or are no matrices, negative or non-finite entries, a tolerance below 1e-15.
        ArithmeticError: the gap could not be brought below the tolerance, or the value breaks its bounds
            2 sum_ij sqrt(a_ij b_ij) <= value <= 2 sqrt(sum a sum b).

    Source: Tsuzuku et al. 2019, eq. 17 with lambda = 1/2, and appendix B.
    """
    if curvature.dim() != 2 or curvature.shape != squares.shape:
        raise ValueError(
            f"shapes {tuple(curvature.shape)} and {tuple(squares.shape)}: must be two matrices of the same shape"
        )
    if tolerance < 1e-15:
        raise ValueError(f"tolerance={tolerance}: must be at least 1e-15")
    device = curvature.device if curvature.device.type != "mps" else torch.device("cpu")  # which has no float64
    a, b = (matrix.detach().to(device, torch.float64) for matrix in (curvature, squares))
    for name, matrix in (("curvature", a), ("squares", b)):
        if not torch.isfinite(matrix).all():
            raise ValueError(f"{name} has entries that are not finite")
        if (matrix < 0).any():
            raise ValueError(f"{name} has negative entries; clip them first")
    x, y = a.new_full((a.shape[0],), math.nan), a.new_full((a.shape[1],), math.nan)
    rows, columns, part = _strongly_connected(a > 0, b > 0)
    arcs = int((a > 0).sum() + (b > 0).sum())
    low = 2 * float((a.sqrt() * b.sqrt()).sum())
    high = 2 * math.sqrt(float(a.sum())) * math.sqrt(float(b.sum()))
    if not len(rows):
        return Balanced(0.0, 0.0, x, y, arcs)
    a, b = a[rows][:, columns], b[rows][:, columns]
    if part is not None:
        within = part[0][:, None] == part[1][None, :]
        a, b = a * within, b * within
    kept = int((a > 0).sum() + (b > 0).sum())
    # Scaled to a largest entry of 1; e^(x + y) and the value follow.
    most_a, most_b = float(a.max()), float(b.max())
    shift = (math.log(most_b) - math.log(most_a)) / 2
    unit = math.exp((math.log(most_a) + math.log(most_b)) / 2)
    problem = _Problem(a.div_(most_a).log_(), b.div_(most_b).log_(), None if part is None else part[1])
    value, gap, sweeps, steps = problem.solve(tolerance)
    value, gap = value * unit, gap * unit
    # By Cauchy-Schwarz, and at x and y the same for all rows and columns.
    if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
        raise ArithmeticError(f"the minimum {value} is not between its bounds {low} and {high}")
    x[rows], y[columns] = problem.x + shift, problem.y
    return Balanced(value, gap, x, y, arcs - kept, sweeps, steps)


def _strongly_connected(forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Rows and columns that lie on directed cycles, and the parts they belong to; None where there is one part.

    Arcs go from row i to column j where forward[i, j], and back where backward[i, j].
    """
    rows = torch.arange(forward.shape[0], device=forward.device)
    columns = torch.arange(forward.shape[1], device=forward.device)
    while len(rows) and len(columns):
        # What cannot be left or cannot be entered is on no cycle.
        r = forward.any(1) & backward.any(1)
        c = forward.any(0) & backward.any(0)
        if r.all() and c.all():
            break
        rows, columns, forward, backward = rows[r], columns[c], forward[r][:, c], backward[r][:, c]
    if not len(rows) or not len(columns):
        return rows[:0], columns[:0], None
    if forward.all() or backward.all():
        # All arcs one way, and each row and column entered and left: from row to row, say, along an arc forward
        # to some column, and from it back to any row.
        return rows, columns, None
    m, n = forward.shape
    out, back = forward.nonzero().cpu(), backward.nonzero().cpu()
    tails = torch.cat([out[:, 0], back[:, 1] + m]).numpy()
    heads = torch.cat([out[:, 1] + m, back[:, 0]]).numpy()
    graph = coo_array((torch.ones(len(tails), dtype=torch.int8).numpy(), (tails, heads)), shape=(m + n, m + n))
    count, found = connected_components(graph.tocsr(), directed=True, connection="strong")
    if count == 1:
        return rows, columns, None
    label = torch.as_tensor(found, dtype=torch.int64, device=forward.device)
    # Parts of one node have no cycle; any other has rows and columns, as arcs join a row and a column.
    large = (torch.bincount(label) > 1)[label]
    r, c = large[:m], large[m:]
    return rows[r], columns[c], (label[:m][r], label[m:][c])


class _Problem:
    """The minimum of sum p + q, p = exp(ln_a + x_i + y_j), q = exp(ln_b - x_i - y_j), where it is attained.

    Args:
        ln_a, ln_b: (m, n), -inf for zeros; overwritten.
        part: (n,) the connected part of each column; None where there is one. x + c and y - c within a part mean
            the same, so one column of each is held fixed.
    """

    def __init__(self, ln_a: Tensor, ln_b: Tensor, part: Tensor | None) -> None:
        self.ln_a, self.ln_b = ln_a, ln_b
        m, n = ln_a.shape
        self.x, self.y = ln_a.new_zeros(m), ln_a.new_zeros(n)
        labels = torch.zeros(n, dtype=torch.int64) if part is None else part.cpu()
        seen: dict[int, int] = {}
        for column, label in enumerate(labels.tolist()):
            seen.setdefault(label, column)
        self.fixed = torch.tensor(list(seen.values()), device=ln_a.device)
        self.wide = n > m
        # The fixed nodes are taken on the smaller side, which the linear system is solved on.
        if self.wide:
            owner = {label: int(torch.isfinite(ln_a[:, column]).nonzero()[0]) for label, column in seen.items()}
            self.fixed = torch.tensor(list(owner.values()), device=ln_a.device)

    def solve(self, tolerance: float) -> tuple[float, float, int, int]:
        """(value, bound on the gap, sweeps, Newton steps); x and y are left at the minimum."""
        sweeps = 2
        for _ in range(2):
            # In logarithms, as far from the minimum the terms may leave the range of numbers.
            self.x = (torch.logsumexp(self.ln_b - self.y, 1) - torch.logsumexp(self.ln_a + self.y, 1)) / 2
            x = self.x[:, None]
            self.y = (torch.logsumexp(self.ln_b - x, 0) - torch.logsumexp(self.ln_a + x, 0)) / 2
        for step in range(_STEPS):
            sweeps += self._alternate()
            p, q = self._terms()
            value = float(p.sum() + q.sum())
            residual_x, residual_y = p.sum(1) - q.sum(1), p.sum(0) - q.sum(0)
            off = float(residual_x.abs().sum() + residual_y.abs().sum())
            u, v = self._newton(p.add_(q), residual_x, residual_y)
            largest = self._largest(u, v, p)
            decrement = float(-(residual_x @ u + residual_y @ v))
            # Below the rounding of the sums themselves there is nothing left to gain.
            floor = 1e-15 * value * max(1.0, largest)
            if largest <= 1 and (decrement <= tolerance * value or off <= floor):
                return value, max(0.0, decrement), sweeps, step
            # Bach 2010, proposition 1: for sums of exponentials this share of the step always descends.
            share = math.log1p(largest) / largest if largest > 0 else 1.0
            self.x, self.y = self.x + share * u, self.y + share * v
        raise ArithmeticError(f"no minimum found within {_STEPS} Newton steps: relative gap {decrement / value:.1e}")

    def _terms(self) -> tuple[Tensor, Tensor]:
        exponent = self.x[:, None] + self.y
        return (self.ln_a + exponent).exp_(), exponent.neg_().add_(self.ln_b).exp_()

    def _alternate(self) -> int:
        """Sweeps over rows and columns until they are balanced or `_SWEEPS` were made; how many."""
        p, q = self._terms()
        tiny = torch.finfo(p.dtype).tiny
        s, t = torch.ones_like(self.x), torch.ones_like(self.y)
        done, change = 0, 1.0
        while done < _SWEEPS and change > 1e-14:
            done += 1
            up, down = p @ t, q @ (1 / t)
            s_next = (down.clamp_min(tiny) / up.clamp_min(tiny)).sqrt()
            change = float((up * s - down / s).abs().sum() / (up * s).sum())
            s = s_next
            t = ((1 / s @ q).clamp_min(tiny) / (s @ p).clamp_min(tiny)).sqrt()
        self.x, self.y = self.x + s.log(), self.y + t.log()
        return done

    def _newton(self, weights: Tensor, residual_x: Tensor, residual_y: Tensor) -> tuple[Tensor, Tensor]:
        """u, v with sum_j weights_ij (u_i + v_j) = -residual_x_i and sum_i weights_ij (u_i + v_j) = -residual_y_j."""
        if self.wide:
            v, u = self._eliminate(weights.T, residual_y, residual_x)
        else:
            u, v = self._eliminate(weights, residual_x, residual_y)
        return u, v

    def _eliminate(self, weights: Tensor, long: Tensor, short: Tensor) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(weights.dtype).tiny
        each = weights.sum(1).clamp_min(tiny)
        half = weights / each.sqrt()[:, None]
        # diag(weights.sum(0)) - half' half is the Laplacian of a graph: its diagonal is minus the sum of the rest,
        # which, unlike the difference, does not cancel where parts are joined by weak arcs alone.
        system = -(half.T @ half)
        system.fill_diagonal_(0.0)
        diagonal = -system.sum(1)
        lone = diagonal <= 0
        diagonal = torch.where(lone, torch.ones_like(diagonal), diagonal)
        # Held fixed: sums over a part of both sides are zero, so weight on one node makes that node's step zero.
        pinned = diagonal.clone()
        pinned[self.fixed] *= 2
        scale = diagonal.rsqrt()
        system = system * scale[:, None] * scale + torch.diag(pinned / diagonal)
        right = (weights.T @ (long / each) - short) * scale
        for jitter in (0.0, 1e-15, 1e-13, 1e-11, 1e-9, 1e-6):
            factor, failed = torch.linalg.cholesky_ex(
                system + jitter * torch.eye(len(system), dtype=system.dtype, device=system.device)
            )
            if not failed and torch.isfinite(factor).all():
                break
        second = torch.cholesky_solve(right[:, None], factor)[:, 0] * scale
        second = torch.where(lone, torch.zeros_like(second), second)
        first = -(long + weights @ second) / each
        return first, second

    def _largest(self, u: Tensor, v: Tensor, weights: Tensor) -> float:
        """max |u_i + v_j| over the entries there are."""
        change = (u[:, None] + v).abs_()
        return float(torch.where(weights > 0, change, 0.0).max())
