"""The diagonal of the Hessian of the loss: exact, the naive way, sampled, and by the two published approximations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fsbench.optim.perturbed_weights import perturbed
from fsbench.sharpness.derivatives.hessian_operator import (
    GRAPHS,
    HessianOperator,
    signs,
    summed_gradient,
    twice_differentiable,
)
from fsbench.sharpness.derivatives.logit_gradients import squared_gradients
from fsbench.sharpness.derivatives.logit_hessian import factor_count, factors, gauss_newton_notes
from fsbench.sharpness.estimate import Diagonal
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.xdiag import xdiag

Form = Literal["2019", "2020", "2019 as evaluated", "2020 as evaluated"]

# Where a ReLU switches between the two points, the jump of the gradient enters divided by r: rarely, but the larger
# for a small r. Measured on a ReLU network the error falls with a growing r far beyond what rounding asks for.
RADIUS = 1e-2
# In the code that Ibayashi et al. 2021 evaluated both forms with.
EVALUATED_RADIUS = 1e-5

_NOTES: dict[Form, tuple[str, ...]] = {
    "2020": ("Entries below zero are set to zero; the formula is our reading of the ICML 2020 paper.",),
    "2020 as evaluated": ("An estimate of H_ii / |w_i|, not of H_ii; entries below zero are set to zero.",),
}


def hessian_diagonal(
    risk: Risk,
    method: Literal["exact", "baseline", "xdiag", "2019", "2020"] = "exact",
    *,
    probes: int = 100,
    seed: int = 0,
) -> Diagonal:
    """diag H, a tensor for each trained weight tensor.

    Args:
        method: `exact`: K backward passes, mean over examples of sum_l p_l (d o_l / dW)^2 - (d ln Z / dW)^2 for
            cross-entropy (Ibayashi et al. 2021, appendix H), diag of (do/dW)' (d2 loss / do do) (do/dW) for any loss
            on logits; the Hessian's under the conditions of `hessian_trace`, else Gauss-Newton's, with a warning.
            `baseline`: one derivative for each weight. `xdiag`: `probes` Hessian-vector products, for any network
            that is twice differentiable; unbiased, with a standard error for each entry. `2019`, `2020`: the two
            published approximations by differences of gradients (appendix G), `probes` of them from `seed`: the last
            of `difference_diagonals`.

    Raises:
        Refused: the output is not (n, K) (`exact`); an operation has no second derivative (`baseline`, `xdiag`).
        ValueError: an argument out of its range.

    Example:
        >>> hessian_diagonal(risk).values["0.weight"].round(decimals=4)
        tensor([[0.0000, 0.0000],
                [0.0858, 0.0225],
                [0.0858, 0.0225]], dtype=torch.float64)
    """
    if method == "baseline":
        return _baseline(risk)
    if method == "xdiag":
        return xdiag(risk, products=probes, seed=seed)
    if method in ("2019", "2020"):
        *_, (_, found) = difference_diagonals(risk, probes=probes, seed=seed, form=method)
        return found
    if method != "exact":
        raise ValueError(f"method={method}: must be one of exact, baseline, xdiag, 2019, 2020")
    notes = gauss_newton_notes(risk)

    def vectors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        return factors(risk.loss_fn, logits, labels)

    sums = squared_gradients(risk, vectors, factor_count(risk.loss_fn, risk.classes), "diagonal")
    return Diagonal(
        values={name: value / risk.examples for name, value in sums.items()},
        stderr=None,
        samples=risk.examples,
        exact=not notes,
        method="gauss-newton" if notes else "exact",
        notes=notes,
    )


def _baseline(risk: Risk) -> Diagonal:
    """H_ii = d/dw_i (dL / dw_i), the gradient with its graph and then one derivative of each entry of it.

    Exact for every network that is twice differentiable, at the cost of W backward passes over the data. Each
    derivative is taken with respect to the weight tensor that the entry is in, not to all of them.

    Source: what Ibayashi et al. 2021, section 3.1, compare with.
    """
    size = sum(p.numel() for p in risk.weights)
    with risk.bar("baseline diagonal", size * risk.examples, "derivative") as bar:

        def parts(x: Tensor, y: Tensor) -> list[Tensor]:
            found = []
            with twice_differentiable():
                for p, g in zip(risk.weights, summed_gradient(risk, x, y), strict=True):
                    entries = torch.zeros(p.numel(), dtype=p.dtype, device=p.device)
                    flat = g.flatten()
                    # Without a graph it is constant in w: of an unused weight, or of a loss linear in it.
                    for i in range(len(flat) if g.requires_grad else 0):
                        # Indexed: iterating over a tensor ties all its entries into one node of the graph.
                        (row,) = torch.autograd.grad(flat[i], p, retain_graph=True, materialize_grads=True)
                        entries[i] = row.flatten()[i]
                        bar.update(len(y))
                    found.append(entries.view_as(p))
            return found

        values = risk.mean(parts, risk.piece(GRAPHS * risk.activation_bytes))
    return Diagonal(dict(zip(risk.names, values, strict=True)), None, risk.examples, exact=True, method="baseline")


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

    Example:
        >>> [done for done, diagonal in difference_diagonals(risk, probes=5)]
        [1, 2, 4, 5]
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
    scales, denominators = _scales(weights, radius, form)
    fit = risk.piece(4 * operator.size * max(p.element_size() for p in weights))
    # Mean and summed squared deviations so far, updated probe by probe (Welford).
    mean = [torch.zeros_like(p, dtype=torch.float64) for p in weights]
    spread = [torch.zeros_like(m) for m in mean]
    done, goal = 0, 1
    while done < probes:
        vectors = []
        for _ in range(min(fit, goal - done, probes - done)):
            if form.startswith("2019"):
                drawn = torch.randn(operator.size, generator=generator, dtype=torch.float64)
            else:
                drawn = signs(operator.size, generator)
            vectors.append(operator.cut(drawn))
        for e, difference in zip(vectors, _differences(risk, vectors, scales, done), strict=True):
            done += 1
            for d in range(len(weights)):
                draw = (e[d] * difference[d]).double() / denominators[d]
                deviation = draw - mean[d]
                mean[d] += deviation / done
                spread[d] += deviation * (draw - mean[d])
        if done in (goal, probes):
            goal = 2 * done
            values, errors = {}, {}
            for name, p, m, s in zip(risk.names, weights, mean, spread, strict=True):
                values[name] = (m if form.startswith("2019") else m.clamp(min=0)).to(p.dtype, copy=True)
                error = (s / (done * (done - 1))).sqrt() if done > 1 else torch.full_like(s, math.nan)
                errors[name] = error.to(p.dtype)
            method, notes = f"differences, {form}", _NOTES.get(form, ())
            yield done, Diagonal(values, errors, done, exact=False, seed=seed, method=method, notes=notes)


def _differences(risk: Risk, vectors: list[list[Tensor]], scales: list[Tensor], done: int) -> list[list[Tensor]]:
    """grad L(w + scale * e) - grad L(w - scale * e) for each vector e."""
    weights = risk.weights

    def gradient_at(shift: Sequence[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        with torch.no_grad(), perturbed(weights, shift), torch.enable_grad():
            loss = risk.loss(risk.model(x), y) * len(y)
            return list(torch.autograd.grad(loss, weights, materialize_grads=True))

    def parts(x: Tensor, y: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for vector in vectors:
            shift = torch._foreach_mul(vector, scales)
            found += torch._foreach_sub(gradient_at(shift, x, y), gradient_at(torch._foreach_neg(shift), x, y))
        return found

    what = f"differences {done + 1} to {done + len(vectors)}"
    flat = iter(risk.mean(parts, risk.piece(3 * risk.activation_bytes), what))
    return [[next(flat) for _ in weights] for _ in vectors]


def _scales(weights: Sequence[Tensor], radius: float, form: Form) -> tuple[list[Tensor], list[Tensor]]:
    """r a, and what the difference of gradients is divided by (float64)."""
    weights = [w.detach() for w in weights]
    if form == "2020 as evaluated":
        return [torch.full_like(w, radius) for w in weights], [2 * radius * w.double().abs() + 1e-8 for w in weights]
    if form == "2019 as evaluated":
        scales = [torch.full_like(w, radius) for w in weights]
    else:
        overall = _root_mean_square(torch.cat([w.flatten().double() for w in weights])) or 1.0
        typical = [torch.full_like(w, _root_mean_square(w.double()) or overall) for w in weights]
        if form == "2020":
            typical = [torch.where(w == 0, t, w.abs()) for w, t in zip(weights, typical, strict=True)]
        scales = [radius * a for a in typical]
    return scales, [2 * scale.double() for scale in scales]


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
