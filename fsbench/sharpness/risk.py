"""The mean loss of a network over examples: what every measure is a function of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fsbench.errors import first_line
from fsbench.optim.processes import Processes
from fsbench.sharpness.derivatives.piecewise_linear import nonlinear_operations
from fsbench.sharpness.derivatives.weight_uses import WeightUses
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.loss_facts import Loss, ignored_label

Batch = tuple[Tensor, Tensor]

GIB = 2**30
# Of the probe. No usual length of an axis other than the batch's: a layer along such an axis would look like one
# along the batch.
_PROBED = 5


class Risk:
    """L(w) = (1/N) sum_i loss_fn(model(x_i), y_i), in eval mode, the same whenever it is evaluated.

    On a GPU torch by itself lets cuDNN round what goes into convolutions to TF32, and measures are then of that: set
    `torch.backends.cudnn.allow_tf32 = False`, as `fsbench sharpness` does.

    Args:
        model: in eval mode wherever a mode makes a difference. Its trained weights (`requires_grad`) are w.
        loss_fn: of the network's output (n, ...) and the labels (n, ...) to their mean, in nats for cross-entropy.
        batches: an iterable of (x, y) that can be iterated again (a list, a DataLoader) and always yields the same
            examples, in any order and in batches of any sizes; moved to the model's device. (Subsets that a seed
            draws are the same ones only if the order is.)
        memory: bytes that a measure may use for activations and gradients at a time. Batches are cut into
            pieces that fit, and cut further where a device runs out of memory.
        progress: show a bar on stderr while a pass over the data takes long.
        examples: N, where it is known beforehand; else the first pass over the data counts them.
        processes: those that share the examples, each with batches of its own part. All of them take every measure, and
            get the value of all examples.

    Raises:
        Refused: dropout or batch statistics are switched on, two evaluations differ, an example's output depends on
            the batch it is in, the loss is no mean over examples, nothing is trained, there are no examples; weights
            are complex, of half precision, sharded, or sparse (their gradients too).

    Example:
        >>> linear = [torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 3, bias=False)]
        >>> model = torch.nn.Sequential(linear[0], torch.nn.ReLU(), linear[1]).double()
        >>> for weight in model.parameters():
        ...     weight.data = torch.linspace(-1, 2, weight.numel(), dtype=torch.float64).reshape(weight.shape)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64), torch.tensor([2, 1, 2])
        >>> risk = Risk(model, torch.nn.functional.cross_entropy, [(x, y)])
        >>> round(risk.value(), 6)
        1.125661
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        batches: Iterable[Batch],
        *,
        memory: int = GIB,
        progress: bool = False,
        examples: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        if examples is not None and examples < 1:
            raise ValueError(f"examples={examples}: must be at least 1")
        self.model, self.loss_fn, self.batches = model, loss_fn, batches
        self.memory, self.progress = memory, progress
        self.processes = processes or Processes()
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        if not self.parameters:
            raise Refused("the network has no trained weights: requires_grad is False for all of them")
        self._refuse_weights()
        self._ignored = ignored_label(loss_fn)
        self._seen: Tensor | None = None
        self._examples = examples or 0  # until they are counted
        x, y = self._first_batch()
        # The first process's, so that all of them find out the same of the network.
        x = _varied(x)
        self.probe = self.over_processes([x if self.processes.rank == 0 else torch.zeros_like(x)])[0]
        output = self._tried_output()
        self._refuse_loss(output, y)
        self._output_axes = tuple(output.shape[1:])

    def like(
        self, *, model: nn.Module | None = None, loss_fn: Loss | None = None, batches: Iterable[Batch] | None = None
    ) -> Risk:
        """A risk with another model, loss or examples, and all else as here."""
        return Risk(
            self.model if model is None else model,
            self.loss_fn if loss_fn is None else loss_fn,
            self.batches if batches is None else batches,
            memory=self.memory,
            progress=self.progress,
            processes=self.processes,
        )

    @property
    def names(self) -> list[str]:
        """Of the trained weight tensors, in the order of `weights`."""
        return list(self.parameters)

    @property
    def weights(self) -> list[nn.Parameter]:
        return list(self.parameters.values())

    @property
    def examples(self) -> int:
        """N; handed in, known after any pass over the data, or counted in one of its own."""
        if not self._examples:
            for _ in self.pieces():
                pass
        return self._examples

    @property
    def classes(self) -> int:
        """K. Raises Refused where the network's output is not (n, K)."""
        if len(self._output_axes) != 1:
            raise Refused(f"the network's output has shape {(1, *self._output_axes)}; (examples, classes) is needed")
        return self._output_axes[0]

    @cached_property
    def activation_bytes(self) -> int:
        """The memory that autograd keeps of one example between the forward and the backward pass."""
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        own = {p.untyped_storage().data_ptr() for p in (*self.model.parameters(), *self.model.buffers())}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.model(self.probe[:1].clone())
        return max(1, sum(size for place, size in kept.items() if place not in own))

    @cached_property
    def weight_uses(self) -> WeightUses:
        """Which layers the weights belong to, and how they are used."""
        return WeightUses.of(self.model, self.parameters, self.probe)

    @cached_property
    def nonlinear_operations(self) -> list[str]:
        """The operations that keep the network from being piecewise linear in each weight; see `piecewise_linear`."""
        with torch.enable_grad():
            return nonlinear_operations(self.model(self.probe.clone()))

    def piece(self, bytes_per_example: float) -> int:
        """The number of examples that fit into `memory` at a time; at least one."""
        return max(1, int(self.memory / bytes_per_example))

    def pieces(self, size: int | None = None, what: str = "") -> Iterator[Batch]:
        """All examples as (x, y) of at most `size` examples each; `what` names the work on the progress bar.

        Raises Refused at the end where an earlier pass over the data met other examples.
        """
        count, seen = 0, torch.zeros(6, dtype=torch.float64)
        with self.bar(what, -(-self._examples // self.processes.count) or None, " example") as bar:
            for x, y in self._whole():
                step = size or max(1, len(y))
                for start in range(0, len(y), step):
                    yield x[start : start + step], y[start : start + step]
                    bar.update(min(step, len(y) - start))
                count += len(y)
                if len(y):
                    seen = seen + _fingerprint(x, y).cpu()
        self._end_of_pass(count, seen)

    def bar(self, what: str, total: int | None, unit: str) -> tqdm:
        """A bar on stderr for work that takes more than a moment; none where `what` is empty."""
        return tqdm(
            total=total, desc=what, unit=unit, delay=1.0, leave=False,
            disable=None if self.progress and what else True, dynamic_ncols=True,
        )  # fmt: skip

    def groups(self, size: int, what: str = "") -> Iterator[Batch]:
        """All examples in groups of exactly `size`, whatever the batches; the last may be smaller.

        Raises Refused where several processes share the examples, for groups would have to span them.
        """
        if self.processes.count > 1:
            raise Refused("groups of examples in the order of the data can't be had of several processes; use one")
        rest: tuple[Tensor, ...] = ()
        for piece in self.pieces(what=what):
            x, y = [torch.cat(parts) for parts in zip(rest, piece, strict=True)] if rest else piece
            whole = len(y) // size * size
            if whole:
                yield from zip(x[:whole].split(size), y[:whole].split(size), strict=True)
            rest = x[whole:], y[whole:]
        if rest and len(rest[1]):
            yield rest[0], rest[1]

    def sum(
        self, of: Callable[[Tensor, Tensor], Sequence[Tensor]], size: int | None = None, what: str = ""
    ) -> list[Tensor]:
        """sum_i over all examples of what `of(x, y)` gives for some of them, itself summed over those.

        A piece for which a device has too little memory is halved until it fits. Raises Refused where an earlier
        pass over the data met other examples.
        """
        total: list[Tensor] | None = None
        for x, y in self.pieces(size, what):
            part = _halving(of, x, y)
            if total is None:
                total = [p.clone() for p in part]
            else:
                # In place: the sums may be as large as the network.
                torch._foreach_add_(total, list(part))
        return self.over_processes(total) if total is not None else []

    def over_processes(self, sums: list[Tensor]) -> list[Tensor]:
        """Sums over this process's examples become, in place, those over all processes' examples."""
        self.processes.sum_(sums)
        return sums

    def of_all_processes(self, rows: Tensor) -> Tensor:
        """Of rows, one for each of this process's examples, those of all N: one process's after another's."""
        counts = torch.zeros(self.processes.count, dtype=torch.float64)
        counts[self.processes.rank] = len(rows)
        self.over_processes([counts])
        before, whole = int(counts[: self.processes.rank].sum()), rows.new_zeros(int(counts.sum()), *rows.shape[1:])
        whole[before : before + len(rows)] = rows
        return self.over_processes([whole])[0]

    def _end_of_pass(self, count: int, seen: Tensor) -> None:
        """Count the examples of all processes; refuse, on all of them, examples that change."""
        changed = self._seen is not None and not _alike(self._seen, seen)
        (told,) = self.over_processes([torch.tensor([count, changed], dtype=torch.float64)])
        self._examples = int(told[0])
        if self._seen is None:
            self._seen = seen
        if told[1] > 0:
            raise Refused(
                "batches yield other examples each time they are iterated; switch random augmentation (and whatever "
                "else draws or drops examples) off"
            )

    def mean(
        self, of: Callable[[Tensor, Tensor], Sequence[Tensor]], size: int | None = None, what: str = ""
    ) -> list[Tensor]:
        """`sum` / N."""
        return [total / self.examples for total in self.sum(of, size, what)]

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """`loss_fn`; cross-entropy in float64, since its derivative 1 - p has no digits left in float32 near p = 1."""
        return self.loss_fn(output.double() if self._ignored is not None else output, y)

    def value(self) -> float:
        """L(w)."""

        def losses(x: Tensor, y: Tensor) -> list[Tensor]:
            return [self.loss(self.model(x), y).double() * len(y)]

        with torch.no_grad():
            (loss,) = self.mean(losses, self.piece(2 * self.activation_bytes), "loss")
        return float(loss)

    def gradient(self) -> tuple[float, list[Tensor]]:
        """L(w), and its gradient with a tensor for each of `weights` (zeros for unused ones)."""

        def parts(x: Tensor, y: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                loss = self.loss(self.model(x), y) * len(y)
                found = torch.autograd.grad(loss, self.weights, materialize_grads=True)
            return [loss.detach().double(), *found]

        loss, *gradient = self.mean(parts, self.piece(3 * self.activation_bytes), "gradient")
        return float(loss), gradient

    def _whole(self) -> Iterator[Batch]:
        self._refuse_train_mode()
        device = next(iter(self.parameters.values())).device
        for batch in self.batches:
            pair = isinstance(batch, tuple | list) and len(batch) == 2
            if not pair or not all(isinstance(part, Tensor) and part.dim() > 0 for part in batch):
                raise Refused("batches must yield pairs of tensors (x, y), examples along their first axis")
            x, y = batch
            if self._ignored is not None and not y.is_floating_point() and bool((y == self._ignored).any()):
                raise Refused(f"there are labels {self._ignored}, which cross-entropy passes over; leave them out")
            yield x.to(device), y.to(device)

    def _first_batch(self) -> Batch:
        if isinstance(self.batches, Iterator):
            raise Refused("batches can be iterated only once; hand in a list or a DataLoader, not a generator")
        first = next(((x, y) for x, y in self._whole() if len(y)), None)
        (without,) = self.over_processes([torch.tensor([first is None], dtype=torch.float64)])
        if first is None or without > 0:
            some = f" on {int(without)} of {self.processes.count} processes" if self.processes.count > 1 else ""
            raise Refused(f"batches hold no examples{some}")
        return first

    def _refuse_weights(self) -> None:
        for name, weight in self.parameters.items():
            if weight.dtype not in (torch.float32, torch.float64):
                real = "write them as pairs of real ones" if weight.is_complex() else "call model.float() first"
                raise Refused(f"{name} is of {weight.dtype}; measures are of float32 and float64 weights: {real}")
            if hasattr(weight, "device_mesh"):
                raise Refused(f"{name} is sharded; measures need the whole weights in every process")
            if weight.layout != torch.strided:
                raise Refused(f"{name} is sparse; measures need dense weights")
        for name, module in self.model.named_modules():
            if getattr(module, "sparse", False) is True:
                raise Refused(f"{name} ({type(module).__name__}) has sparse gradients; use sparse=False")

    def _refuse_train_mode(self) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
                raise Refused(
                    f"{name} ({type(module).__name__}) keeps no running statistics, so what the network says of one "
                    "example depends on the others in its batch"
                )
            if module.training and (
                isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._NormBase)
                and getattr(module, "p", 1) > 0
            ):
                raise Refused(f"{name} ({type(module).__name__}) is in train mode; call model.eval() first")

    @torch.no_grad()
    def _tried_output(self) -> Tensor:
        """Of the probe; Refused where the network's output is of no use, or not the examples' own."""
        x = self.probe
        given = x.clone()
        output = self.model(given)
        if not isinstance(output, Tensor):
            raise Refused(f"the network's output is a {type(output).__name__}, not a tensor: wrap it to give logits")
        if not torch.equal(given, x) and not x.isnan().any():
            raise Refused("the network changes its input in place; let its first operation make a copy")
        if not output.isfinite().all():
            raise Refused("the network's output is not finite")
        if not torch.equal(output, self.model(x.clone())):
            raise Refused("two evaluations of the network differ; dropout and other randomness have to be off")
        close = torch.finfo(output.dtype).eps ** 0.5 * float(output.abs().max())
        for some, together in ((x[:1].clone(), output[:1]), (x[-1:].clone(), output[-1:]), (x.flip(0), output.flip(0))):
            try:
                alone = self.model(some)
            except ValueError as failure:  # BatchNorm by the statistics of one example, say
                raise Refused(f"the network can't take an example by itself: {first_line(failure)}") from failure
            if alone.shape != together.shape or not torch.allclose(alone, together, rtol=0, atol=close):
                raise Refused("what the network says of one example depends on the others in its batch")
        return output

    def _refuse_loss(self, output: Tensor, labels: Tensor) -> None:
        """Tried out on outputs and labels that differ; a weight of some class would only show where that is met."""
        y = labels[: len(output)]
        if labels.dim() == 1 and not labels.is_floating_point() and output.dim() == 2:
            # Every class, and one twice.
            y = torch.arange(min(output.shape[1], 16), device=output.device)
            y = torch.cat([y, y[:1]]).to(labels.dtype)
            generator = torch.Generator().manual_seed(0)
            output = torch.randn(len(y), output.shape[1], generator=generator, dtype=torch.float64).to(output)
        else:
            output = output[: len(y)]
        with torch.enable_grad():
            # Weight decay inside the loss, say: seen by derivatives of L, but not by those that begin at the logits.
            together = self.loss_fn(output, y)
        self.loss_has_weights = together.requires_grad
        with torch.no_grad():
            apart = torch.stack([self.loss_fn(output[i : i + 1], y[i : i + 1]) for i in range(len(y))]).mean()
        tolerance = torch.finfo(output.dtype).eps ** 0.5
        if together.dim() > 0 or not torch.allclose(together.detach(), apart, rtol=tolerance, atol=tolerance):
            raise Refused("loss_fn is not the mean of the examples' own losses (class weights, a sum, no reduction?)")


def norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all entries of all tensors, summed in float64."""
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def _halving(of: Callable[[Tensor, Tensor], Sequence[Tensor]], x: Tensor, y: Tensor) -> Sequence[Tensor]:
    try:
        return of(x, y)
    except torch.OutOfMemoryError:
        if len(y) == 1:
            raise
    half = len(y) // 2
    return torch._foreach_add(list(_halving(of, x[:half], y[:half])), list(_halving(of, x[half:], y[half:])))


def _varied(x: Tensor) -> Tensor:
    """The first examples of x (n, ...); where they are too few, the first one with noise (if it has floats) as well."""
    missing = _PROBED - len(x)
    if missing <= 0:
        return x[:_PROBED].clone()
    more = x[:1].repeat(missing, *(1 for _ in x.shape[1:]))
    if x.is_floating_point():
        noise = torch.randn(more.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        more = more + noise.to(more) * (x[:1].double().pow(2).mean().sqrt().to(more) + torch.finfo(x.dtype).eps)
    return torch.cat([x, more])


def _fingerprint(x: Tensor, y: Tensor) -> Tensor:
    """(n, sum p, sum p^2, sum q, sum q^2, sum p q) over n examples, (6,) in float64.

    p_i and q_i are fixed projections of x_i and y_i, in which the places of an image's pixels count. The sums are
    the same whatever the order and the batches; random augmentation changes them.
    """
    p, q = _projected(x), _projected(y)
    return torch.stack([torch.ones_like(p).sum(), p.sum(), p @ p, q.sum(), q @ q, p @ q])


def _alike(first: Tensor, second: Tensor) -> bool:
    """True where two sums of fingerprints differ by no more than rounding."""
    n, _, p2, _, q2, _ = first
    scale = torch.stack([n, (n * p2).sqrt(), p2, (n * q2).sqrt(), q2, (p2 * q2).sqrt()])
    return not bool(((first - second).abs() > 1e-6 * scale).any())


def _projected(values: Tensor) -> Tensor:
    """(n,): in the values' own precision, which is far finer than any change, and cheap beside a forward pass."""
    rows = values.reshape(len(values), -1)
    if not rows.is_floating_point():
        rows = rows.double()
    return (rows @ _places(rows.shape[1]).to(rows)).double()


@lru_cache(maxsize=16)
def _places(count: int) -> Tensor:
    """Different for every place, and never zero."""
    return torch.cos(torch.arange(count, dtype=torch.float64))
