"""The mean loss of a network over examples: what every measure is a function of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fsbench.sharpness.piecewise_linear import nonlinear_operations
from fsbench.sharpness.refused import Refused
from fsbench.sharpness.same_data import alike, fingerprint
from fsbench.sharpness.weight_uses import WeightUses

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

GIB = 2**30


class Risk:
    """L(w) = (1/N) sum_i loss_fn(model(x_i), y_i), in eval mode, the same whenever it is evaluated.

    Args:
        model: in eval mode wherever a mode makes a difference. Its trained weights (`requires_grad`) are w.
        loss_fn: of the network's output (n, ...) and the labels (n, ...) to their mean, in nats for cross-entropy.
        batches: an iterable of (x, y) that can be iterated again (a list, a DataLoader) and always yields the same
            examples, in any order and in batches of any sizes; moved to the model's device. (Subsets that a seed
            draws are the same ones only if the order is.)
        memory: bytes that a measure may use for activations and gradients at a time. Batches are cut into
            pieces that fit, and cut further where a device runs out of memory.
        progress: show a bar on stderr while a pass over the data takes long.

    Raises:
        Refused: dropout or batch statistics are switched on, two evaluations differ, an example's output depends on
            the batch it is in, the loss is no mean over examples, nothing is trained, there are no examples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        batches: Iterable[Batch],
        *,
        memory: int = GIB,
        progress: bool = False,
    ) -> None:
        self.model, self.loss_fn, self.batches = model, loss_fn, batches
        self.memory, self.progress = memory, progress
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        if not self.parameters:
            raise Refused("the network has no trained weights: requires_grad is False for all of them")
        self._refuse_train_mode()
        x, y = self._first_batch()
        self._refuse_changing(x[:4], y[:4], y)
        self._seen: Tensor | None = None
        self._examples: int | None = None
        self.sample: Batch = x[:1], y[:1]

    @property
    def names(self) -> list[str]:
        """Of the trained weight tensors, in the order of `weights`."""
        return list(self.parameters)

    @property
    def weights(self) -> list[nn.Parameter]:
        return list(self.parameters.values())

    @property
    def examples(self) -> int:
        """N; known after any pass over the data, else counted in one of its own."""
        if self._examples is None:
            for _ in self.pieces():
                pass
        return self._examples

    @cached_property
    def classes(self) -> int:
        """K. Raises Refused where the network's output is not (n, K)."""
        with torch.no_grad():
            shape = tuple(self.model(self.sample[0]).shape)
        if len(shape) != 2:
            raise Refused(f"the network's output has shape {shape}; (examples, classes) is needed")
        return shape[1]

    @cached_property
    def activation_bytes(self) -> int:
        """What autograd keeps of one example between the forward and the backward pass."""
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        own = {p.untyped_storage().data_ptr() for p in (*self.model.parameters(), *self.model.buffers())}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.model(self.sample[0])
        return max(1, sum(size for place, size in kept.items() if place not in own))

    @cached_property
    def weight_uses(self) -> WeightUses:
        """Which layers the weights belong to, and how they are used."""
        return WeightUses.of(self.model, self.parameters, self.sample[0])

    @cached_property
    def nonlinear_operations(self) -> list[str]:
        """What keeps the network from being piecewise linear in each weight; see `piecewise_linear`."""
        with torch.enable_grad():
            return nonlinear_operations(self.model(self.sample[0]))

    def piece(self, bytes_per_example: float) -> int:
        """How many examples fit into `memory` at a time; at least one."""
        return max(1, int(self.memory / bytes_per_example))

    def pieces(self, size: int | None = None, what: str = "") -> Iterator[Batch]:
        """All examples as (x, y) of at most `size` examples each; `what` names the work on the progress bar."""
        count = 0
        with self._bar(what) as bar:
            for x, y in self._whole():
                step = size or len(y)
                for start in range(0, len(y), step):
                    yield x[start : start + step], y[start : start + step]
                    if bar is not None:
                        bar.update(min(step, len(y) - start))
                count += len(y)
        self._examples = count

    def groups(self, size: int, what: str = "") -> Iterator[Batch]:
        """All examples in groups of exactly `size`, whatever the batches; the last may be smaller."""
        xs, ys, held = [], [], 0
        for x, y in self.pieces(what=what):
            while len(y):
                missing = size - held
                xs.append(x[:missing])
                ys.append(y[:missing])
                held += len(ys[-1])
                x, y = x[missing:], y[missing:]
                if held == size:
                    yield torch.cat(xs), torch.cat(ys)
                    xs, ys, held = [], [], 0
        if held:
            yield torch.cat(xs), torch.cat(ys)

    def sum(
        self, of: Callable[[Tensor, Tensor], Sequence[Tensor]], size: int | None = None, what: str = ""
    ) -> list[Tensor]:
        """sum_i over all examples of what `of(x, y)` gives for some of them, itself summed over those.

        A piece for which a device has too little memory is halved until it fits. Raises Refused where an earlier
        pass over the data met other examples.
        """

        def parts(x: Tensor, y: Tensor) -> list[Tensor]:
            return [*of(x, y), fingerprint(x, y)]

        total: list[Tensor] | None = None
        for x, y in self.pieces(size, what):
            part = _halving(parts, x, y)
            if total is None:
                total = [p.clone() for p in part]
            else:
                # In place: the sums may be as large as the network.
                torch._foreach_add_(total, list(part))
        *sums, seen = total or [torch.zeros(6, dtype=torch.float64)]
        self._refuse_other_examples(seen)
        return sums

    def _refuse_other_examples(self, seen: Tensor) -> None:
        if self._seen is None:
            self._seen = seen
        elif not alike(self._seen, seen):
            raise Refused(
                "batches yield other examples each time they are iterated; switch random augmentation (and whatever "
                "else draws or drops examples) off"
            )

    def mean(
        self, of: Callable[[Tensor, Tensor], Sequence[Tensor]], size: int | None = None, what: str = ""
    ) -> list[Tensor]:
        """`sum` / N."""
        return [total / self.examples for total in self.sum(of, size, what)]

    def value(self) -> float:
        """L(w)."""

        def losses(x: Tensor, y: Tensor) -> list[Tensor]:
            return [self.loss_fn(self.model(x), y).double() * len(y)]

        with torch.no_grad():
            (loss,) = self.mean(losses, self.piece(2 * self.activation_bytes), "loss")
        return float(loss)

    def gradient(self) -> tuple[float, list[Tensor]]:
        """L(w), and its gradient with a tensor for each of `weights` (zeros for unused ones)."""

        def parts(x: Tensor, y: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                loss = self.loss_fn(self.model(x), y) * len(y)
                found = torch.autograd.grad(loss, self.weights, materialize_grads=True)
            return [loss.detach().double(), *found]

        loss, *gradient = self.mean(parts, self.piece(3 * self.activation_bytes), "gradient")
        return float(loss), gradient

    def _whole(self) -> Iterator[Batch]:
        self._refuse_train_mode()
        device = next(iter(self.parameters.values())).device
        for batch in self.batches:
            if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(map(_is_batched, batch)):
                raise Refused("batches must yield pairs of tensors (x, y), examples along their first axis")
            x, y = batch
            yield x.to(device), y.to(device)

    @contextmanager
    def _bar(self, what: str) -> Iterator[tqdm | None]:
        if not (self.progress and what):
            yield None
            return
        # Only what takes more than a moment is worth a bar.
        with tqdm(
            total=self._examples, desc=what, unit="example", disable=None, delay=1.0, leave=False, dynamic_ncols=True
        ) as bar:
            yield bar

    def _first_batch(self) -> Batch:
        first = iter(self.batches)
        if first is self.batches:
            raise Refused("batches can be iterated only once; hand in a list or a DataLoader, not a generator")
        for x, y in self._whole():
            if len(y):
                return x, y
        raise Refused("batches hold no examples")

    def _refuse_train_mode(self) -> None:
        for name, module in self.model.named_modules():
            if module.training and (
                isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._NormBase)
                and getattr(module, "p", 1) > 0
            ):
                raise Refused(f"{name} ({type(module).__name__}) is in train mode; call model.eval() first")

    @torch.no_grad()
    def _refuse_changing(self, x: Tensor, y: Tensor, labels: Tensor) -> None:
        output, again, alone = self.model(x), self.model(x), self.model(x[:1])
        if not isinstance(output, Tensor):
            raise Refused(
                f"the network's output is a {type(output).__name__}, not a tensor; wrap it to give its logits"
            )
        if not output.isfinite().all():
            raise Refused("the network's output is not finite")
        if not torch.equal(output, again):
            raise Refused("two evaluations of the network differ; dropout and other randomness have to be off")
        tolerance = torch.finfo(output.dtype).eps ** 0.5
        if not torch.allclose(output[:1], alone, rtol=tolerance, atol=tolerance * float(output.abs().max())):
            raise Refused("what the network says of one example depends on the others in its batch")
        if y.dim() == 1 and not y.is_floating_point():
            # A weight of some class would only show where that class is met.
            y = labels.unique()[:16]
            output = output[:1].expand(len(y), *output.shape[1:])
        with torch.enable_grad():
            # Weight decay inside the loss, say: seen by derivatives of L, but not by those that begin at the logits.
            together = self.loss_fn(output, y)
        self.loss_has_weights = together.requires_grad
        apart = torch.stack([self.loss_fn(output[i : i + 1], y[i : i + 1]) for i in range(len(y))]).mean()
        if together.dim() > 0 or not torch.allclose(together.detach(), apart, rtol=tolerance, atol=tolerance):
            raise Refused("loss_fn is not the mean of the examples' own losses (class weights, a sum, no reduction?)")


def _is_batched(part: object) -> bool:
    return isinstance(part, Tensor) and part.dim() > 0


def _halving(of: Callable[[Tensor, Tensor], Sequence[Tensor]], x: Tensor, y: Tensor) -> Sequence[Tensor]:
    try:
        return of(x, y)
    except torch.OutOfMemoryError:
        if len(y) == 1:
            raise
    half = len(y) // 2
    return torch._foreach_add(list(_halving(of, x[:half], y[:half])), list(_halving(of, x[half:], y[half:])))
