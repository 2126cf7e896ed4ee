"""The two-dimensional toy problem of Kim et al. 2022, section 3.1: a Gaussian's mean and standard deviation.

    l(mu, sigma) = -log sum_i alpha_i exp(-E_i / beta_i^2),  E_i = KL(N(mu, sigma^2) || N(m_i, s_i^2))   (eq. 15)

With F = diag(1/sigma^2, 2/sigma^2) for the Fisher information. The printed minima follow exactly if the KL is taken
without its constant -1/2; taken literally they are elsewhere. The optimizers' own geometry draws the perturbations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fsbench.geometries import ADAPTIVE, EUCLIDEAN, INVERSE_FISHER_ADDITIVE
from fsbench.optim.ellipsoid import perturbation

# (m, s, alpha, beta) of the two components.
COMPONENTS = ((20.0, 30.0, 0.7, 1.8), (-20.0, 10.0, 0.3, 1.2))
# What the paper leaves open.
LEARNING_RATE = 300.0


@dataclass(frozen=True)
class Minimum:
    """Where it is, the loss there, and the trace of the Hessian."""

    theta: Tensor
    loss: float
    trace: float


@dataclass(frozen=True)
class Iterate:
    """theta, the perturbation eps from it, and the update that follows."""

    theta: Tensor
    eps: Tensor
    update: Tensor


def loss(theta: Tensor, literal: bool = False) -> Tensor:
    """l of theta (..., 2); `literal` keeps the constant -1/2 of the KL divergence."""
    mu, sigma = theta.unbind(-1)
    terms = []
    for m, s, alpha, beta in COMPONENTS:
        divergence = torch.log(s / sigma) + (sigma**2 + (mu - m) ** 2) / (2 * s**2) - (0.5 if literal else 0.0)
        terms.append(torch.log(torch.as_tensor(alpha, dtype=theta.dtype)) - divergence / beta**2)
    return -torch.logsumexp(torch.stack(terms), 0)


def gradient(theta: Tensor, literal: bool = False) -> Tensor:
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        (found,) = torch.autograd.grad(loss(theta, literal), theta)
    return found


GEOMETRIES = {"sam": EUCLIDEAN, "asam": ADAPTIVE, "fsam": INVERSE_FISHER_ADDITIVE}


def inverse_metric(method: str, theta: Tensor) -> list[Tensor] | None:
    """D of a method's neighbourhood eps' D^-1 eps <= rho^2 at theta: 1, (mu^2, sigma^2), or F^-1 in closed form."""
    root_of_fisher = torch.tensor([1.0, 2.0], dtype=theta.dtype).sqrt() / theta[1]
    return GEOMETRIES[method].inverse_metric([theta], [root_of_fisher], ["weight"], [0.0])


def trajectory(method: str, start: tuple[float, float], rho: float, steps: int) -> list[Iterate]:
    """theta <- theta - lr grad l(theta + eps*); ends early where sigma + eps is no standard deviation any more."""
    theta = torch.tensor(start, dtype=torch.float64)
    path: list[Iterate] = []
    for _ in range(steps):
        (eps,), _ = perturbation([gradient(theta)], inverse_metric(method, theta), [rho])
        if float((theta + eps)[1]) <= 0:
            break
        update = -LEARNING_RATE * gradient(theta + eps)
        if float((theta + update)[1]) <= 0:
            break
        path.append(Iterate(theta, eps, update))
        theta = theta + update
    return path


def minimum_from(theta: Tensor, literal: bool = False) -> Minimum:
    """Where plain gradient descent from `theta` ends, polished by Newton steps."""
    for _ in range(20_000):
        step = 30.0 * gradient(theta, literal)
        theta = theta - step
        if float(step.norm()) < 1e-6:
            break
    hessian = torch.autograd.functional.hessian
    for _ in range(5):
        theta = theta - torch.linalg.solve(hessian(lambda t: loss(t, literal), theta), gradient(theta, literal))
    return Minimum(theta, float(loss(theta, literal)), float(hessian(lambda t: loss(t, literal), theta).trace()))


def minima(literal: bool = False) -> dict[str, Minimum]:
    """The flat and the sharp one."""
    return {
        name: minimum_from(torch.tensor(near, dtype=torch.float64), literal)
        for name, near in (("flat", (20.0, 30.0)), ("sharp", (-18.0, 12.0)))
    }


def basin(theta: Tensor) -> str:
    """`flat` or `sharp`: by plain gradient descent, since at constant rho the methods may end in cycles."""
    found, known = minimum_from(theta), minima()
    return min(known, key=lambda name: float((known[name].theta - found.theta).norm()))
