"""J J' of subsets of the examples, J their gradients as rows, without ever holding J."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fsbench.sharpness.derivatives.layer_gradients import LayerGradients, OuterProducts
from fsbench.sharpness.derivatives.logit_gradients import logit_gradients, loss_gradients
from fsbench.sharpness.estimate import Estimate, Refused, standard_error
from fsbench.sharpness.risk import Batch, Risk

_COLUMNS = 2**21


@dataclass(frozen=True)
class Gram:
    """J J' = diag(lengths) cosines diag(lengths): of N' examples, (N',) and (N', N'), in float64.

    Kept apart because the gradients of one subset differ by many orders of magnitude.
    """

    lengths: Tensor
    cosines: Tensor

    def log_determinant(self) -> float:
        """ln det J J'; -inf where it is singular."""
        if float(self.eigenvalues[0]) <= 0 or bool((self.lengths == 0).any()):
            return float("-inf")
        return float(2 * self.lengths.log().sum() + self.eigenvalues.log().sum())

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Of the cosines, the smallest first."""
        return torch.linalg.eigvalsh(self.cosines)

    def dense(self) -> Tensor:
        return self.lengths[:, None] * self.cosines * self.lengths


def subset_grams(
    risk: Risk, subset_size: int, subsets: int, seed: int, what: str, logit_norm: float | None = None
) -> Iterator[Gram]:
    """J_t J_t' of `subsets` subsets of `subset_size` examples each, drawn without replacement (Jia & Su 2020, eq. 5).

    J_t: gradients of single examples' losses (true labels), not averaged, (N', W). Summed up tensor by tensor, in
    float64; rows of no more than `risk.memory` are held at a time.

    Raises:
        Refused: fewer examples than a subset has, or several processes share them.
        ValueError: an argument out of its range.
    """
    if subset_size < 1 or subsets < 1:
        name, value = ("subset_size", subset_size) if subset_size < 1 else ("subsets", subsets)
        raise ValueError(f"{name}={value}: must be at least 1")
    if logit_norm is not None and not logit_norm > 0:
        raise ValueError(f"logit_norm={logit_norm}: must be above 0")
    if risk.processes.count > 1:
        raise Refused("subsets are drawn from all examples, which no process has; use one process")
    if subset_size > risk.examples:
        raise Refused(f"subset_size={subset_size}: there are {risk.examples} examples only")
    with risk.bar(what, subsets, "subset") as bar:
        for x, y in _drawn(risk, subset_size, subsets, seed):
            yield _gram(risk, x, y, logit_norm)
            bar.update()


def mean_over_subsets(
    risk: Risk, of: Callable[[Gram], float], subset_size: int, subsets: int, seed: int, what: str,
    logit_norm: float | None = None,
) -> Estimate:  # fmt: skip
    """The mean of what `of` gives for each of these subsets; -inf, without a standard error, where one gives that."""
    values = [of(gram) for gram in subset_grams(risk, subset_size, subsets, seed, what, logit_norm)]
    finite = all(map(math.isfinite, values))
    return Estimate(
        value=math.fsum(values) / subsets if finite else -math.inf,
        stderr=standard_error(values) if finite else math.nan,
        samples=subsets,
        exact=False,
        seed=seed,
        method=f"{subsets} subsets of {subset_size}",
        degrees=subsets - 1,
    )


def _drawn(risk: Risk, size: int, subsets: int, seed: int) -> Iterator[Batch]:
    """The subsets, collected in as few passes over the data as memory allows."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.randperm(risk.examples, generator=generator)[:size].clone() for _ in range(subsets)]
    x = risk.probe[:1]
    together = max(1, int(risk.memory / 2 / (size * x.numel() * x.element_size())))
    for first in range(0, subsets, together):
        some = chosen[first : first + together]
        needed = torch.cat(some).unique()
        xs, ys, start = [], [], 0
        for x, y in risk.pieces():
            here = needed[(needed >= start) & (needed < start + len(y))] - start
            start += len(y)
            if len(here):
                xs.append(x[here.to(x.device)])
                ys.append(y[here.to(y.device)])
        x, y = torch.cat(xs), torch.cat(ys)
        for indices in some:
            place = torch.searchsorted(needed, indices).to(x.device)
            yield x[place], y[place]


def _gram(risk: Risk, x: Tensor, y: Tensor, logit_norm: float | None) -> Gram:
    vectors = loss_gradients(risk.loss_fn, power=1, logit_norm=logit_norm)
    ones = torch.ones(1, len(y), dtype=torch.float64, device=x.device)
    lengths = ones[0].clone()
    gram = torch.zeros(len(y), len(y), dtype=torch.float64, device=x.device)
    for names in _groups(risk, len(y)):
        rows: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in names}
        for piece in logit_gradients(risk, vectors, 1, "", examples=(x, y)):
            lengths[piece.rows] = piece.weighted(ones[:, piece.rows])[0]
            for name, gradients in piece.gradients:
                if name in rows:
                    rows[name].append(_row_factors(gradients))
        for parts in filter(None, rows.values()):
            factors = [torch.cat(part) for part in zip(*parts, strict=True)]
            if len(factors) == 2:
                a, b = (factor.double().transpose(0, 1) for factor in factors)
                gram += ((a @ a.mT) * (b @ b.mT)).sum(0)
                continue
            for block in factors[0].split(max(1, _COLUMNS // len(gram)), dim=1):
                block = block.double()
                gram.addmm_(block, block.t())
    norms = gram.diagonal().sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    return Gram(lengths * norms, gram / safe[:, None] / safe)


def _row_factors(gradients: LayerGradients) -> tuple[Tensor, ...]:
    """Rows a_i b_i' as a, (n, groups, I), and b, (n, groups, O), not multiplied out; else the rows, (n, entries)."""
    if isinstance(gradients, OuterProducts) and gradients.outputs.shape[-1] == 1:
        return gradients.inputs[..., 0], gradients.outputs[0, ..., 0]
    rows = gradients.dense()[0]
    return (rows.reshape(len(rows), -1),)


def _groups(risk: Risk, examples: int) -> Iterator[list[str]]:
    """The weight tensors in groups whose rows fit into memory together, so that most often one pass does."""
    uses, held = risk.weight_uses, 0
    group: list[str] = []
    for name in risk.names:
        if name in uses.unused:
            continue
        parameter = risk.parameters[name]
        entries = sum(parameter.shape) if name in uses.at_one_position else parameter.numel()
        size = examples * entries * parameter.element_size()
        if group and held + size > risk.memory / 2:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group
