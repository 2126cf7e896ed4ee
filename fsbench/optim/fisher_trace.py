"""The Fisher-trace regulariser of Jia & Su (2020), algorithm 1."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fsbench.optim.descent import Closure, Descent, NonFiniteGradient, batch_size, check_not_negative, no_rows
from fsbench.optim.ellipsoid import gradients_of
from fsbench.optim.perturbed_weights import PerturbedWeights
from fsbench.optim.random_replay import RandomReplay
from fsbench.optim.running_statistics import kept_buffers, mixes_examples, unmoved


class FisherTrace(Descent):
    """Descend along grad L(B, w) + beta (1/M) sum_i [grad L(B_i, w) - grad L(B_i, w - alpha g_i)] (jia2020, eq. 7).

    B_1 ... B_M are contiguous sub-batches of equal size and g_i = grad L(B_i, w), held constant; g_i is
    free of weight decay, which the base optimizer adds at w. For a small alpha the penalty
    R = (1/M) sum_i [L(B_i, w) - L(B_i, w - alpha g_i)] is alpha/M sum_i ||g_i||^2, the sub-batch estimate
    of the trace of the Fisher information. Because g_i is held constant, what is added is half of that
    penalty's full gradient.

    Where M does not divide the batch, sub-batches differ by one example and 1/M becomes their share n_i/N.
    Dropout draws the same mask at w and at w - alpha g_i, and buffers (spectral norm's vectors) start out the same;
    else the difference would be theirs, not the curvature.

    The difference is about alpha H g_i, small beside the two gradients, which are rounded to eps ||g_i|| at least
    (float32: eps = 1.2e-7). In bfloat16, float16 and TF32 nothing of it is left: with the operands of convolutions
    rounded to 10 bits it is off by more than its own length, while R looks right. So weights and passes are float32 or
    float64; on a GPU set `torch.backends.cudnn.allow_tf32 = False`, else a warning says so. Near a fitted minimum
    float32 leaves few digits too, or none; `compare` shows how many, and a larger alpha leaves more.

    A step is three passes over the batch: the full batch at w, the sub-batches at w and at w - alpha g_i. It is
    two, grad L(B) being the mean of the g_i, where `model` is handed in, mixes no examples (has no buffers), and
    `step(closure, size=N)` tells the batch size. Without the size sub-batch i is rows i, i + M, i + 2M, ...

    BatchNorm: sub-batches use their own statistics, so that the mean of the g_i is not grad L(B). `full_batch`
    says what stands for it: "own", the gradient of the full batch under the full batch's statistics, as in
    algorithm 1; running statistics move in that pass only. Or "mean", the mean of the g_i, in two passes: the loss
    that is descended along, and reported, is the mean of the sub-batches' losses under their own statistics (what is
    known as ghost batch normalisation), and running statistics move once for each sub-batch at w.

    Args:
        alpha: finite-difference step, > 0 (paper: 1e-4).
        beta: strength, >= 0; 0 is the base optimizer.
        sub_batches: M (paper: 8).
        full_batch: "own" or "mean", as above; they are one for networks that mix no examples.
        start: "first_drop": active once the learning rate has fallen below its peak, as in the paper
            (section 7.2.1; with a rate that falls in every step, from the second step on); "immediately": always.
        max_norm, model: as for `Descent`.

    Attributes:
        penalty: R of the last step that computed it, else None.
        compare: while True, each step that is regularised stores `difference_digits`.
        difference_digits: log10(||d|| / ||e||), from 0 to -log10 eps: about how many decimal digits are right of the
            difference d = g_1 - grad L(B_1, w - alpha g_1). e is the rounding of its second term: by how much that
            changes where the weights are multiplied by 1 + eps. It takes three passes over B_1 that leave nothing else
            behind. (Near a minimum e is far above eps ||g_1||, for the gradient of the loss at the logits is rounded
            to eps, not to eps times itself.) None in steps that do not compare.

    Example:
        With the gradient w of both sub-batches the penalty's is alpha H g = alpha w: w - lr (1 + beta alpha) w.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> def closure(rows=None):
        ...     loss = w.square().sum() / 2
        ...     loss.backward()
        ...     return loss.detach()
        >>> options = {"alpha": 0.01, "beta": 10.0, "sub_batches": 2, "start": "immediately"}
        >>> optimizer = FisherTrace([w], torch.optim.SGD, lr=0.1, **options)
        >>> optimizer.step(closure, size=8), w.data
        (tensor(12.5000), tensor([2.6700, 3.5600]))
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        alpha: float = 1e-4,
        beta: float = 10.0,
        sub_batches: int = 8,
        full_batch: str = "own",
        start: str = "first_drop",
        **options: Any,
    ) -> None:
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be a finite number > 0, got {alpha}")
        check_not_negative(beta=beta)
        if sub_batches < 1:
            raise ValueError(f"sub_batches must be >= 1, got {sub_batches}")
        if full_batch not in ("own", "mean"):
            raise ValueError(f"full_batch must be 'own' or 'mean', got {full_batch!r}")
        if start not in ("first_drop", "immediately"):
            raise ValueError(f"start must be 'first_drop' or 'immediately', got {start!r}")
        self.alpha, self.beta, self.parts, self.start = alpha, beta, sub_batches, start
        self.full_batch = full_batch
        self.penalty: Tensor | None = None
        self.compare = False
        self.difference_digits: Tensor | None = None
        self._losses: list[Tensor] = []
        self._regularised = False
        self._rounding_said = False
        self._perturbed = PerturbedWeights()
        # The peak lives in the groups, so that state_dict carries it.
        super().__init__(params, base, defaults={"peak_lr": 0.0}, **options)
        self._separable = self.model is not None and not mixes_examples(self.model)

    @property
    def active(self) -> bool:
        """True where the next step is regularised."""
        return self.beta > 0 and (
            self.start == "immediately" or any(group["lr"] < group["peak_lr"] for group in self.param_groups)
        )

    def begin(self) -> tuple[bool, bool]:
        for group in self.param_groups:
            group["peak_lr"] = max(group["peak_lr"], float(group["lr"]))
        self._regularised = self.active
        if self._regularised and not self._rounding_said and rounds_products(self.device):
            self._rounding_said = True
            warnings.warn(
                "FisherTrace: TF32 rounds away the difference of gradients that it adds; set "
                "torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32 to False",
                stacklevel=3,
            )
        return self._regularised, self._regularised and self.compare

    def unfit(self) -> set[str]:
        return {"sharded"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group, loaded in zip(self.param_groups, state_dict["param_groups"], strict=True):
            if "peak_lr" in loaded:
                continue
            group["peak_lr"] = max(group["lr"], group.get("initial_lr", 0.0))
            if self.start == "first_drop" and "initial_lr" not in group:
                warnings.warn(
                    "the state does not tell the peak of the learning rate: a drop that it has behind it is not seen "
                    "unless the groups' peak_lr is set",
                    stacklevel=2,
                )

    def require_finite(self, norm: Tensor, loss: Tensor, rows: object = None, size: int | None = None) -> None:
        try:
            super().require_finite(norm, loss if self.penalty is None else loss + self.penalty, rows, size)
        except NonFiniteGradient:
            without = [bool(at_w.isnan()) for at_w in self._losses]
            if any(without) and not all(without) and norm.isfinite():
                raise ValueError(no_rows(f"of sub-batch {without.index(True)}", self._size)) from None
            raise NonFiniteGradient(loss) from None

    def descent_gradient(self, closure: Closure, size: int | None) -> Tensor:
        self.penalty = self.difference_digits = None
        self._losses, self._size = [], size
        if not self._regularised:
            return self.one_pass(closure)
        self.require_fit(p for group in self.param_groups for p in group["params"])
        if any(group.get("maximize") for group in self.param_groups):
            raise ValueError("FisherTrace descends; with maximize=True of the base negate the loss instead")

        if self.full_batch == "mean":
            batch_size(size, "FisherTrace with full_batch='mean'")
        if self.full_batch == "mean" or (self._separable and size is not None):
            loss, gradient, regulariser = self._over_sub_batches(closure, size)
        else:
            with kept_buffers(self.model) as start:
                loss = self.one_pass(closure)
            gradient = self.kept_gradients()
            with unmoved(self.model, start):
                _, _, regulariser = self._over_sub_batches(closure, size, means=False)
        self.put_back(gradient)
        shared = [p for p in gradient if p in regulariser]
        torch._foreach_add_([gradient[p] for p in shared], [regulariser[p] for p in shared], alpha=self.beta)
        if self.compare:
            self.difference_digits = self._digits(closure, size)
        return loss

    def _over_sub_batches(
        self, closure: Closure, size: int | None, means: bool = True
    ) -> tuple[Tensor, dict[Tensor, Tensor], dict[Tensor, Tensor]]:
        """Mean loss, sum of n_i/N g_i (if `means`), sum of n_i/N [g_i - gradient at w - alpha g_i]; stores R."""
        loss: Tensor | float = 0.0
        penalty: Tensor | float = 0.0
        gradient: dict[Tensor, Tensor] = {}
        regulariser: dict[Tensor, Tensor] = {}
        filled, self._losses = 0, []
        for rows, share in self._parts(size):
            replay = RandomReplay(self.device)
            with kept_buffers(self.model) as start:
                at_w = self.one_pass(closure, rows)
            if size is None and at_w.isnan():
                continue  # the mean over no rows: fewer examples than sub-batches
            filled += 1
            self._losses.append(at_w)
            own = self.kept_gradients()
            params, g = list(own), list(own.values())
            opposite = self._perturbed.at(params, g, [-self.alpha] * len(params))
            with unmoved(self.model, start), opposite, replay.again():
                below = self.one_pass(closure, rows)
                # Exact where both are near each other, so before either is scaled.
                difference = list(torch._foreach_sub(g, gradients_of(params)))
            _accumulate(regulariser, params, difference, share)
            if means:
                _accumulate(gradient, params, g, share)
            loss = loss + share * at_w
            penalty = penalty + share * (at_w - below)
        if size is None and 0 < filled < self.parts:
            penalty = penalty * (self.parts / filled)
            torch._foreach_mul_(list(regulariser.values()), self.parts / filled)
        self.penalty = torch.as_tensor(penalty)
        return torch.as_tensor(loss), gradient, regulariser

    def _digits(self, closure: Closure, size: int | None) -> Tensor:
        """`difference_digits`; all else is afterwards as before."""
        rows, _ = self._parts(size)[0]
        held = self.kept_gradients()
        replay = RandomReplay(self.device)
        with unmoved(self.model):
            with kept_buffers(self.model) as start:
                self.one_pass(closure, rows)
            at_w = self.kept_gradients()
            params, g = list(at_w), list(at_w.values())
            eps = torch.finfo(g[0].dtype).eps

            def below() -> list[Tensor]:
                with unmoved(self.model, start), replay.again():
                    self.one_pass(closure, rows)
                return list(self.kept_gradients().values())

            with self._perturbed.at(params, g, [-self.alpha] * len(params)):
                opposite = below()
                torch._foreach_mul_(params, 1 + eps)
                again = below()
        replay.rewind()
        self.put_back(held)
        torch._foreach_sub_(g, opposite)
        torch._foreach_sub_(again, opposite)
        difference, rounding = torch.nn.utils.get_total_norm(g), torch.nn.utils.get_total_norm(again)
        return (difference / rounding).nan_to_num(0.0).clamp(1, 1 / eps).log10()

    def _parts(self, size: int | None) -> list[tuple[slice, float]]:
        """The sub-batches, as equal as possible (fewer of fewer examples), with their shares n_i/N."""
        if size is None:
            return [(slice(i, None, self.parts), 1 / self.parts) for i in range(self.parts)]
        parts = min(self.parts, size)
        edges = [size * i // parts for i in range(parts + 1)]
        return [(slice(a, b), (b - a) / size) for a, b in pairwise(edges)]


def rounds_products(device: torch.device) -> bool:
    """True where torch may round the operands of convolutions or matrix products to TF32."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # lacking in torch's own annotations
    return device.type == "cuda" and "tf32" in (conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)


def _accumulate(total: dict[Tensor, Tensor], params: list[Tensor], values: list[Tensor], share: float) -> None:
    """total += share values, where a parameter that is new keeps its values' memory."""
    new = [(p, value) for p, value in zip(params, values, strict=True) if p not in total]
    known = [(total[p], value) for p, value in zip(params, values, strict=True) if p in total]
    if new:
        torch._foreach_mul_([value for _, value in new], share)
    if known:
        torch._foreach_add_([t for t, _ in known], [value for _, value in known], alpha=share)
    total.update(new)
