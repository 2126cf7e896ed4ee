"""The two published approximations of the Hessian's diagonal, by differences of gradients at random points near w."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from fsbench.optim.beside import displaced
from fsbench.sharpness.derivatives.hessian_operator import HessianOperator
from fsbench.sharpness.estimate import Diagonal
from fsbench.sharpness.hutchinson import signs
from fsbench.sharpness.risk import Risk

Form = Literal["2019", "2020", "2019 as evaluated", "2020 as evaluated"]

# Where a ReLU switches between the two points, the jump of the gradient enters divided by r: rarely, but the larger
# for a small r. Measured on a ReLU network the error falls with a growing r far beyond what rounding asks for.
RADIUS = 1e-2
# In the code that Ibayashi et al. 2021 evaluated both forms with.
EVALUATED_RADIUS = 1e-5


def difference_diagonal(
    risk: Risk, *, probes: int, radius: float | None = None, seed: int = 0, form: Form = "2019"
) -> Diagonal:
    """diag H from `probes` differences of gradients; the last of `difference_diagonals`, which tells all about it."""
    *_, last = difference_diagonals(risk, probes=probes, radius=radius, seed=seed, form=form)
    return last[1]


def difference_diagonals(
    risk: Risk, *, probes: int, radius: float | None = None, seed: int = 0, form: Form = "2019"
) -> Iterator[tuple[int, Diagonal]]:
    """diag H ~ mean over probes of e * [grad L(w + r a e) - grad L(w - r a e)] / (2 r a), after 1, 2, 4, ... of them.

    All products are elementwise, e is a random vector, a a vector of scales, r a small number:

    - `2019`: e ~ N(0, 1). Tsuzuku et al. 2019, eq. 61, also Ibayashi et al. 2021, appendix G. They choose "r per
      weight matrix according to their Frobenius norm" without a rule; here a is the same for all entries of a weight
      tensor, their root mean square ||W||_F / sqrt(number of entries), so that the whole perturbation of the tensor
      is about r ||W||_F long.
    - `2020`: e = +1 or -1, a = |w|, and the mean is clipped at 0, which keeps the minimisation of normalized
      sharpness convex. This is our reading: the ICML 2020 paper of Tsuzuku et al. was not at hand, and Ibayashi et
      al. 2021 print no formula for it, but the code they evaluated it with has these e, this denominator and this
      clipping.
    - `2019 as evaluated`: that code has a = 1, one r for all weights. The noise that tensor j puts into an entry of
      tensor i grows with a_j / a_i, so it is less noisy than `2019` where scales differ.
    - `2020 as evaluated`: the same code, literally: the weights are moved by r e, not by r |w| e, yet the difference is
      divided by 2 r |w| + 1e-8. Its mean is H_ii / |w_i|, so it is no estimate of the diagonal; it serves to
      reproduce the right panel of their figure 3.

    Where the scale a is 0 (a tensor of zeros in 2019, a single zero in 2020), the root mean square of the tensor takes
    its place, else that of all weights. Two gradients a probe, probes in blocks that fit into `risk.memory`; both
    gradients are taken of the same piece of data at a time. The weights are restored exactly.

    Args:
        probes: how many, >= 1.
        radius: r, > 0; by default 0.01, and 1e-5 in the forms "as evaluated", as there. For a ReLU network the mean
            over infinitely many probes includes the jumps of the gradient at its kinks, whatever the radius; the
            Hessian does not.
        seed: of the probes.

    Yields:
        The number of probes so far and the estimate: after 1, 2, 4, 8, ... and after the last. `stderr` is of the
        mean before clipping, from the spread of the probes; NaN for one.

    Raises:
        Refused: the data differ between two passes.
        ValueError: an argument out of its range.
    """
    if form not in get_args(Form):
        raise ValueError(f"form={form}: must be one of {', '.join(get_args(Form))}")
    if probes < 1:
        raise ValueError(f"probes={probes}: must be at least 1")
    if radius is None:
        radius = EVALUATED_RADIUS if form.endswith("as evaluated") else RADIUS
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius={radius}: must be a finite number > 0")
    return _estimates(risk, probes, radius, seed, form)


def _estimates(risk: Risk, probes: int, radius: float, seed: int, form: Form) -> Iterator[tuple[int, Diagonal]]:
    operator = HessianOperator(risk)
    generator = torch.Generator().manual_seed(seed)
    weights = risk.weights
    size = sum(p.numel() for p in weights)
    steps, denominators = _scales(risk, radius, form)
    fit = risk.piece(4 * size * max(p.element_size() for p in weights))
    # Mean and summed squared deviations so far, updated probe by probe (Welford).
    mean = [torch.zeros_like(p, dtype=torch.float64) for p in weights]
    spread = [torch.zeros_like(m) for m in mean]
    done, goal = 0, 1
    while done < probes:
        block = min(fit, goal - done, probes - done)
        drawn = [_draw(size, generator, form) for _ in range(block)]
        vectors = [operator.cut(e) for e in drawn]
        for e, difference in zip(vectors, _differences(risk, vectors, steps, done), strict=True):
            done += 1
            for d in range(len(weights)):
                draw = (e[d] * difference[d]).double() / denominators[d]
                deviation = draw - mean[d]
                mean[d] += deviation / done
                spread[d] += deviation * (draw - mean[d])
        if done in (goal, probes):
            goal = 2 * done
            yield done, _estimate(risk, mean, spread, done, seed, form)


def _draw(size: int, generator: torch.Generator, form: Form) -> Tensor:
    if form.startswith("2019"):
        return torch.randn(size, generator=generator, dtype=torch.float64)
    return signs(size, generator)


def _differences(risk: Risk, vectors: list[list[Tensor]], steps: list[Tensor], done: int) -> list[list[Tensor]]:
    """grad L(w + step * e) - grad L(w - step * e) for each vector e."""
    weights = risk.weights

    def parts(x: Tensor, y: Tensor) -> list[Tensor]:
        found = []
        for vector in vectors:
            shift = torch._foreach_mul(vector, steps)
            above, below = _gradient_at(shift, x, y), _gradient_at(torch._foreach_neg(shift), x, y)
            found += torch._foreach_sub(above, below)
        return found

    def _gradient_at(shift: tuple[Tensor, ...] | list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        with torch.no_grad(), displaced(weights, list(shift)), torch.enable_grad():
            loss = risk.loss(risk.model(x), y) * len(y)
            return list(torch.autograd.grad(loss, weights, materialize_grads=True))

    what = f"differences {done + 1} to {done + len(vectors)}"
    flat = iter(risk.mean(parts, risk.piece(3 * risk.activation_bytes), what))
    return [[next(flat) for _ in weights] for _ in vectors]


def _scales(risk: Risk, radius: float, form: Form) -> tuple[list[Tensor], list[Tensor]]:
    """What each entry of a probe is multiplied by, and what the difference of gradients is divided by (float64)."""
    weights = [p.detach() for p in risk.weights]
    if form == "2020 as evaluated":
        return [torch.full_like(w, radius) for w in weights], [2 * radius * w.double().abs() + 1e-8 for w in weights]
    if form == "2019 as evaluated":
        return [torch.full_like(w, radius) for w in weights], [torch.full_like(w, 2 * radius).double() for w in weights]
    overall = _root_mean_square(torch.cat([w.flatten().double() for w in weights])) or 1.0
    scales = []
    for w in weights:
        typical = _root_mean_square(w.double()) or overall
        if form == "2019":
            scales.append(torch.full_like(w, typical))
        else:
            scales.append(torch.where(w == 0, torch.full_like(w, typical), w.abs()))
    steps = [radius * a for a in scales]
    return steps, [2 * step.double() for step in steps]


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _estimate(risk: Risk, mean: list[Tensor], spread: list[Tensor], done: int, seed: int, form: Form) -> Diagonal:
    notes = {
        "2019": (),
        "2019 as evaluated": (),
        "2020": ("Entries below zero are set to zero; the formula is our reading of the ICML 2020 paper.",),
        "2020 as evaluated": ("An estimate of H_ii / |w_i|, not of H_ii; entries below zero are set to zero.",),
    }
    values, errors = {}, {}
    for name, p, m, s in zip(risk.names, risk.weights, mean, spread, strict=True):
        values[name] = (m if form.startswith("2019") else m.clamp(min=0)).to(p.dtype, copy=True)
        error = (s / (done * (done - 1))).sqrt() if done > 1 else torch.full_like(s, math.nan)
        errors[name] = error.to(p.dtype)
    return Diagonal(
        values=values,
        stderr=errors,
        samples=done,
        exact=False,
        seed=seed,
        method=f"differences, {form}",
        notes=notes[form],
    )
