"""The largest Gaussian noise on the weights that the training error bears, which PAC-Bayes bounds are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.optim.perturbed_weights import perturbed
from fsbench.sharpness.estimate import Estimate, Refused, standard_error
from fsbench.sharpness.noise import standard_normals
from fsbench.sharpness.risk import Risk

# The noise that magnitude-aware noise has at least, as in the paper.
LEAST = 1e-3
# Where the search begins, and the ends beyond which it gives up.
_START, _LOW, _HIGH = 2.0**-6, 2.0**-30, 2.0**14


def pacbayes_sigma(
    risk: Risk, *, magnitude_aware: bool = False, draws: int = 100, rise: float = 0.1, seed: int = 0
) -> Estimate:
    """The largest sigma with E err(w + eps) - err(w) <= `rise`, eps ~ N(0, sigma^2), err the share of wrong examples.

    `magnitude_aware`: eps_i ~ N(0, sigma^2 w_i^2 + 1e-6). A larger sigma is a flatter minimum; the paper's tables have
    1 / sigma^2, its flatness.

    Every sigma is tried with the same draws. Doubling or halving from 1/64 brackets the crossing, bisection narrows it
    to a factor of 1.125, and sigma is where the straight line between its ends meets `rise`. (Should the error
    cross it several times, it is one of these crossings.) The weights come back bit for bit.

    Args:
        draws: how many eps, at least 2; each is one evaluation of the network, for each of about ten sigmas.
        rise: of the error, between 0 and 1.
        seed: of the draws.

    Returns:
        stderr: that of the mean rise at sigma, divided by its slope. In details: "flatness", 1 / sigma^2; "lower" and
        "upper", the bracket; "error", err(w).

    Raises:
        Refused: the labels are no classes; the error does not rise that much, however large the noise; or it does with
            the least noise.
        ValueError: an argument out of its range.

    Source: Jiang et al. 2020, "Fantastic generalization measures and where to find them".

    Example:
        >>> print(pacbayes_sigma(risk))
        1.09375 ± 0.097
    """
    if draws < 2:
        raise ValueError(f"draws={draws}: must be at least 2")
    if not 0 < rise < 1:
        raise ValueError(f"rise={rise}: must lie between 0 and 1")
    _ = risk.classes
    error = _error(risk)

    def rises(sigma: float) -> Tensor:
        """Of every draw, (draws,)."""
        with torch.no_grad():
            scales = [
                (sigma * w).square().add(LEAST**2).sqrt() if magnitude_aware else torch.full_like(w, sigma)
                for w in risk.weights
            ]
        found = []
        for normals in standard_normals(risk, draws, seed, f"error with noise of {sigma:.3g}"):
            with torch.no_grad(), perturbed(risk.weights, torch._foreach_mul(scales, normals)):
                found.append(_error(risk) - error)
        return torch.tensor(found, dtype=torch.float64)

    sigma = _START
    at_sigma = rises(sigma)
    grows = bool(at_sigma.mean() <= rise)
    while True:
        before, at_before = sigma, at_sigma
        sigma = 2 * sigma if grows else sigma / 2
        if sigma > _HIGH:
            raise Refused(f"an error of {error:.3g} does not rise by {rise:g}, however large the noise")
        if sigma < _LOW:
            raise Refused(f"the error rises by more than {rise:g} with the least noise")
        at_sigma = rises(sigma)
        if bool(at_sigma.mean() <= rise) != grows:
            break
    ends = [(before, at_before), (sigma, at_sigma)]
    (low, at_low), (high, at_high) = ends if grows else ends[::-1]
    while high > 1.13 * low:
        middle = (low + high) / 2
        at_middle = rises(middle)
        if at_middle.mean() <= rise:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    slope = float((at_high - at_low).mean()) / (high - low)
    share = (rise - float(at_low.mean())) / float((at_high - at_low).mean())
    value = low + share * (high - low)
    return Estimate(
        value=value,
        stderr=standard_error(torch.lerp(at_low, at_high, share)) / slope,
        samples=draws,
        exact=False,
        seed=seed,
        method=f"bisection, {draws} draws",
        details={"flatness": value**-2, "lower": low, "upper": high, "error": error},
        degrees=draws - 1,
    )


def _error(risk: Risk) -> float:
    """The share of examples whose largest logit is not their label's."""

    def wrong(x: Tensor, y: Tensor) -> list[Tensor]:
        if y.dim() != 1 or y.is_floating_point():
            raise Refused("the labels are no classes, so there is no error rate")
        return [(risk.model(x).argmax(-1) != y).double().sum()]

    with torch.no_grad():
        (share,) = risk.mean(wrong, risk.piece(2 * risk.activation_bytes))
    return float(share)
