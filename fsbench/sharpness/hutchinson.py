"""The trace of the Hessian from random probes: unbiased for every network that is twice differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fsbench.sharpness.derivatives.hessian_operator import HessianOperator
from fsbench.sharpness.estimate import Estimate, standard_error
from fsbench.sharpness.risk import Risk

# The standard error of fewer probes is itself too uncertain to stop by; it is looked at after each further ten.
BETWEEN_TESTS = 10


def hutchinson_trace(risk: Risk, *, probes: int = 100, tolerance: float = 0.0, seed: int = 0) -> Estimate:
    """Tr H = E[v' H v], v with independent entries +1 and -1; per weight tensor d: E[v_d . (H v)_d].

    One probe has the variance 2 sum_{i != j} H_ij^2: least among all distributions with independent entries, and
    none where H is diagonal. The cost is about two gradients a probe; `probes` and their results are held in blocks
    that fit into `risk.memory`, which changes nothing but the rounding of the result.

    Args:
        probes: how many at most.
        tolerance: stop as soon as the standard error is <= tolerance * |value|, looked at after each ten probes;
            0: never.
        seed: of the probes.

    Returns:
        value, and stderr from the spread of the probes (NaN for a single one); samples: probes used; per_layer; in
        details, "stderr of NAME" for each weight tensor.

    Raises:
        Refused: an operation has no second derivative; the data differ between two passes.
        ValueError: probes < 1 or tolerance < 0.

    Source: Hutchinson 1990; Ibayashi et al. 2021 compare with it.
    """
    if probes < 1:
        raise ValueError(f"probes={probes}: must be at least 1")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance={tolerance}: must be a finite number >= 0")
    operator = HessianOperator(risk)
    generator = torch.Generator().manual_seed(seed)
    itemsize = max(p.element_size() for p in risk.weights)
    fit = risk.piece(2 * operator.size * itemsize)
    forms: list[Tensor] = []  # of each probe: v_d . (H v)_d, (D,)
    reached = False
    while len(forms) < probes and not reached:
        block = min(fit, probes - len(forms))
        if tolerance > 0:
            block = min(block, BETWEEN_TESTS - len(forms) % BETWEEN_TESTS)
        vectors = [operator.cut(signs(operator.size, generator)) for _ in range(block)]
        what = f"Hutchinson probes {len(forms) + 1} to {len(forms) + block}"
        forms += operator.quadratic_forms(vectors, what).cpu().unbind()
        if tolerance > 0 and len(forms) % BETWEEN_TESTS == 0:
            totals = torch.stack(forms).sum(1)
            reached = standard_error(totals) <= tolerance * abs(float(totals.mean()))
    table = torch.stack(forms)
    totals = table.sum(1)
    notes: tuple[str, ...] = ()
    if tolerance > 0 and not reached:
        notes = (f"The standard error is still above {tolerance:g} of the value after {probes} probes.",)
    return Estimate(
        value=float(totals.mean()),
        stderr=standard_error(totals),
        samples=len(forms),
        exact=False,
        degrees=len(forms) - 1,
        per_layer=dict(zip(risk.names, table.mean(0).tolist(), strict=True)),
        seed=seed,
        method="hutchinson",
        notes=notes,
        details={f"stderr of {name}": standard_error(table[:, d]) for d, name in enumerate(risk.names)},
    )


def signs(size: int, generator: torch.Generator) -> Tensor:
    """`size` independent +1 and -1, each with probability 1/2."""
    return torch.empty(size).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
