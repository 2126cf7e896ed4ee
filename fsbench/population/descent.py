"""One step of many networks at once: the members' weights are stacked, and so are gradients and perturbations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fsbench.optim.descent import Descent
from fsbench.optim.ellipsoid import inverse_or_zero
from fsbench.population.base_optimizers import by_member, stacked, stacked_base

# Losses (M,) at stacked weights, each the mean over its member's mini-batch, and their gradients.
LossesAndGradients = Callable[[list[Tensor]], tuple[Tensor, list[Tensor]]]


class StackedDescent:
    """The steps that `members` would take one by one, taken together.

    eps_i = rho_i D_i g_i / sqrt(g_i' D_i g_i), the norm being over the tensors of member i alone. The members are
    optimizers of one class and base, with one parameter group each, of networks of the same shape. Their parameters
    become slices of the stack; what they differ in (lr, rho, eta, momentum, weight decay, betas, eps) is theirs, and
    schedulers act on them. Their state is theirs again after `give`. D is that of their geometry, which is mapped over
    the members.

    Raises:
        ValueError: the class does not say of itself that it is `stackable`, as the Fisher-trace regulariser's does not;
            or options make several passes for one member: m-sharpness, Fisher information of single examples.

    Attributes:
        weights: for each parameter a tensor (M, ...).
        perturbs: whether steps make a second pass.
        compare: while True, each step stores in `alignment` cosines and length ratios, (M,) each, between eps and
            SAM's; else that is None.
    """

    def __init__(self, members: Sequence[Descent]) -> None:
        self.members = list(members)
        self.method = self.members[0]
        self._refuse_unstackable()
        params = [member.param_groups[0]["params"] for member in self.members]
        self.base = stacked_base(self.members)
        self.weights = [stacked([p.detach() for p in same]) for same in zip(*params, strict=True)]
        for w, same in zip(self.weights, zip(*params, strict=True), strict=True):
            for p, own in zip(same, w, strict=True):
                p.data = own
        self.compare = False
        self.alignment: tuple[Tensor, Tensor] | None = None
        self._rho, self._eta = (
            self.base.numbers([group.get(key, 0.0) for group in self.base.groups]) for key in ("rho", "eta")
        )
        self._eta_by_member = [by_member(self._eta, w) for w in self.weights]
        self._names = list(self.method.names().values())
        self.natural = getattr(self.method, "natural", False)
        self.perturbs = self.method.geometry is not None and (self.natural or any(self._rho.tolist()))

    def _refuse_unstackable(self) -> None:
        for member in self.members:
            if not vars(type(member)).get("stackable", False):
                raise ValueError(
                    f"{member.name} can't be trained in a population: {type(member).__name__} does not say `stackable`"
                )
            if type(member) is not type(self.method) or member.geometry is not self.method.geometry:
                raise ValueError(f"{member.name} and {self.method.name} can't be trained in one population")
            for key, plain in (
                ("m", None), ("fisher", "batch"), ("perturbation", "global"), ("start", 0), ("stop", 1)
            ):  # fmt: skip
                if (value := getattr(member, key, plain)) != plain:
                    raise ValueError(f"{member.name} with {key}={value!r} can't be trained in a population")

    def give(self) -> None:
        """Hand the members the state of their optimizers."""
        self.base.give()

    def begin(self) -> None:
        """The host's part of a step: the device gets the rates of all members, where they are others than before."""
        self.base.begin()

    @torch.no_grad()
    def step(self, closure: LossesAndGradients) -> tuple[Tensor, Tensor]:
        """One update of each member from its own mini-batch, without a look at any value; `begin` comes before.

        Returns:
            The losses at w, before the update, and which members took the step, (M,) each: one whose gradient is not
            finite stays as it was. It is the caller who counts it.
        """
        self.alignment = None
        losses, gradients = closure(self.weights)
        finite = None
        if self.perturbs:
            gradients, finite = self._perturbed(closure, gradients)
        norm = norms_by_member(gradients)
        taken = norm.isfinite() if finite is None else norm.isfinite() & finite
        if (most := self.method.max_norm) is not None:
            shrink = (most / (norm + 1e-6)).clamp(max=1.0)
            gradients = [g * by_member(shrink, g) for g in gradients]
        self.base.step(self.weights, gradients, taken)
        return losses, taken

    def _perturbed(self, closure: LossesAndGradients, gradients: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The gradients at w + eps, and whose eps is finite."""
        axes = self._inverse_metric(gradients)
        direction, norm = directions(gradients, axes)
        eps = scaled_by_member(direction, norm, self._rho)
        if self.compare:
            self.alignment = alignments(eps, gradients, self._rho)
        _, perturbed = closure([w + e for w, e in zip(self.weights, eps, strict=True)])
        if self.natural and axes is not None:
            torch._foreach_mul_(perturbed, axes)
        return perturbed, norm.isfinite()

    def _inverse_metric(self, gradients: list[Tensor]) -> list[Tensor] | None:
        shape = self.method.geometry
        if shape is None or (axis := shape.axis) is None:
            return None
        if shape.fast is not None:
            return shape.fast(self.weights, gradients, self._names, self._eta_by_member, None)

        def axes(name: str, w: Tensor, g: Tensor) -> Tensor:
            return torch.vmap(lambda w, g, eta: axis(w, g, name, eta).expand_as(w))(w, g, self._eta)

        return list(map(axes, self._names, self.weights, gradients))


def norms_by_member(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of each member's tensors together, (M,)."""
    return torch.stack([torch.linalg.vector_norm(t.flatten(1), dim=1) for t in tensors]).norm(dim=0)


def inners_by_member(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of each member's tensors, (M,)."""
    return torch.stack([(x * y).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def directions(gradients: list[Tensor], inverse_metric: list[Tensor] | None) -> tuple[list[Tensor], Tensor]:
    """`ellipsoid.direction` of each member: D g, and sqrt(g' D g), (M,)."""
    if inverse_metric is None:
        return gradients, norms_by_member(gradients)
    found = list(torch._foreach_mul(inverse_metric, gradients))
    return found, inners_by_member(gradients, found).sqrt()


def scaled_by_member(direction: Sequence[Tensor], norm: Tensor, radii: Tensor) -> list[Tensor]:
    """`ellipsoid.scaled` of each member: radius direction / norm, 0 where the norm is."""
    factor = inverse_or_zero(norm) * radii
    return [d * by_member(factor, d) for d in direction]


def alignments(eps: list[Tensor], gradients: list[Tensor], radii: Tensor) -> tuple[Tensor, Tensor]:
    """`ellipsoid.alignment` of each member."""
    reference = scaled_by_member(gradients, norms_by_member(gradients), radii)
    norm, reference_norm = norms_by_member(eps), norms_by_member(reference)
    return (inners_by_member(eps, reference) / (norm * reference_norm)).clamp(-1, 1), norm / reference_norm
