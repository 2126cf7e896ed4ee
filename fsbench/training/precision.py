"""The precisions of a run: fp32, tf32, and autocast to bf16 or fp16, with a loss scale for any number of passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fsbench.errors import UsageError

_TYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def arithmetic(precision: str, device: torch.device, repeatable: bool = False) -> Iterator[None]:
    """Set how torch multiplies inside; its switches, which are global, are afterwards as they were before.

    With every value of `trainer.precision`, weights, `.grad`, running statistics, and the optimizer's state and
    arithmetic are fp32. They differ in the forward and backward passes, those of training and of evaluation alike:

    - fp32: all of it has 23 bits of mantissa. torch by itself lets cuDNN's convolutions round to TF32; here neither
      they do nor matrix products.
    - tf32: what goes into convolutions and matrix products, forward and backward, is rounded to 10 bits, as many as
      fp16 has, and summed up in fp32; what lies in memory is fp32. It needs a GPU that has it.
    - bf16, fp16: torch's autocast. Convolutions and matrix products take and give 7 and 10 bits, so that activations
      have them too; what autocast leaves in fp32 is not rounded to TF32. fp16 scales the loss (see `Precision`).

    Measures of a trained network are taken in fp32 or fp64, in whatever precision it was trained; `repeatable` is for
    them.

    In training shapes repeat, so on a GPU cuDNN times its algorithms for each and takes the fastest
    (`cudnn.benchmark`): two runs may differ in rounding. It does not where the process asks for determinism
    (`torch.use_deterministic_algorithms`, `cudnn.deterministic`).

    Args:
        precision: fp32, tf32, bf16 or fp16.
        device: where networks run inside.
        repeatable: cuDNN's deterministic algorithms, chosen without timing.

    Raises:
        UsageError: tf32 where the device has none.
    """
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.is_tf32_supported()):
        here = "the CPU" if device.type == "cpu" else "a GPU without TF32"
        raise UsageError("trainer.precision", "tf32", f"needs a GPU with TF32, and the run is on {here}; use fp32")
    tf32 = precision == "tf32"
    cudnn = torch.backends.cudnn
    deterministic = repeatable or cudnn.deterministic
    benchmark = device.type == "cuda" and not deterministic and not torch.are_deterministic_algorithms_enabled()
    # These switches set the newer `fp32_precision` ones too. The other way round torch.compile, which reads both, finds
    # them at odds and fails.
    before = torch.get_float32_matmul_precision()
    with cudnn.flags(cudnn.enabled, benchmark, cudnn.benchmark_limit, deterministic, allow_tf32=tf32):
        try:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def arithmetic_in_force() -> dict[str, bool]:
    """The switches that `arithmetic` sets, as they are."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "cudnn_tf32": cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]  # not in the stubs
        "matmul_tf32": matmul.fp32_precision == "tf32",
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
    }


class Precision:
    """Autocast and, for fp16, a dynamic loss scale; `arithmetic` says what the names mean.

    Every pass scales its loss and divides its gradients by the same power of two, so what reaches `.grad`
    is the true gradient in every pass and nothing needs unscaling later. A step skipped for a non-finite
    gradient halves the scale; `growth_interval` steps without one double it (Micikevicius et al. 2018).
    """

    growth_interval = 2000

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.dtype = _TYPES[name]
        self.device = device
        self.scale = 2.0**16 if name == "fp16" else 1.0
        self.good_steps = 0

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)

    @contextmanager
    def scaled(self, parameters: Sequence[Tensor]) -> Iterator[float]:
        """Yield the factor for losses inside; gradients are the true ones on entry and on leaving."""
        self._multiply(parameters, self.scale)
        yield self.scale
        self._multiply(parameters, 1 / self.scale)

    def _multiply(self, parameters: Sequence[Tensor], factor: float) -> None:
        if factor != 1 and (gradients := [p.grad for p in parameters if p.grad is not None]):
            torch._foreach_mul_(gradients, factor)

    def after_step(self, skipped: bool) -> None:
        if self.dtype != torch.float16:
            return
        self.good_steps = 0 if skipped else self.good_steps + 1
        if skipped:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self.good_steps = state["scale"], int(state["good_steps"])
